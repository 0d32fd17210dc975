"""Triton kernels of the scan; `ssmctx.scan.triton.launch` says how they work together. Importing this needs triton."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["backward_kernel", "carry_kernel", "chunks_kernel", "forward_kernel"]

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_kernel: Any = triton.jit(do_not_specialize=["H", "W", "chunk", "chunks", "k", "codes", "count", "item"])


@triton.jit
def _softplus(x):
    # max(x, 0) + log1p(e) with e = exp(-|x|); as 2 artanh(e / (2 + e)) the logarithm keeps all digits of a small e
    e = tl.exp2(tl.abs(x) * -_LOG2E)
    z = e / (2 + e)
    s = z * z
    series = 1 + s * (1 / 3 + s * (1 / 5 + s * (1 / 7 + s * (1 / 9 + s * (1 / 11 + s * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2 * z * series


@triton.jit
def _softplus_slope(dt):
    # softplus' derivative where its value is dt: 1 - exp(-dt), as a series where that would cancel
    series = 1 - dt * (1 / 3) * (1 - dt * (1 / 4) * (1 - dt * (1 / 5) * (1 - dt * (1 / 6))))
    return tl.where(dt < 0.25, dt * (1 - dt * (1 / 2) * series), 1 - tl.exp2(dt * -_LOG2E))


@triton.jit
def _over_states(x):
    return tl.sum(tl.sum(x, 0, keep_dims=True), 2, keep_dims=True)


@triton.jit
def _over_channels(x):
    return tl.sum(tl.sum(x, 3, keep_dims=True), 1, keep_dims=True)  # axis 3 first: much of it is within a thread


@triton.jit
def _before(i, stop):
    return tl.full([1, 1, 1, 1], 0, tl.int32) + i < stop  # a tensor: the interpreter spoils masks made of scalars


@triton.jit
def _program(chunks, count, SHAPE: tl.constexpr, TILE: tl.constexpr):
    """Channel tile, direction, chunk and image of this program."""
    tiles: tl.constexpr = (SHAPE[0] + TILE[1] * TILE[3] - 1) // (TILE[1] * TILE[3])
    rest = tl.program_id(0) // tiles
    return tl.program_id(0) % tiles, rest % count, rest // count % chunks, rest // count // chunks


@triton.jit
def _tile(tile, SHAPE: tl.constexpr, TILE: tl.constexpr):
    """A tile's states and channels, and which of them exist; SHAPE is (d, N, K).

    TILE is (states a thread, channels a thread, lanes along states, lanes along channels). Triton spreads a
    tensor's last dimensions over the lanes and leaves the first to each thread: the shape chooses the layout.
    """
    n = tl.arange(0, TILE[0])[:, None, None, None] * TILE[2] + tl.arange(0, TILE[2])[None, None, :, None]
    c = tl.arange(0, TILE[1])[None, :, None, None] * TILE[3] + tl.arange(0, TILE[3])[None, None, None, :]
    c += tile * (TILE[1] * TILE[3])
    # "or a known multiple" makes the mask of a whole tile a constant, which costs nothing
    n_ok = (n < SHAPE[1]) | (SHAPE[1] == TILE[0] * TILE[2])
    return n, c, n_ok, (c < SHAPE[0]) | (SHAPE[0] % (TILE[1] * TILE[3]) == 0)


@triton.jit
def _walk(code, j, H, W):
    """Pixel at position j of the direction with this number in `DIRECTIONS`, and the stride to the next one."""
    i = tl.where(code >= 2, H * W - 1 - j, j)
    stride = tl.where(code % 2 == 1, W, 1)
    return tl.where(code % 2 == 1, i % H * W + i // H, i), tl.where(code >= 2, -stride, stride)


@triton.jit
def _inputs(u, dt, B, C, v, pixel, k, SHAPE: tl.constexpr):
    """Pointers to direction k of the image that begins with that pixel."""
    at = pixel * SHAPE[2] + k
    return u + pixel * SHAPE[0], dt + at * SHAPE[0], B + at * SHAPE[1], C + at * SHAPE[1], v + pixel * SHAPE[0]


@triton.jit
def _fetch(
    inputs, tile, p, stride, j, L,
    SHAPE: tl.constexpr, GROUP: tl.constexpr, WITH_C: tl.constexpr, WITH_V: tl.constexpr,
):  # fmt: skip
    """Load steps from position j, pixel p on: tuples (p, u, dt, B, C, v), the last two only if asked for.

    The walk stays on the last pixel, so that loads stay in bounds.
    """
    n, c, n_ok, c_ok = tile
    d: tl.constexpr = SHAPE[0]
    N: tl.constexpr = SHAPE[1]
    steps = ()
    for _ in tl.static_range(GROUP):
        q = p.to(tl.int64)
        u = tl.load(inputs[0] + q * d + c, mask=c_ok, other=0.0)
        dt = tl.load(inputs[1] + q * (SHAPE[2] * d) + c, mask=c_ok, other=0.0)
        B = tl.load(inputs[2] + q * (SHAPE[2] * N) + n, mask=n_ok, other=0.0)
        C = tl.load(inputs[3] + q * (SHAPE[2] * N) + n, mask=n_ok, other=0.0) if WITH_C else B
        v = tl.load(inputs[4] + q * d + c, mask=c_ok, other=0.0) if WITH_V else u
        steps = steps + ((q, u, dt, B, C, v),)
        j += 1
        to = p + stride
        to = tl.where(to >= L, to - (L - 1), tl.where(to < 0, to + (L - 1), to))
        p = tl.where(j < L, to, p)
    return steps, p, j


@_kernel
def chunks_kernel(
    u, dt_raw, A, B, C, dt_bias, dv, dt, h, r, dt_sum, H, W, chunk, chunks, k, codes, count,
    SHAPE: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, SOFTPLUS: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Each chunk from zero: last state h and sum of dt. ADJOINT: also dt, and r, the gradient before the chunk."""
    d: tl.constexpr = SHAPE[0]
    pid, direction, at, item = _program(chunks, count, SHAPE, TILE)
    k += direction
    L = H * W
    pixel = item.to(tl.int64) * L
    row = (item.to(tl.int64) * SHAPE[2] + k) * chunks + at
    tile = _tile(pid, SHAPE, TILE)
    n, c, n_ok, c_ok = tile
    A2 = tl.load(A + (k * d + c) * SHAPE[1] + n, mask=n_ok & c_ok, other=0.0) * _LOG2E
    bias = tl.load(dt_bias + k * d + c, mask=c_ok, other=0.0)
    inputs = _inputs(u, dt_raw, B, C, dv, pixel, k, SHAPE)
    dt += (pixel * SHAPE[2] + k) * d
    j = at * chunk
    stop = tl.minimum(chunk, L - j)
    p, stride = _walk((codes >> (2 * direction)) & 3, j, H, W)
    h_l = tl.zeros(TILE, tl.float32)
    r_l = h_l
    decay = h_l + 1
    total = tl.zeros_like(bias)
    for i in range(0, stop, GROUP):
        steps, p, j = _fetch(inputs, tile, p, stride, j, L, SHAPE, GROUP, ADJOINT, ADJOINT)
        for t in tl.static_range(GROUP):
            q, u_l, dt_l, B_l, C_l, dv_l = steps[t]
            live = _before(i + t, stop)
            dt_l += bias
            if SOFTPLUS:
                dt_l = _softplus(dt_l)
            dt_l = tl.where(live, dt_l, 0.0)  # a step past the end changes nothing
            a = tl.exp2(dt_l * A2)
            h_l = a * h_l + (dt_l * u_l) * B_l
            total += dt_l
            if ADJOINT:
                decay *= a
                r_l += decay * (C_l * tl.where(live, dv_l, 0.0))
                tl.store(dt + q * (SHAPE[2] * d) + c, dt_l, mask=c_ok & live)
    tl.store(h + (row * SHAPE[1] + n) * d + c, h_l, mask=n_ok & c_ok)
    tl.store(dt_sum + row * d + c, total, mask=c_ok)
    if ADJOINT:
        tl.store(r + (row * SHAPE[1] + n) * d + c, r_l, mask=n_ok & c_ok)


