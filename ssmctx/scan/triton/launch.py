"""The scan as Triton kernels: a fused pass over the pixels for each direction, forward and backward, in float32.

A direction is cut into chunks. Forward finds what each chunk adds to a state of zero and how far it decays what came
before, carries the states over the chunks, and then replays every chunk from its true first state. Backward does the
same with the gradient's recurrence, which runs the other way, and recomputes the states in groups of a few steps.

Sums over directions are launches in order into the same output; sums over channels and chunks are partial sums, which
torch adds up. There are no atomics, so results are bit-identical from run to run. Chunk lengths and tiles decide how
sums are grouped, hence bits: they are fixed functions of one image's shape (not of the batch nor the device, and
never autotuned), because a codec's encoder and decoder must agree.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from ssmctx.scan.backend import Backend
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.inputs import ScanInputs

__all__ = ["backend", "backward", "forward", "unavailable"]

_FORWARD_CHUNKS = (32, 256)
"""Shortest and longest chunk of forward; both powers of two and multiples of `_GROUP`."""

_BACKWARD_CHUNK = 64
"""A multiple of `_GROUP`."""

_FORWARD_TILE, _BACKWARD_TILE = 1024, 512
"""Elements, states times channels, of the tile that a warp works on."""

_FORWARD_REGISTERS, _BACKWARD_REGISTERS = 128, 168
"""Most registers of a thread; the chunk ends and carries of backward take forward's."""

_GROUP = 4
"""Steps whose loads are issued together, and in backward the states kept in registers; see `_steps`."""

_SCRATCH = 1 << 27
"""Elements of backward's scratch, which images of a batch share; a single image may need more."""

_DIRECTIONS_A_LAUNCH = 15
"""Two bits each in one int32."""


def backend() -> Backend:
    """The `triton` backend."""
    devices = ("cuda", "cpu") if _interpreted() else ("cuda",)
    return Backend(
        "triton",
        unavailable,
        forward,
        backward,
        devices=devices,
        dtypes=(torch.float32,),
        max_states=64,
        priority=10,
        auto_devices=("cuda",),
    )


