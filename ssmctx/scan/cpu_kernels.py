"""Numba kernels of the CPU scan: channels on the SIMD lanes, one block of channels at a time.

Every kernel handles the tasks first, first + stride, ... of one scan; a task is one block of channels of one picture.
Tasks share nothing that they write, so that results do not depend on how many threads share them out.

Step sizes come as they are, raw (batch, L, K, d) and weight (K, 0, d), or as a product, raw (batch, L, K, rank) and
weight (K, rank, d).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ssmctx.jit import kernel
from ssmctx.scan import cpu_sizes, cpu_tiles, simd
from ssmctx.scan.cpu_sizes import CHUNK, LANES, TILE
from ssmctx.scan.cpu_tiles import (
    add,
    advance,
    advance_and_emit,
    close,
    fetch,
    plain_steps,
    project,
    put,
    retrace,
    soft_steps,
)
from ssmctx.scan.simd import WIDTH

__all__ = ["scan_backward", "scan_forward"]

_INLINE: dict[str, Any] = {"inline": "always"}
_KERNEL: dict[str, Any] = {
    "made_of": (cpu_sizes, cpu_tiles, simd),
    "error_model": "numpy",
    "boundscheck": False,
}


@njit(**_INLINE)
def _pixel(walk, position):
    """The pixel at a position of a direction; walk is (start, length of a line, step in it, step between lines)."""
    start, line, step, jump = walk
    return start + (position // line) * jump + (position % line) * step


# arrays are handed over whole, with the indices of the row that is meant: a view of each would have to be counted


@njit(**_INLINE)
def _read(u, raw, b, k, c0, width, lanes, weight, shift, softplus, walk, begin, size, pixels, x, low, given, dt, dtx):
    """Everything that does not depend on a state, for a chunk of positions from `begin` on."""
    for t in range(size):
        pixels[t] = _pixel(walk, begin + t)
    fetch(u, b, 0, c0, pixels, x, size, width)
    rank = weight.shape[0]
    if rank > 0:
        fetch(raw, b, k, 0, pixels, low, size, rank)
        project(low, weight, given, size, lanes)
    else:
        fetch(raw, b, k, c0, pixels, given, size, width)
    if softplus:
        soft_steps(given, shift, x, dt, dtx, size, lanes)
    else:
        plain_steps(given, shift, x, dt, dtx, size, lanes)


@njit(**_INLINE)
def _parameters(A2, D, bias, weight, k, c0, width, A, skip, shift, part):
    """A block's share of what is fixed along a direction."""
    for r in range(width):
        shift[0, r] = bias[k, np.uintp(c0 + r)]
        skip[0, r] = D[k, np.uintp(c0 + r)]
    for n in range(A2.shape[1]):
        for r in range(width):
            A[n, r] = A2[k, n, np.uintp(c0 + r)]
    for j in range(weight.shape[1]):
        for r in range(width):
            part[j, r] = weight[k, j, np.uintp(c0 + r)]


