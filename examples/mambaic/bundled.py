"""The bundled checkpoints."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from mambaic.checkpoint import load_model
from mambaic.codec import MambaIC
from ssmctx.errors import ArgumentError, CheckpointError

FOLDER = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class Bundled:
    """A checkpoint: name of its file in `FOLDER`, and the SHA-256 of that."""

    file: str
    sha256: str


BUNDLED = {
    "base": Bundled("base-mse.pt", "fbe96cdd4fbdfc40c5274822faa1c1a445167d39bea5c639d68b474f1a27b814"),
    "tiny": Bundled("tiny-mse-0.0035.pt", "e9d2316edc5562293518e114067aa95a7ee8e7cff47a64b837b4f600d19fd026"),
}
"""By name; the first is the default. A new one also needs a function below, and a line in pyproject.toml for
`ssmctx.load`."""

DEFAULT = next(iter(BUNDLED))


def bundled_path(name: str) -> Path:
    """Where the file of a checkpoint is.

    Raises:
        ArgumentError: no such checkpoint.
    """
    if name not in BUNDLED:
        raise ArgumentError(f"no bundled checkpoint {name!r}; there are {', '.join(BUNDLED)}")
    return FOLDER / BUNDLED[name].file


def load_bundled(name: str, device: str = "cpu") -> MambaIC:
    """The model of a bundled checkpoint, in evaluation mode and ready to code.

    Raises:
        ArgumentError: no such checkpoint.
        CheckpointError: its file is missing, or not the one that was published.
    """
    path = bundled_path(name)
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != BUNDLED[name].sha256:
        raise CheckpointError(f"{path} is not what was published: it is damaged or replaced; reinstall the package")
    return load_model(path, device)


tiny = functools.partial(load_bundled, "tiny")
base = functools.partial(load_bundled, "base")
