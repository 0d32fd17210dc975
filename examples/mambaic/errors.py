"""Errors of the example, in addition to those of ssmctx."""

from ssmctx.errors import SsmctxError


class DataError(SsmctxError, ValueError):
    """An image or a folder of images cannot be used."""


class MissingPackageError(SsmctxError, ImportError):
    """A package of the extra `ssmctx[examples]` is not installed."""


class TrainingError(SsmctxError, RuntimeError):
    """Training cannot continue."""


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, by Ctrl-C or a signal, and has written its checkpoint.

    A KeyboardInterrupt, so that what runs several trainings stops as a whole.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class CurveError(SsmctxError, ValueError):
    """A rate-distortion curve cannot be read, or cannot be compared with another."""


class EvaluationError(SsmctxError, RuntimeError):
    """An evaluation cannot continue."""
