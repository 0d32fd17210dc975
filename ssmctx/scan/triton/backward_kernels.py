"""Triton kernels of the scan's gradients: groups of four steps, loaded once and a group ahead, summed without shuffles.

`ssmctx.scan.triton.launch` says how they work together. Importing this needs triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ssmctx.scan.triton.kernels import _LOG2E, _inputs, _kernel, _pixel, _place, _softplus

__all__ = ["adjoint_kernel", "backward_kernel"]

_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _softplus_slope(dt):
    # softplus' derivative where its value is dt: 1 - exp(-dt), as a series where that would cancel
    series = 1 - dt * (1 / 3) * (1 - dt * (1 / 4) * (1 - dt * (1 / 5) * (1 - dt * (1 / 6))))
    return tl.where(dt < 0.25, dt * (1 - dt * (1 / 2) * series), 1 - tl.exp2(dt * -_LOG2E))


@triton.jit
def _rows(x):
    """The four rows of x."""
    even, odd = tl.split(tl.permute(tl.reshape(x, (2, 2, x.shape[1])), (2, 0, 1)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _fold(x, TIMES: tl.constexpr):
    """Sum over the last axis, 2 ** TIMES long. A split needs it within threads: one exchange through shared memory."""
    for _ in tl.static_range(TIMES):
        even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2] // 2, 2)))
        x = even + odd
    return tl.reshape(x, (x.shape[0], x.shape[1]))


@triton.jit
def _sum_channels(x0, x1, x2, x3, TIMES: tl.constexpr):
    """Sums of four steps' (lanes, states) over the lanes, as (4, states)."""
    x = tl.permute(tl.join(tl.join(x0, x1), tl.join(x2, x3)), (3, 2, 1, 0))
    return _fold(tl.reshape(x, (4, x0.shape[1], x0.shape[0])), TIMES)


@triton.jit
def _sum_states(x0, x1, x2, x3, TIMES: tl.constexpr):
    """Sums of four steps' (channels, lanes) over the lanes, as (4, channels)."""
    x = tl.permute(tl.join(tl.join(x0, x1), tl.join(x2, x3)), (3, 2, 0, 1))
    return _fold(tl.reshape(x, (4, x0.shape[0], x0.shape[1])), TIMES)


@triton.jit
def _load_group(
    inputs, code, j, begin, stop, c, n, H, W,
    SHAPE: tl.constexpr, C_OK: tl.constexpr, N_OK: tl.constexpr, WITH_V: tl.constexpr,
):  # fmt: skip
    """Four steps from position j on: pixels, masks and inputs; outside begin..stop they are zero, without effect."""
    d: tl.constexpr = SHAPE[0]
    N: tl.constexpr = SHAPE[1]
    at = j + tl.arange(0, 4)[:, None]
    live = (at >= begin) & (at < stop)
    q = _pixel(code, at, H, W).to(tl.int64)
    c_ok = live & ((c < d) | C_OK)
    n_ok = live & ((n < N) | N_OK)
    u = tl.load(inputs[0] + (q * d + c), mask=c_ok, other=0.0)
    dt = tl.load(inputs[1] + (q * (SHAPE[2] * d) + c), mask=c_ok, other=0.0)
    B = tl.load(inputs[2] + (q * (SHAPE[2] * N) + n), mask=n_ok, other=0.0)
    C = tl.load(inputs[3] + (q * (SHAPE[2] * N) + n), mask=n_ok, other=0.0) if WITH_V else B
    v = tl.load(inputs[4] + (q * d + c), mask=c_ok, other=0.0) if WITH_V else u
    return q, c_ok, n_ok, u, dt, B, C, v