def unavailable() -> str | None:
    """Why the kernels cannot run here, or None when they can (under TRITON_INTERPRET=1 also on the CPU)."""
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "triton is not installed: it comes with CUDA builds of torch on Linux"
    if tuple(int(x) for x in version.split(".")[:2]) < (3, 4):
        return f"triton {version} is too old: 3.4, of torch 2.8, or newer is needed"
    if _interpreted() or (torch.version.cuda and torch.cuda.is_available()):
        return None
    return "no CUDA device"


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def forward(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """v and the last state; see `ssmctx.scan.backend.Backend`."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = _all_aligned(inputs)
    from ssmctx.scan.triton import kernels

    batch, height, width, d = u.shape
    shape, tile = (d, A.shape[2], len(directions)), _tile_for(A.shape[2], d, _FORWARD_TILE, 32)
    chunk = _forward_chunk(height * width, _tiles(d, tile))
    chunks = _ceil(height * width, chunk)
    v, h_last = torch.empty_like(u), torch.empty_like(h0)
    with _on(u):
        h, dt_sum = _chunk_ends((u, dt_raw, A, B, C, dt_bias), directions, softplus, chunk, tile)
        _carry(A, h, dt_sum, h0, h_last)
        for k, name in enumerate(directions):
            kernels.forward_kernel[(_tiles(d, tile) * chunks * batch,)](
                *(u, dt_raw, A, B, C, D, dt_bias, h, v, height, width, chunk, chunks, k, DIRECTIONS.index(name)),
                **_options(
                    _FORWARD_REGISTERS, SHAPE=shape, TILE=tile, GROUP=_steps(shape[1]), SOFTPLUS=softplus, ADD=k > 0
                ),
            )
    return v, h_last


def backward(dv: Tensor, dh_last: Tensor, inputs: ScanInputs) -> tuple[Tensor, ...]:
    """Gradients of the eight tensors; see `ssmctx.scan.backend.Backend`."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = _all_aligned(inputs)
    from ssmctx.scan.triton import kernels

    dv, dh_last = _aligned(dv), _aligned(dh_last)
    batch, height, width, d = u.shape
    chunk, N = _BACKWARD_CHUNK, A.shape[2]
    shape, tile = (d, N, len(directions)), _tile_for(N, d, _BACKWARD_TILE, 8)
    programs = _tiles(d, tile) * _ceil(height * width, chunk)  # for one image
    scratch = programs * (chunk // _GROUP) * math.prod(tile)
    together = max(1, min(batch, _SCRATCH // scratch))
    du, ddt_raw, dB, dC, dh0 = (torch.empty_like(x) for x in (u, dt_raw, B, C, h0))
    with _on(u):
        r = _empty(u, batch, len(directions), _ceil(height * width, chunk), N, d)
        ends = ((u, dt_raw, A, B, C, dt_bias), directions, softplus, chunk, _tile_for(N, d, _BACKWARD_TILE, 32))
        h, dt_sum = _chunk_ends(*ends, adjoint=(dv, ddt_raw, r))
        _carry(A, h, dt_sum, h0, torch.empty_like(h0))
        _carry(A, r, dt_sum, dh_last, dh0, reverse=True)
        kept = _empty(u, together * scratch)
        for k, name in enumerate(directions):
            for item in range(0, batch, together):
                count = min(together, batch - item)
                dB_parts, dC_parts = (_empty(u, _tiles(d, tile), count, height, width, N) for _ in range(2))
                kernels.backward_kernel[(programs * count,)](
                    *(dv, u, ddt_raw, A, B, C, D, h, r, du, ddt_raw, dB_parts, dC_parts, dt_sum, kept, height, width),
                    *(chunk, r.shape[2], k, DIRECTIONS.index(name), item, count),
                    **_options(_BACKWARD_REGISTERS, SHAPE=shape, TILE=tile, GROUP=_GROUP, SOFTPLUS=softplus, ADD=k > 0),
                )
                dB[item : item + count, :, :, k] = dB_parts.sum(0)
                dC[item : item + count, :, :, k] = dC_parts.sum(0)
    # by now h holds the chunks' parts of dA, and dt_sum those of the gradient of dt_bias
    dA = h.sum((0, 2)).transpose(1, 2).contiguous()
    dD = (dv * u).sum((0, 1, 2)).expand_as(D).contiguous()
    return du, ddt_raw, dA, dB, dC, dD, dt_sum.sum((0, 2)), dh0


def _chunk_ends(
    inputs: tuple[Tensor, ...],
    directions: Sequence[str],
    softplus: bool,
    chunk: int,
    tile: tuple[int, ...],
    adjoint: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor, Tensor]:
    """What each chunk adds to a state of zero, (batch, K, chunks, N, d), and its sum of dt, (batch, K, chunks, d)."""
    from ssmctx.scan.triton import kernels

    u, A = inputs[0], inputs[2]
    batch, height, width, _ = u.shape
    K, d, N = A.shape
    chunks = _ceil(height * width, chunk)
    h, dt_sum = _empty(u, batch, K, chunks, N, d), _empty(u, batch, K, chunks, d)
    dv, dt, r = adjoint or (u, u, u)  # not touched without ADJOINT
    for k, codes, count in _launches(directions):
        kernels.chunks_kernel[(_tiles(d, tile) * count * chunks * batch,)](
            *(*inputs, dv, dt, h, r, dt_sum, height, width, chunk, chunks, k, codes, count),
            **_options(
                _FORWARD_REGISTERS,
                SHAPE=(d, N, K),
                TILE=tile,
                GROUP=_steps(N),
                SOFTPLUS=softplus,
                ADJOINT=adjoint is not None,
            ),
        )
    return h, dt_sum


def _launches(directions: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """First direction, codes of all, and number of directions of every launch that takes several."""
    for k in range(0, len(directions), _DIRECTIONS_A_LAUNCH):
        names = directions[k : k + _DIRECTIONS_A_LAUNCH]
        yield k, sum(DIRECTIONS.index(name) << (2 * i) for i, name in enumerate(names)), len(names)


def _carry(A: Tensor, h: Tensor, dt_sum: Tensor, first: Tensor, last: Tensor, reverse: bool = False) -> None:
    """Turn h, of `_chunk_ends`, into the state before each chunk; in reverse r into the gradient after each chunk."""
    from ssmctx.scan.triton import kernels

    batch, K, chunks, N, d = h.shape
    kernels.carry_kernel[(_ceil(N * d, 32) * K * batch,)](
        *(A, h, dt_sum, first, last, chunks),
        **_options(_FORWARD_REGISTERS, SHAPE=(d, N, K), BLOCK=32, GROUP=8, REVERSE=reverse),
    )


def _options(registers: int, **constants: Any) -> dict[str, Any]:
    """Launch options: one warp, since the steps of a longer program would wait for each other.

    Whether products and sums fuse is named, because Triton's default for it changes, and bits with it.
    """
    return {"num_warps": 1, "num_stages": 1, "maxnreg": registers, "enable_fp_fusion": True, **constants}


def _tile_for(states: int, channels: int, elements: int, lanes: int) -> tuple[int, int, int, int]:
    """Tile of all states and about that many elements, with up to `lanes` lanes along channels; see `_tile`."""
    n = _power_of_two(states)
    c = min(_power_of_two(channels), max(8, min(elements // n, elements // 16)))
    along_c = min(c, lanes)
    along_n = min(n, 32 // along_c)
    return n // along_n, c // along_c, along_n, along_c


def _tiles(channels: int, tile: tuple[int, ...]) -> int:
    return _ceil(channels, tile[1] * tile[3])


def _steps(states: int) -> int:
    """Steps that are loaded together where no states are kept: above 16 states a single step's fill the registers."""
    return _GROUP if states <= 16 else 1


def _forward_chunk(length: int, tiles: int) -> int:
    """Longest chunk that leaves about 2000 programs a launch, which fill a large GPU."""
    chunk, longest = _FORWARD_CHUNKS
    while chunk < longest and 2 * chunk * 2048 <= length * tiles:
        chunk *= 2
    return chunk


def _power_of_two(x: int) -> int:
    return 1 << (x - 1).bit_length()


def _ceil(x: int, y: int) -> int:
    return -(-x // y)


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def _aligned(x: Tensor) -> Tensor:
    """x at an address that 16 divides: Triton's layouts, and with them the order of sums, depend on that."""
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _all_aligned(inputs: ScanInputs) -> ScanInputs:
    return ScanInputs._make(_aligned(x) if isinstance(x, Tensor) else x for x in inputs)


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which then must be the tensors'."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
