"""Numba kernels of the CPU scan: channels on the SIMD lanes, one block of channels at a time.

Every kernel handles the tasks first, first + stride, ... of one scan; a task is one block of channels of one picture.
Tasks share nothing that they write, so that results do not depend on how many threads share them out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["LANES", "LOG2E", "scan_backward", "scan_forward"]

LANES = 64
"""Channels in a block. It sets the order in which gradients of B and C are summed, so it is fixed."""

MAX_STATES = 64

CHUNK = 16
"""Positions whose states the backward pass holds at a time."""

# rows of the backward pass's scratch array: gradients of one position, before those with one row a state
_G, _DT, _DTX, _GRAD_DT, _GRAD_DTX, _GRAD_D, _GRAD_BIAS, _ROWS = range(8)

# what vectorising needs, and no more: sums keep their order and NaN stays NaN
_FAST = {"contract", "nsz", "arcp"}
_INLINE: dict[str, Any] = {"inline": "always", "fastmath": _FAST}
_KERNEL: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": _FAST,
    "error_model": "numpy",
    "boundscheck": False,
}

LOG2E = np.float32(1.4426950408889634)
_LN2 = np.float32(0.6931471805599453)
_ROUND = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits


@intrinsic
def _as_int(typing_context: Any, x: Any) -> Any:
    """The bits of a float32."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def _as_float(typing_context: Any, x: Any) -> Any:
    """A float32 of these bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())


@njit(**_INLINE)
def _exp2(t):
    """2^t for t <= 0, relative error 1.1e-7, exact at 0; below -126 it is 2^-126, which is as good as 0."""
    t = max(t, np.float32(-126.0))
    whole = t + _ROUND
    f = t - (whole - _ROUND)
    p = np.float32(1.33003e-3)
    p = p * f + np.float32(9.66971e-3)
    p = p * f + np.float32(5.55056e-2)
    p = p * f + np.float32(2.4022282e-1)
    p = p * f + _LN2
    p = p * f + np.float32(1.0)
    return p * _as_float(np.int32((_as_int(whole) << np.int32(23)) + np.int32(0x3F800000)))


@njit(**_INLINE)
def _softplus(x):
    """log(1 + e^x), to relative precision for very negative x as well."""
    e = _exp2(-abs(x) * LOG2E)
    s = e / (np.float32(2.0) + e)  # log(1 + e) = 2 artanh(s), s <= 1/3
    q = s * s
    p = np.float32(1.0 / 13.0)
    p = p * q + np.float32(1.0 / 11.0)
    p = p * q + np.float32(1.0 / 9.0)
    p = p * q + np.float32(1.0 / 7.0)
    p = p * q + np.float32(1.0 / 5.0)
    p = p * q + np.float32(1.0 / 3.0)
    p = p * q + np.float32(1.0)
    return max(x, np.float32(0.0)) + np.float32(2.0) * s * p


@njit(**_INLINE)
def _sigmoid(x):
    """1 / (1 + e^-x)."""
    e = _exp2(-abs(x) * LOG2E)
    return (np.float32(1.0) if x >= np.float32(0.0) else e) / (np.float32(1.0) + e)


@njit(**_INLINE)
def _sum_rows(rows, first, count, block, b, p, k, out):
    """Sums over the lanes of `count` rows from `first` on, by halves; the rows are used up."""
    for n in range(count):
        row = first + n
        for r in range(32):
            rows[row, r] += rows[row, np.uintp(r + 32)]
        for r in range(16):
            rows[row, r] += rows[row, np.uintp(r + 16)]
        for r in range(8):
            rows[row, r] += rows[row, np.uintp(r + 8)]
        left = (rows[row, 0] + rows[row, 4]) + (rows[row, 1] + rows[row, 5])
        right = (rows[row, 2] + rows[row, 6]) + (rows[row, 3] + rows[row, 7])
        out[block, b, p, k, n] = left + right


@njit(**_INLINE)
def _pixel(walk, position):
    """The pixel at a position of a direction; walk is (start, length of a line, step in it, step between lines)."""
    start, line, step, jump = walk
    return start + (position // line) * jump + (position % line) * step


# arrays are handed over whole, with the indices of the row that is meant: a view of each would have to be counted


@njit(**_INLINE)
def _load(u, raw, b, p, k, c0, width, shift, softplus, t, x, given, dt):
    """Read one position of a block into row t of x, its input, `given`, its raw step sizes, and dt, made of them."""
    for r in range(width):
        x[t, r] = u[b, p, np.uintp(c0 + r)]
        given[t, r] = raw[b, p, k, np.uintp(c0 + r)] + shift[r]
    if softplus:
        for r in range(LANES):
            dt[t, r] = _softplus(given[t, r])
    else:
        for r in range(LANES):
            dt[t, r] = given[t, r]


@njit(**_INLINE)
def _advance(dt, x, A, B, b, p, k, t, h, decay):
    """One step of the recurrence, from row t of h to row t + 1; the decays in between are kept."""
    # two loops of few arrays each: with more the compiler gives up telling them apart, and does not vectorise
    for n in range(len(A)):
        weight_in = B[b, p, k, n]
        for r in range(LANES):
            decay[t, n, r] = _exp2(dt[t, r] * A[n, r])
        for r in range(LANES):
            h[t + 1, n, r] = decay[t, n, r] * h[t, n, r] + dt[t, r] * x[t, r] * weight_in


@njit(**_KERNEL)
def scan_forward(u, raw, A2, B, C, D, bias, h0, walks, softplus, first, stride, v, last):
    """Scan some tasks; writes their part of v (parts, batch, L, d) and of last (batch, K, d, N).

    With as many parts as directions, each direction is a task of its own and writes its own part; with one part, the
    directions of a task add up in it. The order of additions, and so every bit, is the same.
    """
    parts, batch, length, channels = v.shape
    directions, states, _ = A2.shape
    quads = states // 4 * 4
    blocks = (channels + LANES - 1) // LANES
    h, A = np.zeros((states, LANES), np.float32), np.zeros((states, LANES), np.float32)
    skip, shift = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    x, given, dt = (
        np.zeros((1, LANES), np.float32),
        np.zeros((1, LANES), np.float32),
        np.zeros((1, LANES), np.float32),
    )
    dtx, y = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for task in range(first, parts * batch * blocks, stride):
        part, b, c0 = task // (batch * blocks), task // blocks % batch, task % blocks * LANES
        width = min(LANES, channels - c0)
        for k in range(part if parts > 1 else 0, part + 1 if parts > 1 else directions):
            # lanes past the width hold left-overs of other tasks: finite, and never stored
            for r in range(width):
                shift[r] = bias[k, np.uintp(c0 + r)]
                skip[r] = D[k, np.uintp(c0 + r)]
            for n in range(states):
                for r in range(width):
                    h[n, r] = h0[b, k, np.uintp(c0 + r), n]
                    A[n, r] = A2[k, n, np.uintp(c0 + r)]
            for position in range(length):
                p = _pixel(walks[k], position)
                _load(u, raw, b, p, k, c0, width, shift, softplus, 0, x, given, dt)
                for r in range(LANES):
                    dtx[r] = dt[0, r] * x[0, r]
                    y[r] = skip[r] * x[0, r]
                for n in range(0, quads, 4):  # four at a time: less to load and to store
                    b0, b1, b2, b3 = B[b, p, k, n], B[b, p, k, n + 1], B[b, p, k, n + 2], B[b, p, k, n + 3]
                    c0_, c1, c2, c3 = C[b, p, k, n], C[b, p, k, n + 1], C[b, p, k, n + 2], C[b, p, k, n + 3]
                    for r in range(LANES):
                        h0_ = _exp2(dt[0, r] * A[n, r]) * h[n, r] + dtx[r] * b0
                        h1 = _exp2(dt[0, r] * A[n + 1, r]) * h[n + 1, r] + dtx[r] * b1
                        h2 = _exp2(dt[0, r] * A[n + 2, r]) * h[n + 2, r] + dtx[r] * b2
                        h3 = _exp2(dt[0, r] * A[n + 3, r]) * h[n + 3, r] + dtx[r] * b3
                        h[n, r], h[n + 1, r], h[n + 2, r], h[n + 3, r] = h0_, h1, h2, h3
                        y[r] += (h0_ * c0_ + h1 * c1) + (h2 * c2 + h3 * c3)
                for n in range(quads, states):
                    weight_in, weight_out = B[b, p, k, n], C[b, p, k, n]
                    for r in range(LANES):
                        state = _exp2(dt[0, r] * A[n, r]) * h[n, r] + dtx[r] * weight_in
                        h[n, r] = state
                        y[r] += state * weight_out
                if k == 0 or parts > 1:
                    for r in range(width):
                        v[part, b, p, np.uintp(c0 + r)] = y[r]
                else:
                    for r in range(width):
                        v[part, b, p, np.uintp(c0 + r)] += y[r]
            for n in range(states):
                for r in range(width):
                    last[b, k, np.uintp(c0 + r), n] = h[n, r]


@njit(**_KERNEL)
def scan_backward(
    dv, dlast, u, raw, A2, B, C, D, bias, h0, walks, softplus, first, stride, du, draw, dA, dB, dC, dD, dbias, dh0
):
    """Gradients of some tasks of `scan_forward`.

    Writes du (parts, batch, L, d), draw (batch, L, K, d), dA (batch, K, N, d), dD and dbias (batch, K, d), dh0
    (batch, K, d, N) and, one part a block of channels, dB and dC (blocks, batch, L, K, N). Keeps the states at the
    start of each chunk of positions and recomputes those within.
    """
    parts, batch, length, channels = du.shape
    directions, states, _ = A2.shape
    blocks = (channels + LANES - 1) // LANES
    chunks = (length + CHUNK - 1) // CHUNK
    starts = np.zeros((chunks, states, LANES), np.float32)
    h = np.zeros((CHUNK + 1, states, LANES), np.float32)  # states before and after each position of a chunk
    decay = np.zeros((CHUNK, states, LANES), np.float32)
    x, dt = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    slope = np.ones((CHUNK, LANES), np.float32)  # of dt over its raw value
    # what the innermost loop writes is rows of one array, at fixed distances: only so can the compiler tell them apart
    s = np.zeros((_ROWS + 4 * MAX_STATES, LANES), np.float32)
    carry, grad_A = _ROWS, _ROWS + MAX_STATES
    for_B, for_C = _ROWS + 2 * MAX_STATES, _ROWS + 3 * MAX_STATES
    A, given = np.zeros((states, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    skip, shift = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for task in range(first, parts * batch * blocks, stride):
        part, b, block = task // (batch * blocks), task // blocks % batch, task % blocks
        c0 = block * LANES
        width = min(LANES, channels - c0)
        for k in range(part if parts > 1 else 0, part + 1 if parts > 1 else directions):
            # lanes past the width have u = dv = 0 and h = carry = 0: they add nothing to dB and dC
            x[:], given[:], h[0], s[:] = 0, 0, 0, 0
            for r in range(width):
                shift[r] = bias[k, np.uintp(c0 + r)]
                skip[r] = D[k, np.uintp(c0 + r)]
            for n in range(states):
                for r in range(width):
                    h[0, n, r] = h0[b, k, np.uintp(c0 + r), n]
                    s[carry + n, r] = dlast[b, k, np.uintp(c0 + r), n]
                    A[n, r] = A2[k, n, np.uintp(c0 + r)]
            for turn in range(2 * chunks - 1):
                # to the start of the last chunk, keeping the state at each start, and back again
                chunk = min(turn, 2 * chunks - 2 - turn)
                size = min(CHUNK, length - chunk * CHUNK)
                if turn < chunks:
                    starts[chunk] = h[0] if turn == 0 else h[CHUNK]
                h[0] = starts[chunk]
                for t in range(size):
                    p = _pixel(walks[k], chunk * CHUNK + t)
                    _load(u, raw, b, p, k, c0, width, shift, softplus, t, x, given, dt)
                    _advance(dt, x, A, B, b, p, k, t, h, decay)
                if turn < chunks - 1:
                    continue
                if softplus:
                    for t in range(size):
                        for r in range(LANES):
                            slope[t, r] = _sigmoid(given[t, r])
                for t in range(size - 1, -1, -1):
                    p = _pixel(walks[k], chunk * CHUNK + t)
                    for r in range(width):
                        s[_G, r] = dv[b, p, np.uintp(c0 + r)]
                    for r in range(LANES):
                        s[_DT, r] = dt[t, r]
                        s[_DTX, r] = dt[t, r] * x[t, r]
                        s[_GRAD_DTX, r] = np.float32(0.0)
                        s[_GRAD_DT, r] = np.float32(0.0)
                        s[_GRAD_D, r] += s[_G, r] * x[t, r]
                    for n in range(states):
                        weight_in, weight_out = B[b, p, k, n], C[b, p, k, n]
                        for r in range(LANES):
                            grad_h = s[carry + n, r] + s[_G, r] * weight_out
                            s[for_C + n, r] = s[_G, r] * h[t + 1, n, r]
                            s[for_B + n, r] = grad_h * s[_DTX, r]
                            s[_GRAD_DTX, r] += grad_h * weight_in
                            through = grad_h * decay[t, n, r]
                            s[carry + n, r] = through
                            exponent = through * h[t, n, r]
                            s[_GRAD_DT, r] += exponent * A[n, r]
                            s[grad_A + n, r] += exponent * s[_DT, r]
                    _sum_rows(s, for_B, states, block, b, p, k, dB)
                    _sum_rows(s, for_C, states, block, b, p, k, dC)
                    for r in range(LANES):
                        # A is in units of ln 2 here
                        s[_GRAD_DT, r] = (s[_GRAD_DT, r] * _LN2 + s[_GRAD_DTX, r] * x[t, r]) * slope[t, r]
                        s[_GRAD_BIAS, r] += s[_GRAD_DT, r]
                        s[_GRAD_DTX, r] = s[_GRAD_DTX, r] * dt[t, r] + skip[r] * s[_G, r]
                    for r in range(width):
                        draw[b, p, k, np.uintp(c0 + r)] = s[_GRAD_DT, r]
                    if k == 0 or parts > 1:
                        for r in range(width):
                            du[part, b, p, np.uintp(c0 + r)] = s[_GRAD_DTX, r]
                    else:
                        for r in range(width):
                            du[part, b, p, np.uintp(c0 + r)] += s[_GRAD_DTX, r]
            for r in range(width):
                dD[b, k, np.uintp(c0 + r)] = s[_GRAD_D, r]
                dbias[b, k, np.uintp(c0 + r)] = s[_GRAD_BIAS, r]
            for n in range(states):
                for r in range(width):
                    dA[b, k, n, np.uintp(c0 + r)] = s[grad_A + n, r]
                    dh0[b, k, np.uintp(c0 + r), n] = s[carry + n, r]
