"""Inner loops of the CPU scan, written as vectors: what happens to a chunk of positions of one block of channels.

Arrays have a row of `LANES` channels for each position (x, dt, ...) or state (h, A, ...), of which the first `lanes`, a
multiple of 16, count; B and C have a row of states for each position, filled up with zeros to a multiple of `TILE`.
Rows of positions from `size` on hold left-overs and are never stored. `Block` and the other packs of arrays hold
`Array`s here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssmctx.scan.cpu.arrays import Block, Chunk, GradientChunk
from ssmctx.scan.cpu.simd import (
    WIDTH,
    Array,
    Builder,
    Variable,
    Vector,
    exp2,
    maximum,
    sigmoid,
    softplus,
    totals,
    vectors,
)
from ssmctx.scan.cpu.sizes import TILE

__all__ = [
    "add",
    "advance_and_emit",
    "close",
    "fetch",
    "plain_steps",
    "project",
    "project_back",
    "put",
    "retrace",
    "skip",
    "soft_steps",
    "soft_steps_and_slopes",
]

_LN2 = 0.6931471805599453
_EXPONENTS = 127.0  # largest exponent of 2 in float32


@vectors
def fetch(
    b: Builder, source: Array, i: Any, k: Any, c0: Any, pixels: Array, rows: Array, size: Any, width: Any
) -> None:
    """rows[t] = source[i, pixels[t], k, c0 : c0 + width]."""
    with b.loop(size) as t:
        p = pixels.get(t)
        for lanes, r in b.pieces(width):
            rows.put_piece(source.piece(lanes, i, p, k, b.ir.add(c0, r)), t, r)


@vectors
def put(b: Builder, rows: Array, target: Array, i: Any, k: Any, c0: Any, pixels: Array, size: Any, width: Any) -> None:
    """target[i, pixels[t], k, c0 : c0 + width] = rows[t]."""
    with b.loop(size) as t:
        p = pixels.get(t)
        for lanes, r in b.pieces(width):
            target.put_piece(rows.piece(lanes, t, r), i, p, k, b.ir.add(c0, r))


@vectors
def add(b: Builder, rows: Array, target: Array, i: Any, k: Any, c0: Any, pixels: Array, size: Any, width: Any) -> None:
    """target[i, pixels[t], k, c0 : c0 + width] += rows[t]."""
    with b.loop(size) as t:
        p = pixels.get(t)
        for lanes, r in b.pieces(width):
            at = i, p, k, b.ir.add(c0, r)
            target.put_piece(target.piece(lanes, *at) + rows.piece(lanes, t, r), *at)


@vectors
def project(b: Builder, block: Block, chunk: Chunk, size: Any, lanes: Any) -> None:
    """raw = low_rank @ dt_weight."""
    with b.loop(lanes, WIDTH) as r, b.loop(size, 4) as t:
        rows = [b.plus(t, i) for i in range(4)]
        sums = [b.variable(b.number(0.0)) for _ in rows]
        with b.loop(block.dt_weight.shape[0]) as j:
            column = block.dt_weight[j, r]
            for row, total in zip(rows, sums, strict=True):
                total.value = chunk.low_rank.spread(row, j) * column + total.value
        for row, total in zip(rows, sums, strict=True):
            chunk.raw[row, r] = total.value


def _soft_steps(b: Builder, block: Block, chunk: Chunk, size: Any, lanes: Any, slopes: bool) -> None:
    with b.loop(lanes, WIDTH) as r:
        bias = block.dt_bias[b.index(0), r]
        with b.loop(size) as t:
            raw = chunk.raw[t, r] + bias
            dt = softplus(raw)
            chunk.dt[t, r], chunk.dtx[t, r] = dt, dt * chunk.x[t, r]
            if slopes:  # here, where sigmoid and softplus share an exponential
                chunk.raw[t, r] = sigmoid(raw)


@vectors
def soft_steps(b: Builder, block: Block, chunk: Chunk, size: Any, lanes: Any) -> None:
    """dt = softplus(raw + dt_bias), dtx = dt * x."""
    _soft_steps(b, block, chunk, size, lanes, slopes=False)


@vectors
def soft_steps_and_slopes(b: Builder, block: Block, chunk: Chunk, size: Any, lanes: Any) -> None:
    """`soft_steps`, and in place of raw the slope of softplus there."""
    _soft_steps(b, block, chunk, size, lanes, slopes=True)


@vectors
def plain_steps(b: Builder, block: Block, chunk: Chunk, size: Any, lanes: Any) -> None:
    """dt = raw + dt_bias, NaN where a decay would be infinite, dtx = dt * x, and in place of raw a slope of 1."""
    with b.loop(lanes, WIDTH) as r:
        bias, fastest = block.dt_bias[b.index(0), r], b.variable(b.number(0.0))
        with b.loop(block.A.shape[0]) as n:
            fastest.value = maximum(block.A[n, r] * -1.0, fastest.value)
        growth = fastest.value * -1.0  # exponent of a decay for each unit of a step; below 0, steps make states grow
        with b.loop(size) as t:
            raw = chunk.raw[t, r] + bias
            dt = raw.within(raw * growth, _EXPONENTS)
            chunk.dt[t, r], chunk.dtx[t, r], chunk.raw[t, r] = dt, dt * chunk.x[t, r], b.number(1.0)


@vectors
def skip(b: Builder, block: Block, chunk: Chunk, y: Array, size: Any, lanes: Any) -> None:
    """y = D * x."""
    with b.loop(lanes, WIDTH) as r:
        weight = block.D[b.index(0), r]
        with b.loop(size) as t:
            y[t, r] = weight * chunk.x[t, r]


def _step(
    chunk: Chunk, t: Any, r: Any, states: Sequence[Any], rates: Sequence[Vector], h: Sequence[Variable]
) -> list[Vector]:
    """Walk some states over position t; returns their decays."""
    dt, dtx = chunk.dt[t, r], chunk.dtx[t, r]
    decays = [exp2(dt * rate) for rate in rates]
    for n, state, decay in zip(states, h, decays, strict=True):
        state.value = decay * state.value + dtx * chunk.B.spread(t, n)
    return decays


@vectors
def advance_and_emit(b: Builder, h: Array, block: Block, chunk: Chunk, y: Array, size: Any, lanes: Any) -> None:
    """Walk h over the positions, adding C . h to y at each."""
    with b.loop(h.shape[0], TILE) as first, b.loop(lanes, WIDTH) as r:
        states = [b.plus(first, i) for i in range(TILE)]
        rates = [block.A[n, r] for n in states]
        carried = [b.variable(h[n, r]) for n in states]
        with b.loop(size) as t:
            _step(chunk, t, r, states, rates, carried)
            out = y[t, r]
            for n, state in zip(states, carried, strict=True):
                out = state.value * chunk.C.spread(t, n) + out
            y[t, r] = out
        for n, state in zip(states, carried, strict=True):
            h[n, r] = state.value


@vectors
def retrace(b: Builder, h: Array, block: Block, chunk: Chunk, grad: GradientChunk, size: Any, lanes: Any) -> None:
    """Gradients of `advance_and_emit`, which starts from h, up to what `close` does.

    Adds to those of A, dt and dtx, writes those of B and C, summed over the lanes, and leaves in that of h the gradient
    before the chunk.
    """
    tile, zero = range(TILE), b.index(0)
    trail, sums = grad.trail, grad.sums
    with b.loop(h.shape[0], TILE) as first:
        states = [b.plus(first, i) for i in tile]
        with b.loop(size) as t:
            for i in range(2 * TILE):
                sums[t, b.index(i), zero] = b.number(0.0)
        with b.loop(lanes, WIDTH) as r:
            rates = [block.A[n, r] for n in states]
            replayed = [b.variable(h[n, r]) for n in states]
            for i, state in zip(tile, replayed, strict=True):
                trail[zero, b.index(i), zero] = state.value
            with b.loop(size) as t:
                decays = _step(chunk, t, r, states, rates, replayed)
                for i, state, decay in zip(tile, replayed, decays, strict=True):
                    trail[b.plus(t, 1), b.index(i), zero] = state.value
                    trail[t, b.index(TILE + i), zero] = decay
            through = [b.variable(grad.h[n, r]) for n in states]
            of_rates = [b.variable(grad.A[n, r]) for n in states]
            after = [b.variable(state.value) for state in replayed]
            with b.loop_down(size) as t:
                dv, dt, dtx = grad.v[t, r], chunk.dt[t, r], chunk.dtx[t, r]
                by_dt, by_dtx = grad.dt[t, r], grad.dtx[t, r]
                for i, n in zip(tile, states, strict=True):
                    before, decay = trail[t, b.index(i), zero], trail[t, b.index(TILE + i), zero]
                    dh = dv * chunk.C.spread(t, n) + through[i].value
                    of_B, of_C = b.index(i), b.index(TILE + i)
                    sums[t, of_B, zero] = dh * dtx + sums[t, of_B, zero]
                    sums[t, of_C, zero] = dv * after[i].value + sums[t, of_C, zero]
                    by_dtx = dh * chunk.B.spread(t, n) + by_dtx
                    through[i].value = dh * decay
                    exponent = through[i].value * before
                    by_dt = exponent * rates[i] + by_dt
                    of_rates[i].value = exponent * dt + of_rates[i].value
                    after[i].value = before
                grad.dt[t, r], grad.dtx[t, r] = by_dt, by_dtx
            for n, state, of_rate in zip(states, through, of_rates, strict=True):
                grad.h[n, r], grad.A[n, r] = state.value, of_rate.value
        with b.loop(size) as t:
            found = totals([sums[t, b.index(i), zero] for i in range(2 * TILE)])
            for n, of_B, of_C in zip(states, found[:TILE], found[TILE:], strict=True):
                grad.B.put(of_B, t, n)
                grad.C.put(of_C, t, n)


@vectors
def close(b: Builder, block: Block, chunk: Chunk, grad: GradientChunk, size: Any, lanes: Any) -> None:
    """From `retrace`'s sums to gradients: of raw in grad.dt, of x in grad.dtx; adds to those of D and dt_bias."""
    zero = b.index(0)
    with b.loop(lanes, WIDTH) as r:
        of_D, of_bias = b.variable(grad.D[zero, r]), b.variable(grad.dt_bias[zero, r])
        with b.loop(size) as t:
            dv, by_dtx, x = grad.v[t, r], grad.dtx[t, r], chunk.x[t, r]
            of_raw = (grad.dt[t, r] * _LN2 + by_dtx * x) * chunk.raw[t, r]  # A is in units of ln 2 here
            grad.dt[t, r] = of_raw
            grad.dtx[t, r] = by_dtx * chunk.dt[t, r] + block.D[zero, r] * dv
            of_D.value = dv * x + of_D.value
            of_bias.value = of_raw + of_bias.value
        grad.D[zero, r], grad.dt_bias[zero, r] = of_D.value, of_bias.value


