"""A short hash of a model's weights and tables, so that a file knows its model."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

__all__ = ["FINGERPRINT_BYTES", "fingerprint"]

FINGERPRINT_BYTES = 8


def fingerprint(model: nn.Module) -> bytes:
    """Hash everything that `model.state_dict()` holds: names, types, shapes and values.

    Two models that share it decode each other's files. It is of the model as it is: `update()` changes it.

    Args:
        model: any module, on any device.

    Returns:
        8 bytes.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> fingerprint(layer) == fingerprint(layer), len(fingerprint(layer))
        (True, 8)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()[:FINGERPRINT_BYTES]
