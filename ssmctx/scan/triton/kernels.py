"""Triton kernels of the scan's forward pass, and what those of its gradients share with them.

Loads are copied to shared memory ahead of their use, `STAGES` groups of steps at a time (`tl.range(num_stages=)`), so
that no step waits for one. `ssmctx.scan.triton.launch` says how the kernels work together. Importing this needs triton.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["carry_kernel", "chunks_kernel", "forward_kernel", "sum_kernel"]

_LOG2E = tl.constexpr(1.4426950408889634)
_INTEGERS = ["H", "W", "chunk", "chunks", "k", "codes", "count", "item", "pixels", "size", "work"]
_kernel: Any = triton.jit(do_not_specialize=_INTEGERS)


@triton.jit
def _softplus(x):
    # max(x, 0) + log1p(e) with e = exp(-|x|); log1p(e) / e is a polynomial within 1.3e-7 on [0, 1], small e or not
    e = tl.exp2(tl.abs(x) * -_LOG2E)
    y = 0.005232693627476692 * e - 0.02950523979961872
    y = y * e + 0.07822596281766891
    y = y * e - 0.13663247227668762
    y = y * e + 0.19106008112430573
    y = y * e - 0.2484298199415207
    y = y * e + 0.3331909775733948
    y = y * e - 0.4999949336051941
    y = y * e + 0.9999999403953552
    return y * e + tl.maximum(x, 0.0)


@triton.jit
def _over_states(x):
    return tl.sum(tl.sum(x, 3, keep_dims=True), 2, keep_dims=True)  # axis 3 first: it is within a thread


@triton.jit
def _before(i, stop):
    return tl.full([1, 1, 1, 1, 1], 0, tl.int32) + i < stop  # a tensor: the interpreter spoils masks made of scalars


@triton.jit
def _place(work, chunks, count, d: tl.constexpr, channels: tl.constexpr):
    """Channel tile, direction, chunk and image that make up this piece of work."""
    tiles: tl.constexpr = (d + channels - 1) // channels
    rest = work // tiles
    return work % tiles, rest % count, rest // count % chunks, rest // count // chunks


@triton.jit
def _tile(tile, SHAPE: tl.constexpr, TILE: tl.constexpr):
    """A tile's states and channels, and which of them exist; SHAPE is (d, N, K).

    TILE is (lanes along channels, as a product of two, lanes along states, states a thread, channels a thread).
    Triton gives a thread what is contiguous in memory, up to 16 bytes, and spreads the first axes over the lanes.
    """
    n = tl.arange(0, TILE[2])[None, None, :, None, None] * TILE[3] + tl.arange(0, TILE[3])[None, None, None, :, None]
    lane = tl.arange(0, TILE[0])[:, None, None, None, None] * TILE[1] + tl.arange(0, TILE[1])[None, :, None, None, None]
    channels: tl.constexpr = TILE[0] * TILE[1] * TILE[4]
    c = tile * channels + lane * TILE[4] + tl.arange(0, TILE[4])[None, None, None, None, :]
    # "or a known multiple" makes the mask of a whole tile a constant, which costs nothing
    n_ok = (n < SHAPE[1]) | (SHAPE[1] == TILE[2] * TILE[3])
    return n, c, n_ok, (c < SHAPE[0]) | (SHAPE[0] % channels == 0)


@triton.jit
def _pixel(code, j, H, W):
    """Pixel at position j of the direction with this number in `DIRECTIONS`."""
    i = tl.where(code >= 2, H * W - 1 - j, j)
    return tl.where(code % 2 == 1, i % H * W + i // H, i)


@triton.jit
def _walk(code, j, H, W):
    """The pixel at position j, and the stride to the next one."""
    column = (code % 2 == 1) & (H > 1)  # a column of one pixel is walked as a row, since W would leave the image
    stride = tl.minimum(tl.where(column, W, 1), H * W - 1)
    return _pixel(code, j, H, W), tl.where(code >= 2, -stride, stride)


@triton.jit
def _inputs(u, dt, B, C, v, pixel, k, SHAPE: tl.constexpr):
    """Pointers to direction k of the image that begins with that pixel."""
    at = pixel * SHAPE[2] + k
    return u + pixel * SHAPE[0], dt + at * SHAPE[0], B + at * SHAPE[1], C + at * SHAPE[1], v + pixel * SHAPE[0]


@triton.jit
def _fetch(
    inputs, tile, p, stride, L,
    SHAPE: tl.constexpr, GROUP: tl.constexpr, FAR: tl.constexpr, WITH_C: tl.constexpr, WITH_V: tl.constexpr,
):  # fmt: skip
    """Load steps from pixel p on: tuples (p, u, dt, B, C, v), the last two only if asked for; and the pixel after them.

    Past the last pixel the walk goes on somewhere in the image, so that loads stay in bounds. FAR: the image has 2^31
    elements or more. B and C are loaded once for each of the second axis of lanes: Triton copies tensors of fewer
    than 32 elements, a warp's threads, one by one.
    """
    n, c, n_ok, c_ok = tile
    d: tl.constexpr = SHAPE[0]
    N: tl.constexpr = SHAPE[1]
    n = tl.broadcast_to(n, (1, c.shape[1], n.shape[2], n.shape[3], 1))
    steps = ()
    for _ in tl.static_range(GROUP):
        q = p.to(tl.int64) if FAR else p
        u = tl.load(inputs[0] + (q * d + c), mask=c_ok, other=0.0)
        dt = tl.load(inputs[1] + (q * (SHAPE[2] * d) + c), mask=c_ok, other=0.0)
        B = tl.load(inputs[2] + (q * (SHAPE[2] * N) + n), mask=n_ok, other=0.0)
        C = tl.load(inputs[3] + (q * (SHAPE[2] * N) + n), mask=n_ok, other=0.0) if WITH_C else B
        v = tl.load(inputs[4] + (q * d + c), mask=c_ok, other=0.0) if WITH_V else u
        steps = steps + ((q, u, dt, B, C, v),)
        p += stride
        p = tl.where(p >= L, p - (L - 1), tl.where(p < 0, p + (L - 1), p))
    return steps, p


@_kernel
def chunks_kernel(
    u, dt_raw, A, B, dt_bias, h, dt_sum, H, W, chunk, chunks, k, codes, count,
    SHAPE: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr, RAGGED: tl.constexpr,
    FAR: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Each chunk from a state of zero: its last state h, and its sum of dt. RAGGED: a group may reach past its end."""
    d: tl.constexpr = SHAPE[0]
    pid, direction, at, item = _place(tl.program_id(0), chunks, count, d, TILE[0] * TILE[1] * TILE[4])
    k += direction
    L = H * W
    pixel = item.to(tl.int64) * L
    row = (item.to(tl.int64) * SHAPE[2] + k) * chunks + at
    tile = _tile(pid, SHAPE, TILE)
    n, c, n_ok, c_ok = tile
    A2 = tl.load(A + (k * d + c) * SHAPE[1] + n, mask=n_ok & c_ok, other=0.0) * _LOG2E
    bias = tl.load(dt_bias + k * d + c, mask=c_ok, other=0.0)
    inputs = _inputs(u, dt_raw, B, B, u, pixel, k, SHAPE)
    j = at * chunk
    stop = tl.minimum(chunk, L - j)
    p, stride = _walk((codes >> (2 * direction)) & 3, j, H, W)
    h_l = tl.zeros_like(A2)
    total = tl.zeros_like(bias)
    for i in tl.range(0, stop, GROUP, num_stages=STAGES):
        steps, p = _fetch(inputs, tile, p, stride, L, SHAPE, GROUP, FAR, False, False)
        for t in tl.static_range(GROUP):
            _q, u_l, dt_l, B_l, _C, _v = steps[t]
            live = _before(i + t, stop)
            dt_l += bias
            if SOFTPLUS:
                dt_l = _softplus(dt_l)
            if RAGGED:
                dt_l = tl.where(live, dt_l, 0.0)  # a step past the end changes nothing
            h_l = tl.exp2(dt_l * A2) * h_l + (dt_l * u_l) * B_l
            total += dt_l
    tl.store(h + (row * SHAPE[1] + n) * d + c, h_l, mask=n_ok & c_ok)
    tl.store(dt_sum + row * d + c, total, mask=c_ok)


