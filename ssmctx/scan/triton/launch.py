"""The scan as Triton kernels: a fused pass over the pixels for each direction, forward and backward, in float32.

A direction is cut into chunks. Forward finds what each chunk adds to a state of zero and how far it decays what came
before, carries the states over the chunks, and then replays every chunk from its true first state. Backward does the
same with the gradient's recurrence, which runs the other way, and recomputes the states in groups of four steps; few
programs take one chunk after the other, so that what they keep of states stays in the cache.

Sums over directions are launches in order into the same output or, forward on small images, one launch with an output
for each and a sum in order; sums over channels and chunks are partial sums, which torch adds up. There are no atomics,
so results are bit-identical from run to run. Chunk lengths and tiles decide how sums are grouped, hence bits: they are
fixed functions of one image's shape (not of the batch nor the device, and never autotuned), because a codec's encoder
and decoder must agree.
"""

from __future__ import annotations

import functools
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

_FORWARD_CHUNKS = (32, 512)
"""Shortest and longest chunk of forward; multiples of `_GROUP`."""

_FORWARD_PROGRAMS = 2048
"""Programs of a launch that a chunk's length aims at: what an H100 holds at 128 registers is 132 * 16."""

_FORWARD_TILE, _BACKWARD_TILE = 1024, 512
"""Elements, states times channels, of the tile that a warp works on."""

_FORWARD_REGISTERS, _ADJOINT_REGISTERS, _BACKWARD_REGISTERS = 128, 168, 255
"""Most registers of a thread."""

_GROUP, _STAGES = 4, 3
"""Steps that forward loads together, and how many such groups are on their way."""

_APART = 1 << 24
"""Elements of all directions' v of an image up to which all directions are launched at once."""

_BACKWARD_CHUNKS = (32, 128)
"""Shortest and longest chunk of backward; both powers of two and multiples of `_STEPS`."""

_BACKWARD_PROGRAMS = 2048
"""Most programs of backward, which share the pieces of work: about twice what a large GPU runs at once."""

_STEPS = 4
"""Steps of backward that go together, for which its kernels are written."""

_SCRATCH = 1 << 27
"""Elements of dB's and dC's parts, which images of a batch share; a single image may need more."""

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
    if reason := _not_usable():
        return reason
    if _interpreted() or (torch.version.cuda and torch.cuda.is_available()):
        return None
    return "no CUDA device"