@kernel(**_KERNEL)
def scan_forward(u, raw, weight, A2, B, C, D, bias, h0, walks, softplus, parts, first, stride, v, last):
    """Scan some tasks; writes their part of v (parts * batch, L, 1, d) and of last (batch, K, d, N).

    With as many parts as directions, each direction is a task of its own and writes its own part; with one part, the
    directions of a task add up in it. The order of additions, and so every bit, is the same.
    """
    batch, length, _, channels = u.shape
    directions, states, _ = A2.shape
    padded = (states + TILE - 1) // TILE * TILE
    blocks = (channels + LANES - 1) // LANES
    h, A = np.zeros((padded, LANES), np.float32), np.zeros((padded, LANES), np.float32)
    skip, shift = np.zeros((1, LANES), np.float32), np.zeros((1, LANES), np.float32)
    steps, low = np.zeros((weight.shape[1], LANES), np.float32), np.zeros((CHUNK, weight.shape[1]), np.float32)
    pixels = np.zeros(CHUNK, np.int64)
    x, given = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    dt, dtx = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    y = np.zeros((CHUNK, LANES), np.float32)
    into, out = np.zeros((CHUNK, padded), np.float32), np.zeros((CHUNK, padded), np.float32)
    for task in range(first, parts * batch * blocks, stride):
        part, b, c0 = task // (batch * blocks), task // blocks % batch, task % blocks * LANES
        width = min(LANES, channels - c0)
        lanes = (width + WIDTH - 1) // WIDTH * WIDTH
        for k in range(part if parts > 1 else 0, part + 1 if parts > 1 else directions):
            # lanes past the width hold left-overs of other tasks: finite, and never stored
            _parameters(A2, D, bias, weight, k, c0, width, A, skip, shift, steps)
            for n in range(states):
                for r in range(width):
                    h[n, r] = h0[b, k, np.uintp(c0 + r), n]
            for begin in range(0, length, CHUNK):
                size = min(CHUNK, length - begin)
                _read(
                    u,
                    raw,
                    b,
                    k,
                    c0,
                    width,
                    lanes,
                    steps,
                    shift,
                    softplus,
                    walks[k],
                    begin,
                    size,
                    pixels,
                    x,
                    low,
                    given,
                    dt,
                    dtx,
                )
                fetch(B, b, k, 0, pixels, into, size, states)
                fetch(C, b, k, 0, pixels, out, size, states)
                for t in range(size):
                    for r in range(LANES):
                        y[t, r] = skip[0, r] * x[t, r]
                advance_and_emit(h, A, dt, dtx, into, out, y, size, lanes)
                if k == 0 or parts > 1:
                    put(y, v, part * batch + b, 0, c0, pixels, size, width)
                else:
                    add(y, v, b, 0, c0, pixels, size, width)
            for n in range(states):
                for r in range(width):
                    last[b, k, np.uintp(c0 + r), n] = h[n, r]


