"""Short hashes of a codec, stored in files to identify the codecs that can decode them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.entropy.stored_tables import StoredTables
from ssmctx.errors import ArgumentError, ModelMismatchError

__all__ = ["check_same", "decoder_fingerprint", "old_fingerprint"]

_BYTES = 8
_ROW = 1 << 12


def decoder_fingerprint(codec: Any) -> bytes:
    """Hash what decoding depends on: weights, coding tables, and the stride.

    Two codecs that share it decode each other's files. What only an encoder uses, g_a and h_a, is left out: a better
    encoder for the same decoder writes files that all its decoders read. Of a latent codec that does not say what its
    decoder needs (`decoder_state()` and `coding_fingerprint()`) all weights count. The hash is kept, and made anew
    when a quick sum over the weights says that they have changed.

    Args:
        codec: with g_s, latent_codec and stride, on any device.

    Returns:
        8 bytes.

    Raises:
        ArgumentError: weights are offloaded, sharded or packed by quantization.
    """
    latent_codec = codec.latent_codec
    synthesis = _unwrapped(codec.g_s, codec.g_s.state_dict())
    decoder_state = getattr(latent_codec, "decoder_state", latent_codec.state_dict)
    latents = _unwrapped(getattr(decoder_state, "__self__", latent_codec), decoder_state())
    coding: bytes = latent_codec.coding_fingerprint() if hasattr(latent_codec, "coding_fingerprint") else b""
    tensors = [*synthesis.values(), *latents.values()]
    if any(not isinstance(x, Tensor) or x.is_meta or hasattr(x, "device_mesh") for x in tensors):
        raise ArgumentError(
            f"{type(codec).__name__}: a file names the model by a hash of the decoder's weights, and some of them are "
            "offloaded, sharded or packed by quantization: use compress and decompress, or a codec with plain weights"
        )
    names = [*synthesis, *latents]
    key = codec.stride, coding, *zip(names, ((x.dtype, x.shape) for x in tensors), strict=True), *_sums(tensors)
    known = _known.get(codec)
    if known is None or known.key != key:
        known = _known[codec] = _Known(key, _decoder_hash(codec.stride, synthesis, latents, coding))
    return known.fingerprint


def _unwrapped(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State by the names that it has without DataParallel and torch.compile around parts: these change no file."""
    if not any("_orig_mod." in name or "module." in name for name in state):
        return dict(state)
    names = dict(zip(state, state, strict=True))
    for path, part in reversed(list(module.named_modules())):  # parts before what holds them
        inner = "_orig_mod" if "_orig_mod" in dict(part.named_children()) else "module"
        if inner == "_orig_mod" or isinstance(part, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            outer = f"{path}." if path else ""
            prefix = f"{outer}{inner}."
            names = {n: outer + m.removeprefix(prefix) if m.startswith(prefix) else m for n, m in names.items()}
    return {names[name]: tensor for name, tensor in state.items()}


class _Known(NamedTuple):
    """A fingerprint, and the key that tells whether it is still valid."""

    key: tuple[Any, ...]
    fingerprint: bytes


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


@torch.no_grad()
def _sums(tensors: Sequence[Tensor]) -> list[int]:
    """Numbers that change with the content: on the CPU a CRC of each tensor, several times faster than a hash.

    On other devices one number for all tensors of a type and device, in a few kernels however many they are.
    """
    elsewhere: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    on_host = []
    for tensor in tensors:
        if tensor.device.type == "cpu":
            on_host.append(zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data))
        else:
            elsewhere.setdefault((tensor.device, tensor.dtype), []).append(tensor.reshape(-1))
    return on_host + [int(weighted_sum(of_a_type)) for of_a_type in elsewhere.values()]


def weighted_sum(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of rows of 4096 bytes, each times an odd number of its own, modulo 2^64.

    A change that only puts words in another order within a row is not noticed.

    Args:
        tensors: 1-D tensors of one type on one device.
    """
    joined = torch.cat(list(tensors)).view(torch.uint8)
    words = F.pad(joined, (0, -len(joined) % _ROW)).view(torch.int32)
    rows = words.view(-1, _ROW // 4).sum(1, dtype=torch.int64)
    return (rows * torch.arange(1, 2 * len(rows), 2, device=rows.device)).sum()


def _decoder_hash(stride: int, synthesis: Mapping[str, Tensor], latents: Mapping[str, Tensor], coding: bytes) -> bytes:
    digest = hashlib.sha256(f"stride {stride}".encode())
    _add(digest, synthesis.items())
    _add(digest, _masked(latents).items())
    digest.update(coding)
    return digest.digest()[:_BYTES]


def old_fingerprint(codec: nn.Module) -> bytes:
    """The hash that files before version 4 hold: of all of `codec.state_dict()` but stored coding tables."""
    tables = [name for name, module in codec.named_modules() if isinstance(module, StoredTables)]
    left_out = tuple(f"{name}." if name else "" for name in tables)
    digest = hashlib.sha256()
    state = {name: tensor for name, tensor in codec.state_dict().items() if not name.startswith(left_out)}
    _add(digest, _unwrapped(codec, state).items())
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


def check_same(written: bytes, own: bytes, what: str, cure: str) -> None:
    """Raise ModelMismatchError if the fingerprint in a file differs from the codec's."""
    if written != own:
        raise ModelMismatchError(
            f"the file was written with {what} {written.hex()}, this codec has {own.hex()}: {cure}"
        )
