"""Every error that ssmctx raises on purpose; catch `SsmctxError` for all of them."""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BackendUnavailableError",
    "CheckpointError",
    "CorruptStreamError",
    "DecodeMismatchError",
    "DuplicateNameError",
    "ModelMismatchError",
    "NonFiniteError",
    "NotUpdatedError",
    "ShapeError",
    "SsmctxError",
    "StreamError",
    "UnknownNameError",
]


class SsmctxError(Exception):
    """Base class of the errors of this library."""


class ArgumentError(SsmctxError, ValueError):
    """An argument has an invalid value."""


class ShapeError(ArgumentError):
    """A tensor has another shape than the callee needs."""


class NonFiniteError(ArgumentError):
    """A tensor holds NaN or an infinity where finite numbers are needed."""


class DuplicateNameError(SsmctxError, ValueError):
    """A name is registered already."""


class UnknownNameError(SsmctxError, LookupError):
    """No component is registered under this name."""


class BackendUnavailableError(SsmctxError, RuntimeError):
    """A scan backend or a coder that was requested by name cannot run here."""


class CheckpointError(SsmctxError, ValueError):
    """A checkpoint cannot be read, or is of another model."""


class NotUpdatedError(SsmctxError, RuntimeError):
    """The coding tables were not built: call `update()` first."""


class StreamError(SsmctxError, ValueError):
    """A stream or file cannot be decoded."""


class CorruptStreamError(StreamError):
    """A stream or file is truncated, damaged or of another format."""


class DecodeMismatchError(StreamError):
    """A stream decodes to other symbols than were encoded: damage, or numbers that drift beyond the guard band."""


class ModelMismatchError(StreamError):
    """A file was written with another model than the one that reads it."""