@kernel(**_KERNEL)
def scan_backward(
    dv,
    dlast,
    u,
    raw,
    weight,
    A2,
    B,
    C,
    D,
    bias,
    h0,
    walks,
    softplus,
    parts,
    first,
    stride,
    du,
    draw,
    dA,
    dB,
    dC,
    dD,
    dbias,
    dh0,
):
    """Gradients of some tasks of `scan_forward`.

    Writes du (parts * batch, L, 1, d), draw (batch, L, K, d), dA (batch, K, N, d), dD and dbias (batch, K, d), dh0
    (batch, K, d, N) and, one part a block of channels, dB and dC (blocks * batch, L, K, N). Keeps the states at the
    start of each chunk of positions and recomputes those within.
    """
    batch, length, _, channels = u.shape
    directions, states, _ = A2.shape
    padded = (states + TILE - 1) // TILE * TILE
    blocks = (channels + LANES - 1) // LANES
    chunks = (length + CHUNK - 1) // CHUNK
    starts = np.zeros((chunks, padded, LANES), np.float32)
    h, A = np.zeros((padded, LANES), np.float32), np.zeros((padded, LANES), np.float32)
    carry, grad_A = np.zeros((padded, LANES), np.float32), np.zeros((padded, LANES), np.float32)
    skip, shift = np.zeros((1, LANES), np.float32), np.zeros((1, LANES), np.float32)
    grad_D, grad_bias = np.zeros((1, LANES), np.float32), np.zeros((1, LANES), np.float32)
    steps, low = np.zeros((weight.shape[1], LANES), np.float32), np.zeros((CHUNK, weight.shape[1]), np.float32)
    pixels = np.zeros(CHUNK, np.int64)
    x, given = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    dt, dtx = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    g = np.zeros((CHUNK, LANES), np.float32)
    grad_dt, grad_dtx = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    into, out = np.zeros((CHUNK, padded), np.float32), np.zeros((CHUNK, padded), np.float32)
    grad_into, grad_out = np.zeros((CHUNK, padded), np.float32), np.zeros((CHUNK, padded), np.float32)
    trail = np.zeros((CHUNK + 1, 2 * TILE, WIDTH), np.float32)
    sums = np.zeros((CHUNK, 2 * TILE, WIDTH), np.float32)
    for task in range(first, parts * batch * blocks, stride):
        part, b, block = task // (batch * blocks), task // blocks % batch, task % blocks
        c0 = block * LANES
        width = min(LANES, channels - c0)
        lanes = (width + WIDTH - 1) // WIDTH * WIDTH
        for k in range(part if parts > 1 else 0, part + 1 if parts > 1 else directions):
            # lanes past the width have u = dv = 0 and h = carry = 0: they add nothing to dB and dC
            x[:], given[:], g[:], h[:], carry[:], grad_A[:], grad_D[:], grad_bias[:] = 0, 0, 0, 0, 0, 0, 0, 0
            _parameters(A2, D, bias, weight, k, c0, width, A, skip, shift, steps)
            for n in range(states):
                for r in range(width):
                    h[n, r] = h0[b, k, np.uintp(c0 + r), n]
                    carry[n, r] = dlast[b, k, np.uintp(c0 + r), n]
            starts[0] = h
            for chunk in range(chunks - 1):  # to the start of the last chunk, keeping the state at each start
                begin = chunk * CHUNK
                _read(
                    u,
                    raw,
                    b,
                    k,
                    c0,
                    width,
                    lanes,
                    steps,
                    shift,
                    softplus,
                    walks[k],
                    begin,
                    CHUNK,
                    pixels,
                    x,
                    low,
                    given,
                    dt,
                    dtx,
                )
                fetch(B, b, k, 0, pixels, into, CHUNK, states)
                advance(h, A, dt, dtx, into, CHUNK, lanes)
                starts[chunk + 1] = h
            for chunk in range(chunks - 1, -1, -1):  # and back again
                begin = chunk * CHUNK
                size = min(CHUNK, length - begin)
                _read(
                    u,
                    raw,
                    b,
                    k,
                    c0,
                    width,
                    lanes,
                    steps,
                    shift,
                    softplus,
                    walks[k],
                    begin,
                    size,
                    pixels,
                    x,
                    low,
                    given,
                    dt,
                    dtx,
                )
                fetch(B, b, k, 0, pixels, into, size, states)
                fetch(C, b, k, 0, pixels, out, size, states)
                fetch(dv, b, 0, c0, pixels, g, size, width)
                h[:], grad_dt[:], grad_dtx[:] = starts[chunk], 0, 0
                retrace(
                    h,
                    A,
                    dt,
                    dtx,
                    into,
                    out,
                    g,
                    carry,
                    grad_A,
                    grad_dt,
                    grad_dtx,
                    grad_into,
                    grad_out,
                    trail,
                    sums,
                    size,
                    lanes,
                )
                close(given, x, dt, g, skip, grad_dt, grad_dtx, grad_D, grad_bias, softplus, size, lanes)
                put(grad_into, dB, block * batch + b, k, 0, pixels, size, states)
                put(grad_out, dC, block * batch + b, k, 0, pixels, size, states)
                put(grad_dt, draw, b, k, c0, pixels, size, width)
                if k == 0 or parts > 1:
                    put(grad_dtx, du, part * batch + b, 0, c0, pixels, size, width)
                else:
                    add(grad_dtx, du, b, 0, c0, pixels, size, width)
            for r in range(width):
                dD[b, k, np.uintp(c0 + r)] = grad_D[0, r]
                dbias[b, k, np.uintp(c0 + r)] = grad_bias[0, r]
            for n in range(states):
                for r in range(width):
                    dA[b, k, n, np.uintp(c0 + r)] = grad_A[n, r]
                    dh0[b, k, np.uintp(c0 + r), n] = carry[n, r]