@_kernel
def carry_kernel(
    A, h, dt_sum, first, last, chunks,
    SHAPE: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr, REVERSE: tl.constexpr,
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
    for i in tl.range(0, chunks, GROUP, num_stages=STAGES):
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
    u, dt_raw, A, B, C, D, dt_bias, h, v, H, W, chunk, chunks, k, codes, count, pixels,
    SHAPE: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr, RAGGED: tl.constexpr,
    FAR: tl.constexpr, SOFTPLUS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Replay each chunk of `count` directions from k on from the state before it, and set v, or ADD to it.

    Each direction after the first has its own v, that many pixels further on.
    """
    d: tl.constexpr = SHAPE[0]
    pid, direction, at, item = _place(tl.program_id(0), chunks, count, d, TILE[0] * TILE[1] * TILE[4])
    k += direction
    v += direction.to(tl.int64) * pixels * d
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
    p, stride = _walk((codes >> (2 * direction)) & 3, j, H, W)
    # loads for later groups pass this group's stores; no pixel is visited twice
    for i in tl.range(0, stop, GROUP, num_stages=STAGES):
        steps, p = _fetch(inputs, tile, p, stride, L, SHAPE, GROUP, FAR, True, ADD)
        outs = ()
        for t in tl.static_range(GROUP):
            _q, u_l, dt_l, B_l, C_l, v_l = steps[t]
            dt_l += bias
            if SOFTPLUS:
                dt_l = _softplus(dt_l)
            h_l = tl.exp2(dt_l * A2) * h_l + (dt_l * u_l) * B_l
            out = _over_states(C_l * h_l) + skip * u_l
            outs = outs + ((out + v_l if ADD else out),)
        for t in tl.static_range(GROUP):
            live = _before(i + t, stop) | (not RAGGED)
            tl.store(inputs[4] + (steps[t][0] * d + c), outs[t], mask=c_ok & live)


@_kernel
def sum_kernel(parts, v, size, K: tl.constexpr, BLOCK: tl.constexpr):
    """v as the sum of K parts, one after the other."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(parts + at, mask=at < size, other=0.0)
    for k in tl.static_range(1, K):
        total += tl.load(parts + k * size.to(tl.int64) + at, mask=at < size, other=0.0)
    tl.store(v + at, total, mask=at < size)
