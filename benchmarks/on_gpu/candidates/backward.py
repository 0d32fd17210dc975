"""The scan's backward by `backward_kernels`: few programs, which take one piece of work after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.inputs import ScanInputs
from ssmctx.scan.triton.launch import (
    _aligned,
    _all_aligned,
    _carry,
    _ceil,
    _empty,
    _launches,
    _on,
    _options,
    _power_of_two,
    _tiles,
)

_BACKWARD_CHUNK = 64
"""A multiple of four."""

_BACKWARD_TILE = 512
_BACKWARD_REGISTERS, _ADJOINT_REGISTERS = 255, 168

_PROGRAMS = 2048
"""Most programs, which share the pieces of work: about twice what a large GPU runs at once."""

_KEEP = False
"""Whether decays are kept from the replay instead of computed again."""

_SCRATCH = 1 << 27
"""Elements of dB's and dC's parts, which images of a batch share; a single image may need more."""


def backward(dv: Tensor, dh_last: Tensor, inputs: ScanInputs) -> tuple[Tensor, ...]:
    """Gradients of the eight tensors; see `ssmctx.scan.backend.Backend`."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = _all_aligned(inputs)
    from on_gpu.candidates import backward_kernels as kernels

    dv, dh_last = _aligned(dv), _aligned(dh_last)
    batch, height, width, d = u.shape
    chunk, N = _BACKWARD_CHUNK, A.shape[2]
    shape, tile = (d, N, len(directions)), _backward_tile(N, d)
    programs = _tiles(d, tile) * _ceil(height * width, chunk)  # for one image
    together = max(1, min(batch, _SCRATCH // (2 * _tiles(d, tile) * height * width * N)))
    du, ddt_raw, dB, dC, dh0 = (torch.empty_like(x) for x in (u, dt_raw, B, C, h0))
    with _on(u):
        r = _empty(u, batch, len(directions), _ceil(height * width, chunk), N, d)
        h, dt_sum = torch.empty_like(r), _empty(u, batch, len(directions), r.shape[2], d)
        for k, codes, count in _launches(directions):
            kernels.adjoint_kernel[(programs * count * batch,)](
                *(dv, u, dt_raw, A, B, C, dt_bias, ddt_raw, h, r, dt_sum),
                *(height, width, chunk, r.shape[2], k, codes, count),
                **_options(_ADJOINT_REGISTERS, SHAPE=shape, TILE=tile, SOFTPLUS=softplus),
            )
        _carry(A, h, dt_sum, h0, torch.empty_like(h0))
        _carry(A, r, dt_sum, dh_last, dh0, reverse=True)
        kept = _empty(u, min(programs * together, _PROGRAMS) * (chunk // 4) * math.prod(tile))
        dD = torch.empty_like(dt_sum)
        for k, name in enumerate(directions):
            for item in range(0, batch, together):
                count = min(together, batch - item)
                parts = _empty(u, _tiles(d, tile), 2, count, height, width, N)
                kernels.backward_kernel[(min(programs * count, _PROGRAMS),)](
                    *(dv, u, ddt_raw, A, B, C, D, h, r, du, ddt_raw, parts, dD, dt_sum, kept),
                    *(height, width, chunk, r.shape[2], k, DIRECTIONS.index(name), item, count, programs * count),
                    **_options(
                        _BACKWARD_REGISTERS,
                        SHAPE=shape,
                        TILE=tile,
                        LOGS=tuple(lanes.bit_length() - 1 for lanes in tile[2:]),
                        KEEP=_KEEP,
                        SOFTPLUS=softplus,
                        ADD=k > 0,
                    ),
                )
                dB[item : item + count, :, :, k], dC[item : item + count, :, :, k] = parts.sum(0)
    # by now h holds the chunks' parts of dA, and dt_sum those of the gradient of dt_bias
    dA = h.sum((0, 2)).transpose(1, 2).contiguous()
    return du, ddt_raw, dA, dB, dC, dD.sum((0, 2)), dt_sum.sum((0, 2)), dh0


def _backward_tile(states: int, channels: int) -> tuple[int, int, int, int]:
    """As `_tile_for`, with four channels a thread where there are as many."""
    n = _power_of_two(states)
    c = min(_power_of_two(channels), max(8, min(_BACKWARD_TILE // n, _BACKWARD_TILE // 16)))
    along_c = max(1, c // 4)
    along_n = min(n, 32 // along_c)
    return n // along_n, c // along_c, along_n, along_c
