"""Errors of the example, beside those of ssmctx."""

from ssmctx.errors import SsmctxError


class DataError(SsmctxError, ValueError):
    """A picture or a folder of pictures cannot be used."""


class TrainingError(SsmctxError, RuntimeError):
    """Training cannot go on."""
