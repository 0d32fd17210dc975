"""The scan's forward by `forward_kernels`: chunks that fill a GPU once, launches without Triton's own preparation.

A small image's directions are launched at once, each into a v of its own, and added up in order by one more kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.inputs import ScanInputs
from ssmctx.scan.triton.launch import (
    _DIRECTIONS_A_LAUNCH,
    _all_aligned,
    _ceil,
    _empty,
    _launches,
    _on,
    _options,
    _power_of_two,
)

_FORWARD_CHUNKS = (32, 512)
"""Shortest and longest chunk of forward, multiples of `_GROUP`."""

_PROGRAMS = 2048
"""Programs of a launch that a chunk's length aims at: what an H100 holds at 128 registers is 132 * 16."""

_FORWARD_TILE, _FORWARD_REGISTERS = 1024, 128
_GROUP, _STAGES = 4, 3
"""Steps that are loaded together, and how many such groups are on their way."""

_APART = 1 << 24
"""Elements of all directions' v of an image up to which all directions are launched at once."""


def forward(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """v and the last state; see `ssmctx.scan.backend.Backend`."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = _all_aligned(inputs)
    from on_gpu.candidates import forward_kernels as kernels

    batch, height, width, d = u.shape
    K, _, N = A.shape
    length, tile = height * width, _tile_for(N, d)
    tiles = _ceil(d, tile[0] * tile[1] * tile[4])
    apart = 1 < K <= _DIRECTIONS_A_LAUNCH and K * length * d <= _APART
    chunk = _forward_chunk(length, tiles * K if apart else tiles)
    chunks = _ceil(length, chunk)
    v, h_last = torch.empty_like(u), torch.empty_like(h0)
    h, dt_sum = _empty(u, batch, K, chunks, N, d), _empty(u, batch, K, chunks, d)
    out = _empty(u, K, *u.shape) if apart else v
    shape = (d, N, K)
    far = length * K * max(d, N) >= 1 << 31
    group, stages = (_GROUP, _STAGES) if N <= 32 else (1, 1)  # more states leave no registers
    constants = (shape, tile, group, stages, length % group != 0, far, softplus)
    grid = tiles * chunks * batch
    with _on(u):
        for k, codes, count in _launches(directions):
            _launch(
                kernels.chunks_kernel,
                grid * count,
                (u, dt_raw, A, B, dt_bias, h, dt_sum, height, width, chunk, chunks, k, codes, count),
                constants,
            )
        carry = (A, h, dt_sum, h0, h_last, chunks)
        _launch(kernels.carry_kernel, _ceil(N * d, 32) * K * batch, carry, (shape, 32, 8, _STAGES, False))
        one_by_one = ((k, DIRECTIONS.index(name), 1) for k, name in enumerate(directions))
        for k, codes, count in _launches(directions) if apart else one_by_one:
            _launch(
                kernels.forward_kernel,
                grid * count,
                (u, dt_raw, A, B, C, D, dt_bias, h, out, height, width, chunk, chunks, k, codes, count, batch * length),
                (*constants, k > 0),
            )
        if apart:
            _launch(kernels.sum_kernel, _ceil(v.numel(), 1024), (out, v, v.numel()), (K, 1024), warps=4)
    return v, h_last


_compiled: dict[Any, Any] = {}


def _launch(kernel: Any, grid: int, arguments: tuple[Any, ...], constants: tuple[Any, ...], warps: int = 1) -> None:
    """Launch a kernel; only the first time through Triton's slow path, which finds the binary for these arguments.

    It depends on the constants, the device and, as tensors are float32 at addresses that 16 divides and integers are
    not specialised, on nothing else.
    """
    device = arguments[0].device.index
    key = (kernel.__name__, device, _FORWARD_REGISTERS, constants)
    compiled = _compiled.get(key)
    if compiled is None:
        names = kernel.arg_names[len(arguments) :]
        _compiled[key] = kernel[(grid,)](
            *arguments,
            **_options(_FORWARD_REGISTERS, **dict(zip(names, constants, strict=True))) | {"num_warps": warps},
        )  # None under the interpreter
    else:
        compiled[grid, 1, 1](*arguments, *constants)


def _tile_for(states: int, channels: int) -> tuple[int, int, int, int, int]:
    n = _power_of_two(states)
    c = min(_power_of_two(channels), max(8, min(_FORWARD_TILE // n, _FORWARD_TILE // 16)))
    along_c = min(32, max(1, c // 2))  # two channels a thread, so that Triton spreads every tensor in the same way
    along_n = min(n, 32 // along_c)
    copies = min(along_c, max(1, 32 // n))
    return along_c // copies, copies, along_n, n // along_n, c // along_c


def _forward_chunk(length: int, tiles: int) -> int:
    """Chunk that leaves about `_PROGRAMS` programs a launch, which fill a large GPU once."""
    chunk = _ceil(_ceil(length * tiles, _PROGRAMS), _GROUP) * _GROUP
    return min(max(chunk, _FORWARD_CHUNKS[0]), _FORWARD_CHUNKS[1])
