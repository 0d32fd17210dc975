"""Errors of the example, beside those of ssmctx."""

from ssmctx.errors import SsmctxError


class DataError(SsmctxError, ValueError):
    """A picture or a folder of pictures cannot be used."""


class TrainingError(SsmctxError, RuntimeError):
    """Training cannot go on."""


class CurveError(SsmctxError, ValueError):
    """A rate-distortion curve cannot be read, or cannot be compared with another."""


class EvaluationError(SsmctxError, RuntimeError):
    """An evaluation cannot go on."""
