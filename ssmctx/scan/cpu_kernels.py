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

from ssmctx.scan.cpu import MAX_STATES

__all__ = ["LANES", "LOG2E", "scan_backward", "scan_forward"]

LANES = 64
"""Channels in a block. It sets the order in which gradients of B and C are summed, so it is fixed."""

CHUNK = 16
"""Positions whose states the backward pass holds at a time."""

# rows of the backward pass's scratch array: gradients of one position, before those with one row a state
_GRAD_DT, _GRAD_DTX, _GRAD_D, _GRAD_BIAS, _ROWS = range(5)

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


@intrinsic
def _sum_lanes(typing_context: Any, rows: Any, row: Any) -> Any:
    """Sum of one row of 64 float32 in a C-ordered array, by halves.

    Written as vectors: as loops of so few turns it would be unrolled to scalars.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = context.make_array(sig.args[0])(context, builder, args[0])
        start = builder.gep(array.data, [builder.mul(args[1], ir.Constant(args[1].type, LANES))])
        vector = builder.load(builder.bitcast(start, ir.VectorType(ir.FloatType(), LANES).as_pointer()), align=4)
        width = LANES
        while width > 1:
            width //= 2
            halves = [ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(i, i + width))) for i in (0, width)]
            vector = builder.fadd(*(builder.shuffle_vector(vector, vector, half) for half in halves))
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return types.float32(rows, types.intp), generate


@njit(**_INLINE)
def _pixel(walk, position):
    """The pixel at a position of a direction; walk is (start, length of a line, step in it, step between lines)."""
    start, line, step, jump = walk
    return start + (position // line) * jump + (position % line) * step


# arrays are handed over whole, with the indices of the row that is meant: a view of each would have to be counted


@njit(**_INLINE)
def _fetch(u, raw, b, k, c0, width, shift, pixels, size, x, given):
    """Read u and the raw step sizes, bias added, of some pixels of a block."""
    for t in range(size):
        p = pixels[t]
        for r in range(width):
            x[t, r] = u[b, p, np.uintp(c0 + r)]
            given[t, r] = raw[b, p, k, np.uintp(c0 + r)] + shift[r]


@njit(**_INLINE)
def _read(u, raw, b, k, c0, width, shift, softplus, walk, begin, size, pixels, x, given, dt, dtx):
    """Everything that does not depend on a state, for a chunk of positions from `begin` on."""
    for t in range(size):
        pixels[t] = _pixel(walk, begin + t)
    if width == LANES:  # a constant length makes loops without a remainder
        _fetch(u, raw, b, k, c0, LANES, shift, pixels, size, x, given)
    else:
        _fetch(u, raw, b, k, c0, width, shift, pixels, size, x, given)
    for t in range(size):
        if softplus:
            for r in range(LANES):
                dt[t, r] = _softplus(given[t, r])
        else:
            for r in range(LANES):
                dt[t, r] = given[t, r]
        for r in range(LANES):
            dtx[t, r] = dt[t, r] * x[t, r]


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
    decay = np.zeros((states, LANES), np.float32)
    skip, shift = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    pixels = np.zeros(CHUNK, np.int64)
    x, given = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    dt, dtx = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    y = np.zeros((CHUNK, LANES), np.float32)
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
            for begin in range(0, length, CHUNK):
                size = min(CHUNK, length - begin)
                _read(u, raw, b, k, c0, width, shift, softplus, walks[k], begin, size, pixels, x, given, dt, dtx)
                for t in range(size):
                    p = pixels[t]
                    for r in range(LANES):
                        y[t, r] = skip[r] * x[t, r]
                    # apart from what follows: short loops keep the processor's units full
                    for n in range(states):
                        for r in range(LANES):
                            decay[n, r] = _exp2(dt[t, r] * A[n, r])
                    for n in range(0, quads, 4):  # four at a time: less to load and to store
                        b0, b1, b2, b3 = B[b, p, k, n], B[b, p, k, n + 1], B[b, p, k, n + 2], B[b, p, k, n + 3]
                        c0_, c1, c2, c3 = C[b, p, k, n], C[b, p, k, n + 1], C[b, p, k, n + 2], C[b, p, k, n + 3]
                        for r in range(LANES):
                            h0_ = decay[n, r] * h[n, r] + dtx[t, r] * b0
                            h1 = decay[n + 1, r] * h[n + 1, r] + dtx[t, r] * b1
                            h2 = decay[n + 2, r] * h[n + 2, r] + dtx[t, r] * b2
                            h3 = decay[n + 3, r] * h[n + 3, r] + dtx[t, r] * b3
                            h[n, r], h[n + 1, r], h[n + 2, r], h[n + 3, r] = h0_, h1, h2, h3
                            y[t, r] += (h0_ * c0_ + h1 * c1) + (h2 * c2 + h3 * c3)
                    for n in range(quads, states):
                        weight_in, weight_out = B[b, p, k, n], C[b, p, k, n]
                        for r in range(LANES):
                            state = decay[n, r] * h[n, r] + dtx[t, r] * weight_in
                            h[n, r] = state
                            y[t, r] += state * weight_out
                _write(y, k == 0 or parts > 1, v, part, b, c0, width, pixels, size)
            for n in range(states):
                for r in range(width):
                    last[b, k, np.uintp(c0 + r), n] = h[n, r]


@njit(**_INLINE)
def _write(y, fresh, v, part, b, c0, width, pixels, size):
    """Put rows on their pixels: the first direction writes, the others add."""
    for t in range(size):
        p = pixels[t]
        if fresh:
            for r in range(width):
                v[part, b, p, np.uintp(c0 + r)] = y[t, r]
        else:
            for r in range(width):
                v[part, b, p, np.uintp(c0 + r)] += y[t, r]


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
    pixels = np.zeros(CHUNK, np.int64)
    x, given = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    dt, dtx = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    g, slope = np.zeros((CHUNK, LANES), np.float32), np.ones((CHUNK, LANES), np.float32)  # dv; of dt over its raw value
    grad_x, grad_raw = np.zeros((CHUNK, LANES), np.float32), np.zeros((CHUNK, LANES), np.float32)
    # what the innermost loop writes is rows of one array, at fixed distances: only so can the compiler tell them apart
    s = np.zeros((_ROWS + 4 * MAX_STATES, LANES), np.float32)
    carry, grad_A = _ROWS, _ROWS + MAX_STATES
    for_B, for_C = _ROWS + 2 * MAX_STATES, _ROWS + 3 * MAX_STATES
    A = np.zeros((states, LANES), np.float32)
    skip, shift = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for task in range(first, parts * batch * blocks, stride):
        part, b, block = task // (batch * blocks), task // blocks % batch, task % blocks
        c0 = block * LANES
        width = min(LANES, channels - c0)
        for k in range(part if parts > 1 else 0, part + 1 if parts > 1 else directions):
            # lanes past the width have u = dv = 0 and h = carry = 0: they add nothing to dB and dC
            x[:], given[:], g[:], h[0], s[:] = 0, 0, 0, 0, 0
            for r in range(width):
                shift[r] = bias[k, np.uintp(c0 + r)]
                skip[r] = D[k, np.uintp(c0 + r)]
            for n in range(states):
                for r in range(width):
                    h[0, n, r] = h0[b, k, np.uintp(c0 + r), n]
                    s[carry + n, r] = dlast[b, k, np.uintp(c0 + r), n]
                    A[n, r] = A2[k, n, np.uintp(c0 + r)]
            for chunk in range(chunks - 1):  # to the start of the last chunk, keeping the state at each start
                begin = chunk * CHUNK
                starts[chunk] = h[0]
                _read(u, raw, b, k, c0, width, shift, softplus, walks[k], begin, CHUNK, pixels, x, given, dt, dtx)
                for t in range(CHUNK):
                    for n in range(states):
                        weight_in = B[b, pixels[t], k, n]
                        for r in range(LANES):
                            h[0, n, r] = _exp2(dt[t, r] * A[n, r]) * h[0, n, r] + dtx[t, r] * weight_in
            starts[chunks - 1] = h[0]
            for chunk in range(chunks - 1, -1, -1):  # and back again
                begin = chunk * CHUNK
                size = min(CHUNK, length - begin)
                h[0] = starts[chunk]
                _read(u, raw, b, k, c0, width, shift, softplus, walks[k], begin, size, pixels, x, given, dt, dtx)
                for t in range(size):
                    p = pixels[t]
                    for r in range(width):
                        g[t, r] = dv[b, p, np.uintp(c0 + r)]
                    if softplus:
                        for r in range(LANES):
                            slope[t, r] = _sigmoid(given[t, r])
                    # two loops of few arrays each: with more the compiler gives up telling them apart
                    for n in range(states):
                        weight_in = B[b, p, k, n]
                        for r in range(LANES):
                            decay[t, n, r] = _exp2(dt[t, r] * A[n, r])
                        for r in range(LANES):
                            h[t + 1, n, r] = decay[t, n, r] * h[t, n, r] + dtx[t, r] * weight_in
                for t in range(size - 1, -1, -1):
                    p = pixels[t]
                    for r in range(LANES):
                        s[_GRAD_DTX, r] = np.float32(0.0)
                        s[_GRAD_DT, r] = np.float32(0.0)
                        s[_GRAD_D, r] += g[t, r] * x[t, r]
                    for n in range(states):
                        weight_in, weight_out = B[b, p, k, n], C[b, p, k, n]
                        for r in range(LANES):
                            grad_h = s[carry + n, r] + g[t, r] * weight_out
                            s[for_C + n, r] = g[t, r] * h[t + 1, n, r]
                            s[for_B + n, r] = grad_h * dtx[t, r]
                            s[_GRAD_DTX, r] += grad_h * weight_in
                            through = grad_h * decay[t, n, r]
                            s[carry + n, r] = through
                            exponent = through * h[t, n, r]
                            s[_GRAD_DT, r] += exponent * A[n, r]
                            s[grad_A + n, r] += exponent * dt[t, r]
                    for n in range(states):
                        dB[block, b, p, k, n] = _sum_lanes(s, for_B + n)
                        dC[block, b, p, k, n] = _sum_lanes(s, for_C + n)
                    for r in range(LANES):
                        # A is in units of ln 2 here
                        grad_raw[t, r] = (s[_GRAD_DT, r] * _LN2 + s[_GRAD_DTX, r] * x[t, r]) * slope[t, r]
                        grad_x[t, r] = s[_GRAD_DTX, r] * dt[t, r] + skip[r] * g[t, r]
                    for r in range(LANES):
                        s[_GRAD_BIAS, r] += grad_raw[t, r]
                    for r in range(width):
                        draw[b, p, k, np.uintp(c0 + r)] = grad_raw[t, r]
                _write(grad_x, k == 0 or parts > 1, du, part, b, c0, width, pixels, size)
            for r in range(width):
                dD[b, k, np.uintp(c0 + r)] = s[_GRAD_D, r]
                dbias[b, k, np.uintp(c0 + r)] = s[_GRAD_BIAS, r]
            for n in range(states):
                for r in range(width):
                    dA[b, k, n, np.uintp(c0 + r)] = s[grad_A + n, r]
                    dh0[b, k, np.uintp(c0 + r), n] = s[carry + n, r]
