"""Short hashes of a codec, so that a file knows who can decode it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.entropy.stored_tables import StoredTables

__all__ = ["decoder_fingerprint", "old_fingerprint"]

_BYTES = 8


def decoder_fingerprint(codec: Any) -> bytes:
    """Hash what decoding depends on: weights, coding tables, and the stride.

    Two codecs that share it decode each other's files. What only an encoder uses, g_a and h_a, is left out: a better
    encoder for the same decoder writes files that all its decoders read. Of a latent codec that does not say what its
    decoder needs (`decoder_state()` and `coding_fingerprint()`) all weights count.

    Args:
        codec: with g_s, latent_codec and stride, on any device.

    Returns:
        8 bytes.
    """
    latent_codec, stride = codec.latent_codec, codec.stride
    own_state = getattr(latent_codec, "decoder_state", None)
    digest = hashlib.sha256(f"stride {stride}".encode())
    _add(digest, codec.g_s.state_dict().items())
    _add(digest, (_masked(latent_codec.state_dict()) if own_state is None else own_state()).items())
    if hasattr(latent_codec, "coding_fingerprint"):
        digest.update(latent_codec.coding_fingerprint())
    return digest.digest()[:_BYTES]


def old_fingerprint(codec: nn.Module) -> bytes:
    """The hash that files before version 4 hold: of all of `codec.state_dict()` but stored coding tables."""
    tables = [name for name, module in codec.named_modules() if isinstance(module, StoredTables)]
    left_out = tuple(f"{name}." if name else "" for name in tables)
    digest = hashlib.sha256()
    state: Mapping[str, Tensor] = codec.state_dict()
    _add(digest, ((name, tensor) for name, tensor in state.items() if not name.startswith(left_out)))
    return digest.digest()[:_BYTES]


def _masked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as masked convolutions use them: CompressAI's set the rest to 0 only when they are first called."""
    masked = dict(state)
    for name, mask in state.items():
        weight = name.removesuffix("mask") + "weight"
        if name.endswith(".mask") and weight in state and state[weight].shape == mask.shape:
            masked[weight] = state[weight] * mask
    return masked


def _add(digest: hashlib._Hash, state: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in sorted(state, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