@_kernel
def carry_kernel(
    A, h, dt_sum, first, last, chunks,
    SHAPE: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """From what each chunk adds to the state before it (REVERSE: gradient after it), from `first` on to `last`."""
    d: tl.constexpr = SHAPE[0]
    states: tl.constexpr = SHAPE[0] * SHAPE[1]
    blocks: tl.constexpr = (states + BLOCK - 1) // BLOCK
    e = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    ends = e % d * SHAPE[1] + e // d  # the same state in the arguments, where states come last
    A2 = tl.load(A + row % SHAPE[2] * states + ends, mask=e < states, other=0.0) * _LOG2E
    state = tl.load(first + row * states + ends, mask=e < states, other=0.0)
    for i in range(0, chunks, GROUP):
        group = ()
        for t in tl.static_range(GROUP):
            at = row * chunks + (chunks - 1 - i - t if REVERSE else i + t)
            ok = e < tl.where(i + t < chunks, states, 0)
            total = tl.load(dt_sum + at * d + e % d, mask=ok, other=0.0)
            group = group + ((at, ok, total, tl.load(h + at * states + e, mask=ok, other=0.0)),)
        for t in tl.static_range(GROUP):
            at, ok, total, added = group[t]
            tl.store(h + at * states + e, state, mask=ok)
            state = tl.exp2(total * A2) * state + added
    tl.store(last + row * states + ends, state, mask=e < states)


@_kernel
def forward_kernel(
    u, dt_raw, A, B, C, D, dt_bias, h, v, H, W, chunk, chunks, k, codes,
    SHAPE: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, SOFTPLUS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Replay each chunk of direction k from the state before it, and set v, or ADD to it."""
    d: tl.constexpr = SHAPE[0]
    pid, _direction, at, item = _program(chunks, 1, SHAPE, TILE)
    L = H * W
    row = (item.to(tl.int64) * SHAPE[2] + k) * chunks + at
    tile = _tile(pid, SHAPE, TILE)
    n, c, n_ok, c_ok = tile
    A2 = tl.load(A + (k * d + c) * SHAPE[1] + n, mask=n_ok & c_ok, other=0.0) * _LOG2E
    bias = tl.load(dt_bias + k * d + c, mask=c_ok, other=0.0)
    skip = tl.load(D + k * d + c, mask=c_ok, other=0.0)
    h_l = tl.load(h + (row * SHAPE[1] + n) * d + c, mask=n_ok & c_ok, other=0.0)
    inputs = _inputs(u, dt_raw, B, C, v, item.to(tl.int64) * L, k, SHAPE)
    j = at * chunk
    stop = tl.minimum(chunk, L - j)
    p, stride = _walk(codes, j, H, W)
    for i in range(0, stop, GROUP):
        steps, p, j = _fetch(inputs, tile, p, stride, j, L, SHAPE, GROUP, True, ADD)
        outs = ()
        for t in tl.static_range(GROUP):
            _q, u_l, dt_l, B_l, C_l, v_l = steps[t]
            dt_l += bias
            if SOFTPLUS:
                dt_l = _softplus(dt_l)
            h_l = tl.exp2(dt_l * A2) * h_l + (dt_l * u_l) * B_l
            out = _over_states(C_l * h_l) + skip * u_l
            outs = outs + ((out + v_l if ADD else out),)
        for t in tl.static_range(GROUP):  # only now: a load cannot be moved ahead of a store
            tl.store(inputs[4] + steps[t][0] * d + c, outs[t], mask=c_ok & _before(i + t, stop))


@_kernel
def backward_kernel(
    dv, u, dt, A, B, C, D, h, r, du, ddt_raw, dB, dC, dbias, kept, H, W, chunk, chunks, k, codes, item, count,
    SHAPE: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, SOFTPLUS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Gradients of each chunk of direction k, from the state before it (h) and the gradient after it (r).

    ddt_raw takes the place of dt, being the same memory, and the chunk's part of dA that of h. dB and dC are a
    channel tile's parts, of count images from `item` on. kept is room for the state before each group.
    """
    d: tl.constexpr = SHAPE[0]
    N: tl.constexpr = SHAPE[1]
    size: tl.constexpr = TILE[0] * TILE[1] * TILE[2] * TILE[3]
    pid, _direction, at, which = _program(chunks, 1, SHAPE, TILE)
    L = H * W
    pixel = (item + which).to(tl.int64) * L
    row = ((item + which).to(tl.int64) * SHAPE[2] + k) * chunks + at
    part = (pid.to(tl.int64) * count + which) * L
    n, c, n_ok, c_ok = _tile(pid, SHAPE, TILE)
    c = tl.broadcast_to(c, (1, TILE[1], TILE[2], TILE[3]))  # so wide, it is loaded in the tile's layout
    tile = (n, c, n_ok, c_ok)
    A2 = tl.load(A + (k * d + c) * N + n, mask=n_ok & c_ok, other=0.0) * _LOG2E
    skip = tl.load(D + k * d + c, mask=c_ok, other=0.0)
    own = (row * N + n) * d + c
    h_l = tl.load(h + own, mask=n_ok & c_ok, other=0.0)
    r_l = tl.load(r + own, mask=n_ok & c_ok, other=0.0)
    inputs = _inputs(u, dt, B, C, dv, pixel, k, SHAPE)
    du += pixel * d
    ddt_raw += (pixel * SHAPE[2] + k) * d
    lane = tl.arange(0, TILE[2])[None, None, :, None] * TILE[3] + tl.arange(0, TILE[3])[None, None, None, :]
    lane += tl.arange(0, TILE[1])[None, :, None, None] * (TILE[2] * TILE[3])
    lane += tl.arange(0, TILE[0])[:, None, None, None] * (TILE[1] * TILE[2] * TILE[3])
    kept += tl.program_id(0).to(tl.int64) * (chunk // GROUP * size) + lane
    start = at * chunk
    stop = tl.minimum(chunk, L - start)

    j = start
    p, stride = _walk(codes, j, H, W)
    for i in range(0, stop, GROUP):
        tl.store(kept + i // GROUP * size, h_l)
        steps, p, j = _fetch(inputs, tile, p, stride, j, L, SHAPE, GROUP, False, False)
        for t in tl.static_range(GROUP):
            _q, u_l, dt_l, B_l, C_l, dv_l = steps[t]
            h_l = tl.exp2(dt_l * A2) * h_l + (dt_l * u_l) * B_l
    tl.debug_barrier()  # before other threads may load what these stored

    dA = tl.zeros(TILE, tl.float32)
    db = tl.zeros_like(skip)
    groups = (stop + GROUP - 1) // GROUP
    for back in range(0, groups):
        i = (groups - 1 - back) * GROUP
        p, _stride = _walk(codes, start + i, H, W)
        h_l = tl.load(kept + i // GROUP * size)
        steps, _p, _j = _fetch(inputs, tile, p, stride, start + i, L, SHAPE, GROUP, False, False)
        before = ()
        for t in tl.static_range(GROUP):
            _q, u_l, dt_l, B_l, C_l, dv_l = steps[t]
            before = before + (h_l,)
            h_l = tl.exp2(dt_l * A2) * h_l + (dt_l * u_l) * B_l
        outs = ()
        for t in tl.static_range(GROUP - 1, -1, -1):
            # fetched again: keeping inputs and decays as well would take too many registers
            again, _p, _j = _fetch(inputs, tile, steps[t][0], stride, 0, L, SHAPE, 1, True, True)
            q, u_l, dt_l, B_l, C_l, dv_l = again[0]
            live = _before(i + t, stop)
            dt_l = tl.where(live, dt_l, 0.0)
            dv_l = tl.where(live, dv_l, 0.0)
            x = dt_l * u_l
            a = tl.exp2(dt_l * A2)
            g = r_l + C_l * dv_l
            r_l = a * g
            exponent = r_l * before[t]
            dA += exponent * dt_l
            dx = _over_states(g * B_l)
            ddt = u_l * dx + _over_states(exponent * A2) * _LN2
            if SOFTPLUS:
                ddt *= _softplus_slope(dt_l)
            db += tl.where(live, ddt, 0.0)
            du_l = skip * dv_l + dt_l * dx
            if ADD:
                du_l += tl.load(du + q * d + c, mask=c_ok, other=0.0)
            dC_l = _over_channels((a * before[t] + x * B_l) * dv_l)
            outs = outs + ((q, live, du_l, ddt, _over_channels(g * x), dC_l),)
        for t in tl.static_range(GROUP):  # only now: a load cannot be moved ahead of a store
            q, live, du_l, ddt, dB_l, dC_l = outs[t]
            tl.store(du + q * d + c, du_l, mask=c_ok & live)
            tl.store(ddt_raw + q * (SHAPE[2] * d) + c, ddt, mask=c_ok & live)
            tl.store(dB + (part + q) * N + n, dB_l, mask=n_ok & live)
            tl.store(dC + (part + q) * N + n, dC_l, mask=n_ok & live)
    tl.store(h + own, dA, mask=n_ok & c_ok)
    tl.store(dbias + row * d + c, db, mask=c_ok)