@_kernel
def adjoint_kernel(
    dv, u, dt_raw, A, B, C, dt_bias, dt, h, r, dt_sum, H, W, chunk, chunks, k, codes, count,
    SHAPE: tl.constexpr, TILE: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """What `chunks_kernel` gives of each chunk, dt, and r: the gradient before the chunk where none comes after it."""
    d: tl.constexpr = SHAPE[0]
    N: tl.constexpr = SHAPE[1]
    CT: tl.constexpr = TILE[1] * TILE[3]
    NT: tl.constexpr = TILE[0] * TILE[2]
    C_OK: tl.constexpr = d % CT == 0
    N_OK: tl.constexpr = N == NT
    pid, direction, at, item = _place(tl.program_id(0), chunks, count, d, CT)
    code = (codes >> (2 * direction)) & 3
    k += direction
    L = H * W
    pixel = item.to(tl.int64) * L
    row = (item.to(tl.int64) * SHAPE[2] + k) * chunks + at
    c = pid * CT + tl.arange(0, CT)
    n = tl.arange(0, NT)
    own = (row * N + n[None, :]) * d + c[:, None]
    ok = ((n[None, :] < N) | N_OK) & ((c[:, None] < d) | C_OK)
    A2 = tl.load(A + (k * d + c[:, None]) * N + n[None, :], mask=ok, other=0.0) * _LOG2E
    c = c[None, :]
    n = n[None, :]
    bias = tl.load(dt_bias + k * d + c, mask=(c < d) | C_OK, other=0.0)
    inputs = _inputs(u, dt_raw, B, C, dv, pixel, k, SHAPE)
    dt += (pixel * SHAPE[2] + k) * d
    start = at * chunk
    stop = tl.minimum(start + chunk, L)
    h_l = tl.zeros((CT, NT), tl.float32)
    r_l = h_l
    decay = h_l + 1
    total = tl.zeros((4, CT), tl.float32)
    following = _load_group(inputs, code, start, start, stop, c, n, H, W, SHAPE, C_OK, N_OK, True)
    for j in range(start, stop, 4):
        q, c_ok, _n_ok, u_g, dt_g, B_g, C_g, v_g = following
        following = _load_group(inputs, code, j + 4, start, stop, c, n, H, W, SHAPE, C_OK, N_OK, True)
        dt_g += bias
        if SOFTPLUS:
            dt_g = _softplus(dt_g)
        dt_g = tl.where(c_ok, dt_g, 0.0)
        total += dt_g
        tl.store(dt + (q * (SHAPE[2] * d) + c), dt_g, mask=c_ok)
        xs, dts, vs, Bs, Cs = _rows(dt_g * u_g), _rows(dt_g), _rows(v_g), _rows(B_g), _rows(C_g)
        for t in tl.static_range(4):
            a = tl.exp2(dts[t][:, None] * A2)
            h_l = a * h_l + xs[t][:, None] * Bs[t][None, :]
            decay *= a
            r_l += decay * (vs[t][:, None] * Cs[t][None, :])
    tl.store(h + own, h_l, mask=ok)
    tl.store(r + own, r_l, mask=ok)
    tl.store(dt_sum + row * d + c, tl.sum(total, 0, keep_dims=True), mask=(c < d) | C_OK)


@_kernel
def backward_kernel(
    dv, u, dt, A, B, C, D, h, r, du, ddt_raw, parts, dD, dbias, kept, H, W, chunk, chunks, k, codes, item, count, work,
    SHAPE: tl.constexpr, TILE: tl.constexpr, LOGS: tl.constexpr, SOFTPLUS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Gradients of each chunk of direction k, from the state before it (h) and the gradient after it (r).

    Steps go by groups of four, (4, channels) and (4, states), loaded a group ahead with no element twice in a warp;
    the tile is (channels, states), laid out as `kept` is loaded: four channels a thread, then lanes along channels.
    ddt_raw takes the place of dt, being the same memory, and the chunk's part of dA that of h. dB and dC are a
    channel tile's parts, of count images from `item` on. kept is a program's room for the state before each group, few
    and used again, so that it stays in the L2 cache.
    """
    d: tl.constexpr = SHAPE[0]
    N: tl.constexpr = SHAPE[1]
    CT: tl.constexpr = TILE[1] * TILE[3]
    NT: tl.constexpr = TILE[0] * TILE[2]
    C_OK: tl.constexpr = d % CT == 0  # a constant mask costs nothing
    N_OK: tl.constexpr = N == NT
    kept += tl.program_id(0).to(tl.int64) * (chunk // 4 * CT * NT)
    kept += tl.arange(0, NT)[None, :] * CT + tl.arange(0, CT)[:, None]
    programs = tl.num_programs(0)
    for turn in range(0, (work - tl.program_id(0) + programs - 1) // programs):
        job = tl.program_id(0) + turn * programs
        pid, _direction, at, which = _place(job, chunks, 1, d, CT)
        L = H * W
        pixel = (item + which).to(tl.int64) * L
        row = ((item + which).to(tl.int64) * SHAPE[2] + k) * chunks + at
        part = (pid.to(tl.int64) * 2 * count + which) * L  # of dB; that of dC is count images on
        c = pid * CT + tl.arange(0, CT)
        n = tl.arange(0, NT)
        own = (row * N + n[None, :]) * d + c[:, None]
        ok = ((n[None, :] < N) | N_OK) & ((c[:, None] < d) | C_OK)
        A2 = tl.load(A + (k * d + c[:, None]) * N + n[None, :], mask=ok, other=0.0) * _LOG2E
        h_l = tl.load(h + own, mask=ok, other=0.0)
        r_l = tl.load(r + own, mask=ok, other=0.0)
        c = c[None, :]
        n = n[None, :]
        skip = tl.load(D + k * d + c, mask=(c < d) | C_OK, other=0.0)
        inputs = _inputs(u, dt, B, C, dv, pixel, k, SHAPE)
        du_at = du + pixel * d
        ddt_at = ddt_raw + (pixel * SHAPE[2] + k) * d
        start = at * chunk
        stop = tl.minimum(start + chunk, L)
        groups = (stop - start + 3) // 4

        following = _load_group(inputs, codes, start, start, stop, c, n, H, W, SHAPE, C_OK, N_OK, False)
        second = _load_group(inputs, codes, start + 4, start, stop, c, n, H, W, SHAPE, C_OK, N_OK, False)
        for i in range(0, groups - 1):
            _q, _c_ok, _n_ok, u_g, dt_g, B_g, _C, _v = following
            following = second
            j = start + (i + 2) * 4
            second = _load_group(inputs, codes, j, start, stop, c, n, H, W, SHAPE, C_OK, N_OK, False)
            xs, dts, Bs = _rows(dt_g * u_g), _rows(dt_g), _rows(B_g)
            tl.store(kept + i * (CT * NT), h_l, eviction_policy="evict_last")
            for t in tl.static_range(4):
                h_l = tl.exp2(dts[t][:, None] * A2) * h_l + xs[t][:, None] * Bs[t][None, :]
        tl.debug_barrier()  # before other threads may load what these stored

        dA = tl.zeros((CT, NT), tl.float32)
        db = tl.zeros((4, CT), tl.float32)
        dskip = db
        j = start + (groups - 1) * 4
        following = _load_group(inputs, codes, j, start, stop, c, n, H, W, SHAPE, C_OK, N_OK, True)
        for back in range(0, groups):
            i = groups - 1 - back
            q, c_ok, n_ok, u_g, dt_g, B_g, C_g, v_g = following
            xs, dts, vs, Bs = _rows(dt_g * u_g), _rows(dt_g), _rows(v_g), _rows(B_g)
            before = ()
            dCs = ()
            for t in tl.static_range(4):
                a = tl.exp2(dts[t][:, None] * A2)
                before = before + (h_l,)
                h_l = a * h_l + xs[t][:, None] * Bs[t][None, :]
                dCs = dCs + (tl.sum(tl.reshape(h_l * vs[t][:, None], (TILE[3], TILE[1], NT)), 1),)
            dC_g = _sum_channels(dCs[0], dCs[1], dCs[2], dCs[3], LOGS[1])
            Cs = _rows(C_g)
            du_g = tl.load(du_at + (q * d + c), mask=c_ok, other=0.0) if ADD else u_g
            j = start + (i - 1) * 4
            following = _load_group(inputs, codes, j, start, stop, c, n, H, W, SHAPE, C_OK, N_OK, True)
            dBs = ()
            dxs = ()
            ddts = ()
            for t in tl.static_range(3, -1, -1):
                dt_l = dts[t][:, None]
                g = r_l + Cs[t][None, :] * vs[t][:, None]
                r_l = tl.exp2(tl.fma(dt_l, A2, 0.0)) * g  # as a product, decays would be kept in registers from above
                exponent = r_l * before[t]
                dA += exponent * dt_l
                dxs = (tl.sum(tl.reshape(g * Bs[t][None, :], (CT, TILE[0], TILE[2])), 1),) + dxs
                ddts = (tl.sum(tl.reshape(exponent * A2, (CT, TILE[0], TILE[2])), 1),) + ddts
                dBs = (tl.sum(tl.reshape(g * xs[t][:, None], (TILE[3], TILE[1], NT)), 1),) + dBs
            h_l = tl.load(kept + tl.maximum(i - 1, 0) * (CT * NT), eviction_policy="evict_last")
            dx = _sum_states(dxs[0], dxs[1], dxs[2], dxs[3], LOGS[0])
            ddt = u_g * dx + _sum_states(ddts[0], ddts[1], ddts[2], ddts[3], LOGS[0]) * _LN2
            if SOFTPLUS:
                ddt *= _softplus_slope(dt_g)
            dskip += u_g * v_g
            db += tl.where(c_ok, ddt, 0.0)
            du_l = skip * v_g + dt_g * dx
            tl.store(du_at + (q * d + c), du_l + du_g if ADD else du_l, mask=c_ok)
            tl.store(ddt_at + (q * (SHAPE[2] * d) + c), ddt, mask=c_ok)
            tl.store(parts + ((part + q) * N + n), _sum_channels(dBs[0], dBs[1], dBs[2], dBs[3], LOGS[1]), mask=n_ok)
            tl.store(parts + ((part + count.to(tl.int64) * L + q) * N + n), dC_g, mask=n_ok)
        tl.store(h + own, dA, mask=ok)
        tl.store(dD + row * d + c, tl.sum(dskip, 0, keep_dims=True), mask=(c < d) | C_OK)
        tl.store(dbias + row * d + c, tl.sum(db, 0, keep_dims=True), mask=(c < d) | C_OK)
        tl.debug_barrier()  # before the next piece of work stores where other threads may have to load yet
