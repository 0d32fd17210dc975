"""Numba kernels of the CPU scan: channels on the SIMD lanes, one block of channels at a time.

A task is one block of channels of one image. Several threads run a kernel at once, and each takes tasks until none is
left. Tasks share nothing that they write, so that results do not depend on which thread takes which.

Kernels are C functions of one pointer: threads of OpenMP run them without Python, and calling one takes little time
beside a scan of few pixels. Each is compiled when it is first asked for; who only codes needs no gradients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]

from ssmctx.jit import c_function
from ssmctx.scan.cpu import arrays, simd, sizes, tasks, tiles
from ssmctx.scan.cpu.arrays import Block, Chunk, GradientChunk, Gradients, Inputs, Outputs, Part, Scan
from ssmctx.scan.cpu.simd import WIDTH
from ssmctx.scan.cpu.sizes import CHUNK, LANES, TILE
from ssmctx.scan.cpu.tasks import count, pointer
from ssmctx.scan.cpu.tiles import (
    add,
    advance_and_emit,
    close,
    fetch,
    plain_steps,
    project,
    project_back,
    put,
    retrace,
    skip,
    soft_steps,
    soft_steps_and_slopes,
)

__all__ = ["scan_backward", "scan_forward"]

_INLINE: dict[str, Any] = {"inline": "always"}
_KERNEL: dict[str, Any] = {
    "inlined": (arrays, sizes, tasks, tiles, simd),
    "error_model": "numpy",
    "boundscheck": False,
}
_LN2 = np.float32(math.log(2))
_TAKEN, _FINISHED = Scan._fields.index("taken"), Scan._fields.index("finished")

_FORWARD = np.dtype([(name, np.int64) for name in (*Scan._fields, *Outputs._fields)])
_BACKWARD = np.dtype([(name, np.int64) for name in (*Scan._fields, *Gradients._fields)])


@njit(**_INLINE)
def _floats(address, shape):
    return carray(pointer(address), shape, np.float32)


@njit(**_INLINE)
def _inputs(call):
    batch, length, channels, directions = call.batch, call.length, call.channels, call.directions
    states, rank = call.states, call.rank
    return Inputs(
        u=_floats(call.u, (batch, length, 1, channels)),
        raw=_floats(call.raw, (batch, length, directions, call.raw_row)),
        dt_weight=_floats(call.dt_weight, (directions, channels, rank)),
        A=_floats(call.A, (directions, channels, states)),
        B=_floats(call.B, (batch, length, directions, call.weights_row)),
        C=_floats(call.C, (batch, length, directions, call.weights_row)),
        D=_floats(call.D, (directions, channels)),
        dt_bias=_floats(call.dt_bias, (directions, channels)),
        h0=_floats(call.h0, (batch, directions, channels, states)),
        starts=_floats(call.starts, (batch, directions, call.chunks, states, channels)),
        walks=carray(pointer(call.walks), (directions, 4), np.int64),
    )


@njit(**_INLINE)
def _find(pixels, walk, begin, size):
    """The pixels at positions from `begin` on; walk is (start, length of a line, step in it, step between lines)."""
    start, line, step, jump = walk
    row, column = begin // line, begin % line
    pixel = start + row * jump + column * step
    for t in range(size):
        pixels[t] = pixel
        column += 1
        pixel += step
        if column == line:
            column = 0
            pixel += jump - line * step


@njit(**_INLINE)
def _whole_tiles(number):
    return (number + TILE - 1) // TILE * TILE


@njit(**_INLINE)
def _rows(count, width):
    return np.zeros((count, width), np.float32)


@njit(**_INLINE)
def _new_block(padded, rank):
    return Block(_rows(padded, LANES), _rows(1, LANES), _rows(1, LANES), _rows(rank, LANES))


@njit(**_INLINE)
def _new_chunk(padded, rank):
    x, raw, dt, dtx = _rows(CHUNK, LANES), _rows(CHUNK, LANES), _rows(CHUNK, LANES), _rows(CHUNK, LANES)
    pixels, low_rank = np.zeros(CHUNK, np.int64), _rows(CHUNK, rank)
    return Chunk(pixels, x, low_rank, raw, dt, dtx, _rows(CHUNK, padded), _rows(CHUNK, padded))


@njit(**_INLINE)
def _new_gradients(padded, rank):
    dv, dt, dtx = _rows(CHUNK, LANES), _rows(CHUNK, LANES), _rows(CHUNK, LANES)
    dh, dA, dB, dC = _rows(padded, LANES), _rows(padded, LANES), _rows(CHUNK, padded), _rows(CHUNK, padded)
    low_rank, dt_weight = _rows(CHUNK, rank), _rows(rank, LANES)
    trail = np.zeros((CHUNK + 1, 2 * TILE, WIDTH), np.float32)
    sums = np.zeros((CHUNK, 2 * TILE, WIDTH), np.float32)
    return GradientChunk(
        dv, dh, dA, _rows(1, LANES), _rows(1, LANES), dt_weight, low_rank, dt, dtx, dB, dC, trail, sums
    )


# arrays are passed whole, with row indices: numba would reference-count a view


@njit(**_INLINE)
def _read(inputs, part, block, chunk, begin, size, softplus, slopes):
    """Everything that does not depend on a state, for a chunk of positions from `begin` on."""
    _find(chunk.pixels, inputs.walks[part.k], begin, size)
    fetch(inputs.u, part.b, 0, part.c0, chunk.pixels, chunk.x, size, part.width)
    rank = inputs.dt_weight.shape[2]
    if rank > 0:
        fetch(inputs.raw, part.b, part.k, 0, chunk.pixels, chunk.low_rank, size, rank)
        project(block, chunk, size, part.lanes)
    else:
        fetch(inputs.raw, part.b, part.k, part.c0, chunk.pixels, chunk.raw, size, part.width)
    if not softplus:
        plain_steps(block, chunk, size, part.lanes)
    elif slopes:
        soft_steps_and_slopes(block, chunk, size, part.lanes)
    else:
        soft_steps(block, chunk, size, part.lanes)
    states = inputs.A.shape[2]
    fetch(inputs.B, part.b, part.k, 0, chunk.pixels, chunk.B, size, states)
    fetch(inputs.C, part.b, part.k, 0, chunk.pixels, chunk.C, size, states)


@njit(**_INLINE)
def _parameters(inputs, part, block):
    """A block's share of what is fixed along a direction; zeros in lanes past the width, where no state grows.

    A comes out in units of ln 2, for decays are powers of 2.
    """
    k, c0 = part.k, part.c0
    block.dt_bias[:], block.D[:], block.A[:], block.dt_weight[:] = 0, 0, 0, 0
    for r in range(part.width):
        c = np.uintp(c0 + r)
        block.dt_bias[0, r], block.D[0, r] = inputs.dt_bias[k, c], inputs.D[k, c]
        for n in range(inputs.A.shape[2]):
            block.A[n, r] = inputs.A[k, c, n] / _LN2
        for j in range(inputs.dt_weight.shape[2]):
            block.dt_weight[j, r] = inputs.dt_weight[k, c, j]


@c_function(types.void(types.voidptr), **_KERNEL)
def scan_forward(address):
    """Scan some tasks: v, the last states, and the states before each chunk of positions where there is room for them.

    With as many parts as directions, each direction is a task of its own and writes its own part; with one part, the
    directions of a task add up in it. The order of additions, and so every bit, is the same.
    """
    call, counters = carray(address, 1, _FORWARD)[0], carray(address, 2, np.int64)
    inputs = _inputs(call)
    batch, length, channels = call.batch, call.length, call.channels
    directions, states, parts = call.directions, call.states, call.parts
    v = _floats(call.v, (parts * batch, length, 1, channels))
    last = _floats(call.last, (batch, directions, channels, states))
    padded, padded_rank = _whole_tiles(states), _whole_tiles(call.rank)
    blocks = (channels + LANES - 1) // LANES
    block, chunk = _new_block(padded, padded_rank), _new_chunk(padded, padded_rank)
    h, y = _rows(padded, LANES), _rows(CHUNK, LANES)
    while True:
        task = count(counters, _TAKEN)
        if task >= parts * batch * blocks:
            break
        share, b, c0 = task // (batch * blocks), task // blocks % batch, task % blocks * LANES
        width = min(LANES, channels - c0)
        lanes = (width + WIDTH - 1) // WIDTH * WIDTH
        for k in range(share if parts > 1 else 0, share + 1 if parts > 1 else directions):
            part = Part(b, k, c0, width, lanes)
            # lanes past the width hold left-overs of other tasks: finite, and never stored
            _parameters(inputs, part, block)
            for n in range(states):
                for r in range(width):
                    h[n, r] = inputs.h0[b, k, np.uintp(c0 + r), n]
            for begin in range(0, length, CHUNK):
                size = min(CHUNK, length - begin)
                if call.chunks > 0:
                    for n in range(states):
                        for r in range(width):
                            inputs.starts[b, k, begin // CHUNK, n, np.uintp(c0 + r)] = h[n, r]
                _read(inputs, part, block, chunk, begin, size, call.softplus, False)
                skip(block, chunk, y, size, lanes)
                advance_and_emit(h, block, chunk, y, size, lanes)
                if k == 0 or parts > 1:
                    put(y, v, share * batch + b, 0, c0, chunk.pixels, size, width)
                else:
                    add(y, v, b, 0, c0, chunk.pixels, size, width)
            for n in range(states):
                for r in range(width):
                    last[b, k, np.uintp(c0 + r), n] = h[n, r]
        count(counters, _FINISHED)


@c_function(types.void(types.voidptr), **_KERNEL)
def scan_backward(address):
    """Gradients of some tasks of `scan_forward`, which kept the states before each chunk; recomputes those within."""
    call, counters = carray(address, 1, _BACKWARD)[0], carray(address, 2, np.int64)
    inputs = _inputs(call)
    batch, length, channels = call.batch, call.length, call.channels
    directions, states, rank, parts = call.directions, call.states, call.rank, call.parts
    padded, padded_rank = _whole_tiles(states), _whole_tiles(rank)
    blocks = (channels + LANES - 1) // LANES
    of_v = _floats(call.of_v, (batch, length, 1, channels))
    of_last = _floats(call.of_last, (batch, directions, channels, states))
    of_u = _floats(call.of_u, (parts * batch, length, 1, channels))
    of_raw = _floats(call.of_raw, (blocks * batch, length, directions, call.raw_row))
    of_B = _floats(call.of_B, (blocks * batch, length, directions, call.weights_row))
    of_C = _floats(call.of_C, (blocks * batch, length, directions, call.weights_row))
    of_fixed = _floats(call.of_fixed, (batch, directions, channels, states + rank + 2))
    of_h0 = _floats(call.of_h0, (batch, directions, channels, states))
    block, chunk, grad = (
        _new_block(padded, padded_rank),
        _new_chunk(padded, padded_rank),
        _new_gradients(padded, padded_rank),
    )
    h = _rows(padded, LANES)
    while True:
        task = count(counters, _TAKEN)
        if task >= parts * batch * blocks:
            break
        share, b, own = task // (batch * blocks), task // blocks % batch, task % blocks
        c0 = own * LANES
        width = min(LANES, channels - c0)
        lanes = (width + WIDTH - 1) // WIDTH * WIDTH
        for k in range(share if parts > 1 else 0, share + 1 if parts > 1 else directions):
            part = Part(b, k, c0, width, lanes)
            # lanes past the width have u = dv = 0 and h = dh = 0: they add nothing to dB and dC
            chunk.x[:], chunk.raw[:], h[:] = 0, 0, 0
            grad.v[:], grad.h[:], grad.A[:], grad.D[:], grad.dt_bias[:], grad.dt_weight[:] = 0, 0, 0, 0, 0, 0
            _parameters(inputs, part, block)
            for n in range(states):
                for r in range(width):
                    grad.h[n, r] = of_last[b, k, np.uintp(c0 + r), n]
            for i in range(call.chunks - 1, -1, -1):
                size = min(CHUNK, length - i * CHUNK)
                _read(inputs, part, block, chunk, i * CHUNK, size, call.softplus, True)
                fetch(of_v, b, 0, c0, chunk.pixels, grad.v, size, width)
                for n in range(states):
                    for r in range(width):
                        h[n, r] = inputs.starts[b, k, i, n, np.uintp(c0 + r)]
                grad.dt[:], grad.dtx[:] = 0, 0
                retrace(h, block, chunk, grad, size, lanes)
                close(block, chunk, grad, size, lanes)
                put(grad.B, of_B, own * batch + b, k, 0, chunk.pixels, size, states)
                put(grad.C, of_C, own * batch + b, k, 0, chunk.pixels, size, states)
                if rank > 0:
                    project_back(block, chunk, grad, size, lanes)
                    put(grad.low_rank, of_raw, own * batch + b, k, 0, chunk.pixels, size, rank)
                else:
                    put(grad.dt, of_raw, b, k, c0, chunk.pixels, size, width)
                if k == 0 or parts > 1:
                    put(grad.dtx, of_u, share * batch + b, 0, c0, chunk.pixels, size, width)
                else:
                    add(grad.dtx, of_u, b, 0, c0, chunk.pixels, size, width)
            for r in range(width):
                c = np.uintp(c0 + r)
                for n in range(states):
                    of_fixed[b, k, c, n], of_h0[b, k, c, n] = grad.A[n, r], grad.h[n, r]
                for j in range(rank):
                    of_fixed[b, k, c, states + j] = grad.dt_weight[j, r]
                of_fixed[b, k, c, states + rank] = grad.D[0, r]
                of_fixed[b, k, c, states + rank + 1] = grad.dt_bias[0, r]
        count(counters, _FINISHED)