@vectors
def project_back(b: Builder, block: Block, chunk: Chunk, grad: GradientChunk, size: Any, lanes: Any) -> None:
    """Gradients of `project`, of those of raw in grad.dt: writes that of low_rank, adds to that of dt_weight."""
    tile, zero = [b.index(i) for i in range(TILE)], b.index(0)
    sums = grad.sums
    with b.loop(block.dt_weight.shape[0], TILE) as first:
        ranks = [b.plus(first, i) for i in range(TILE)]
        with b.loop(size) as t:
            for i in tile:
                sums[t, i, zero] = b.number(0.0)
        with b.loop(lanes, WIDTH) as r:
            weights = [block.dt_weight[j, r] for j in ranks]
            of_weights = [b.variable(grad.dt_weight[j, r]) for j in ranks]
            with b.loop(size) as t:
                of_raw = grad.dt[t, r]
                for i, j, weight, of_weight in zip(tile, ranks, weights, of_weights, strict=True):
                    sums[t, i, zero] = of_raw * weight + sums[t, i, zero]
                    of_weight.value = chunk.low_rank.spread(t, j) * of_raw + of_weight.value
            for j, of_weight in zip(ranks, of_weights, strict=True):
                grad.dt_weight[j, r] = of_weight.value
        with b.loop(size) as t:
            for j, of_row in zip(ranks, totals([sums[t, i, zero] for i in tile]), strict=True):
                grad.low_rank.put(of_row, t, j)
