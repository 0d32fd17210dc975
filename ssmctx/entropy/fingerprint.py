"""A short hash of a model's weights, so that a file knows its model."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from ssmctx.entropy.stored_tables import StoredTables

__all__ = ["FINGERPRINT_BYTES", "fingerprint"]

FINGERPRINT_BYTES = 8
"""Length of a fingerprint."""


def fingerprint(model: nn.Module) -> bytes:
    """Hash what `model.state_dict()` holds: names, types, shapes and values.

    Stored coding tables are left out, as they have a fingerprint of their own
    (`MambaICEntropyModel.coding_fingerprint`). Two models that share both decode each other's files. It is of the model
    as it is: `update()` changes it.

    Args:
        model: any module, on any device.

    Returns:
        8 bytes.

    Examples:
        >>> from torch import nn
        >>> from ssmctx.entropy.fingerprint import fingerprint
        >>> layer = nn.Linear(2, 3)
        >>> fingerprint(layer) == fingerprint(layer), len(fingerprint(layer))
        (True, 8)
    """
    tables = [name for name, module in model.named_modules() if isinstance(module, StoredTables)]
    left_out = tuple(f"{name}." if name else "" for name in tables)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(left_out):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()[:FINGERPRINT_BYTES]