@functools.cache  # a backend that is named is asked at every scan, and the version is read from a file
def _not_usable() -> str | None:
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "triton is not installed: it comes with CUDA builds of torch on Linux"
    if tuple(int(x) for x in version.split(".")[:2]) < (3, 4):
        return f"triton {version} is too old: 3.4, of torch 2.8, or newer is needed"
    return None


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def forward(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """v and the last state; see `ssmctx.scan.backend.Backend`."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = _all_aligned(inputs)
    from ssmctx.scan.triton import kernels

    batch, height, width, d = u.shape
    K, _, N = A.shape
    length, tile = height * width, _forward_tile(N, d)
    tiles = _ceil(d, tile[0] * tile[1] * tile[4])
    apart = 1 < K <= _DIRECTIONS_A_LAUNCH and K * length * d <= _APART
    chunk = _forward_chunk(length, tiles * K if apart else tiles)
    chunks = _ceil(length, chunk)
    v, h_last = torch.empty_like(u), torch.empty_like(h0)
    h, dt_sum = _empty(u, batch, K, chunks, N, d), _empty(u, batch, K, chunks, d)
    out = _empty(u, K, *u.shape) if apart else v
    far = length * K * max(d, N) >= 1 << 31
    group, stages = (_GROUP, _STAGES) if N <= 32 else (1, 1)  # more states leave no registers
    constants = ((d, N, K), tile, group, stages, length % group != 0, far, softplus)
    grid = tiles * chunks * batch
    sizes: tuple[int, ...]
    arguments: tuple[Any, ...]
    with _on(u):
        for k, codes, count in _launches(directions):
            sizes = (height, width, chunk, chunks, k, codes, count)
            arguments = (u, dt_raw, A, B, dt_bias, h, dt_sum, *sizes)
            _launch(kernels.chunks_kernel, grid * count, arguments, constants, _FORWARD_REGISTERS)
        _carry(A, h, dt_sum, h0, h_last)
        one_by_one = ((k, DIRECTIONS.index(name), 1) for k, name in enumerate(directions))
        for k, codes, count in _launches(directions) if apart else one_by_one:
            sizes = (height, width, chunk, chunks, k, codes, count, batch * length)
            arguments = (u, dt_raw, A, B, C, D, dt_bias, h, out, *sizes)
            _launch(kernels.forward_kernel, grid * count, arguments, (*constants, k > 0), _FORWARD_REGISTERS)
        if apart:
            size = v.numel()
            _launch(kernels.sum_kernel, _ceil(size, 1024), (out, v, size), (K, 1024), _FORWARD_REGISTERS, warps=4)
    return v, h_last


def backward(dv: Tensor, dh_last: Tensor, inputs: ScanInputs) -> tuple[Tensor, ...]:
    """Gradients of the eight tensors; see `ssmctx.scan.backend.Backend`."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = _all_aligned(inputs)
    from ssmctx.scan.triton import backward_kernels as kernels

    dv, dh_last = _aligned(dv), _aligned(dh_last)
    batch, height, width, d = u.shape
    K, _, N = A.shape
    shape, tile = (d, N, K), _backward_tile(N, d)
    tiles = _ceil(d, tile[1] * tile[3])
    chunk = _backward_chunk(height * width, tiles)
    chunks = _ceil(height * width, chunk)
    work = tiles * chunks  # of an image and direction
    together = max(1, min(batch, _SCRATCH // (2 * tiles * height * width * N)))
    du, ddt_raw, dh0 = (torch.empty_like(x) for x in (u, dt_raw, h0))
    dBC = _empty(u, 2, *B.shape)
    sizes: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: tuple[Any, ...]
    with _on(u):
        h, r = (_empty(u, batch, K, chunks, N, d) for _ in range(2))
        dt_sum, dD = (_empty(u, batch, K, chunks, d) for _ in range(2))
        for k, codes, count in _launches(directions):
            sizes = (height, width, chunk, chunks, k, codes, count)
            arguments = (dv, u, dt_raw, A, B, C, dt_bias, ddt_raw, h, r, dt_sum, *sizes)
            constants = (shape, tile, softplus)
            _launch(kernels.adjoint_kernel, work * count * batch, arguments, constants, _ADJOINT_REGISTERS)
        _carry(A, h, dt_sum, h0, torch.empty_like(h0))
        _carry(A, r, dt_sum, dh_last, dh0, reverse=True)
        kept = _empty(u, min(work * together, _BACKWARD_PROGRAMS) * (chunk // _STEPS) * math.prod(tile))
        logs = tuple(lanes.bit_length() - 1 for lanes in tile[2:])
        for k, name in enumerate(directions):
            for item in range(0, batch, together):
                count = min(together, batch - item)
                parts = _empty(u, tiles, 2, count, height, width, N)
                sizes = (height, width, chunk, chunks, k, DIRECTIONS.index(name), item, count, work * count)
                arguments = (dv, u, ddt_raw, A, B, C, D, h, r, du, ddt_raw, parts, dD, dt_sum, kept, *sizes)
                programs = min(work * count, _BACKWARD_PROGRAMS)
                constants = (shape, tile, logs, softplus, k > 0)
                _launch(kernels.backward_kernel, programs, arguments, constants, _BACKWARD_REGISTERS)
                torch.sum(parts, 0, out=dBC[:, item : item + count, :, :, k])
    # by now h holds the chunks' parts of dA, and dt_sum those of the gradient of dt_bias
    dA = h.sum((0, 2)).transpose(1, 2).contiguous()
    return du, ddt_raw, dA, dBC[0], dBC[1], dD.sum((0, 2)), dt_sum.sum((0, 2)), dh0


def _carry(A: Tensor, h: Tensor, dt_sum: Tensor, first: Tensor, last: Tensor, reverse: bool = False) -> None:
    """Turn what each chunk adds to a state of zero, h, into the state before it; in reverse r, of gradients, likewise.

    h is (batch, K, chunks, N, d), its sum of step sizes (batch, K, chunks, d).
    """
    from ssmctx.scan.triton import kernels

    batch, K, chunks, N, d = h.shape
    constants = ((d, N, K), 32, 8, _STAGES, reverse)
    arguments = (A, h, dt_sum, first, last, chunks)
    _launch(kernels.carry_kernel, _ceil(N * d, 32) * K * batch, arguments, constants, _FORWARD_REGISTERS)


_compiled: dict[Any, Any] = {}


def _launch(
    kernel: Any, grid: int, arguments: tuple[Any, ...], constants: tuple[Any, ...], registers: int, warps: int = 1
) -> None:
    """Launch a kernel; only the first time through Triton's slow path, which finds the binary for these arguments.

    It depends on the constants, the device and, as tensors are float32 at addresses that 16 divides and integers are
    not specialised, only on which integers need 64 bits.
    """
    wide = tuple(x for x in arguments if type(x) is int and x >= 1 << 31)
    key = (kernel, arguments[0].device, registers, constants, wide)
    compiled = _compiled.get(key)
    if compiled is None:
        names = kernel.arg_names[len(arguments) :]
        options = _options(registers, warps) | dict(zip(names, constants, strict=True))
        _compiled[key] = kernel[(grid,)](*arguments, **options)  # None under the interpreter
    else:
        compiled[grid, 1, 1](*arguments, *constants)


def _launches(directions: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """First direction, codes of all, and number of directions of every launch that takes several."""
    for k in range(0, len(directions), _DIRECTIONS_A_LAUNCH):
        names = directions[k : k + _DIRECTIONS_A_LAUNCH]
        yield k, sum(DIRECTIONS.index(name) << (2 * i) for i, name in enumerate(names)), len(names)


def _options(registers: int, warps: int) -> dict[str, Any]:
    """Launch options: mostly one warp, since the steps of a longer program would wait for each other.

    Whether products and sums fuse is named, because Triton's default for it changes, and bits with it.
    """
    return {"num_warps": warps, "num_stages": 1, "maxnreg": registers, "enable_fp_fusion": True}


def _forward_tile(states: int, channels: int) -> tuple[int, int, int, int, int]:
    """Tile of all states and about `_FORWARD_TILE` elements; see `kernels._tile`."""
    n, c = _sides(states, channels, _FORWARD_TILE)
    along_c = min(32, max(1, c // 2))  # two channels a thread, so that Triton spreads every tensor in the same way
    along_n = min(n, 32 // along_c)
    copies = min(along_c, max(1, 32 // n))
    return along_c // copies, copies, along_n, n // along_n, c // along_c


def _backward_tile(states: int, channels: int) -> tuple[int, int, int, int]:
    """States a thread, channels a thread (four where there are as many), lanes along states and along channels."""
    n, c = _sides(states, channels, _BACKWARD_TILE)
    along_c = max(1, c // 4)
    along_n = min(n, 32 // along_c)
    return n // along_n, c // along_c, along_n, along_c


def _sides(states: int, channels: int, elements: int) -> tuple[int, int]:
    """States and channels of a tile of about that many elements, powers of two."""
    n = _power_of_two(states)
    return n, min(_power_of_two(channels), max(8, min(elements // n, elements // 16)))


def _forward_chunk(length: int, tiles: int) -> int:
    """Chunk that leaves about `_FORWARD_PROGRAMS` programs a launch, which fill a large GPU once."""
    chunk = _ceil(_ceil(length * tiles, _FORWARD_PROGRAMS), _GROUP) * _GROUP
    return min(max(chunk, _FORWARD_CHUNKS[0]), _FORWARD_CHUNKS[1])


def _backward_chunk(length: int, tiles: int) -> int:
    """Longest chunk that leaves 512 pieces of work an image and direction, half of what a large GPU runs at once."""
    chunk, longest = _BACKWARD_CHUNKS
    while chunk < longest and 2 * chunk * 512 <= length * tiles:
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
