"""Inner loops of the CPU scan, written as vectors: what happens to a chunk of positions of one block of channels.

Arrays have a row of `LANES` channels for each position (x, dt, ...) or state (h, A, ...), of which the first `lanes`, a
multiple of 16, count; B and C have a row of states for each position, filled up with zeros to a multiple of `TILE`.
Rows of positions from `size` on hold left-overs and are never stored.
"""

from __future__ import annotations

from typing import Any

from ssmctx.scan.cpu_sizes import TILE
from ssmctx.scan.simd import WIDTH, Array, Builder, exp2, sigmoid, softplus, vectors

__all__ = [
    "add",
    "advance",
    "advance_and_emit",
    "close",
    "fetch",
    "plain_steps",
    "project",
    "put",
    "retrace",
    "soft_steps",
]

_LN2 = 0.6931471805599453


@vectors
def fetch(
    b: Builder, source: Array, i: Any, k: Any, c0: Any, pixels: Array, rows: Array, size: Any, width: Any
) -> None:
    """rows[t] = source[i, pixels[t], k, c0 : c0 + width]."""
    with b.loop(size) as t:
        p, whole = pixels.get(t), b.whole_vectors(width)
        with b.loop(whole, WIDTH) as r:
            rows[t, r] = source[i, p, k, b.ir.add(c0, r)]
        with b.loop(width, start=whole) as r:
            rows.put(source.get(i, p, k, b.ir.add(c0, r)), t, r)


@vectors
def put(b: Builder, rows: Array, target: Array, i: Any, k: Any, c0: Any, pixels: Array, size: Any, width: Any) -> None:
    """target[i, pixels[t], k, c0 : c0 + width] = rows[t]."""
    with b.loop(size) as t:
        p, whole = pixels.get(t), b.whole_vectors(width)
        with b.loop(whole, WIDTH) as r:
            target[i, p, k, b.ir.add(c0, r)] = rows[t, r]
        with b.loop(width, start=whole) as r:
            target.put(rows.get(t, r), i, p, k, b.ir.add(c0, r))


@vectors
def add(b: Builder, rows: Array, target: Array, i: Any, k: Any, c0: Any, pixels: Array, size: Any, width: Any) -> None:
    """target[i, pixels[t], k, c0 : c0 + width] += rows[t]."""
    with b.loop(size) as t:
        p, whole = pixels.get(t), b.whole_vectors(width)
        with b.loop(whole, WIDTH) as r:
            c = b.ir.add(c0, r)
            target[i, p, k, c] = target[i, p, k, c] + rows[t, r]
        with b.loop(width, start=whole) as r:
            c = b.ir.add(c0, r)
            target.put(b.ir.fadd(target.get(i, p, k, c), rows.get(t, r)), i, p, k, c)


@vectors
def project(b: Builder, low: Array, weight: Array, given: Array, size: Any, lanes: Any) -> None:
    """given = low @ weight; low (positions, rank), weight (rank, channels)."""
    with b.loop(lanes, WIDTH) as r, b.loop(size, 4) as t:
        rows = [b.plus(t, i) for i in range(4)]
        sums = [b.variable(b.number(0.0)) for _ in rows]
        with b.loop(weight.shape[0]) as j:
            column = weight[j, r]
            for row, total in zip(rows, sums, strict=True):
                total.value = low.spread(row, j) * column + total.value
        for row, total in zip(rows, sums, strict=True):
            given[row, r] = total.value


def _steps(
    b: Builder, given: Array, shift: Array, x: Array, dt: Array, dtx: Array, size: Any, lanes: Any, soft: bool
) -> None:
    with b.loop(lanes, WIDTH) as r:
        bias = shift[b.index(0), r]
        with b.loop(size) as t:
            raw = given[t, r] + bias
            step = softplus(raw) if soft else raw
            given[t, r], dt[t, r], dtx[t, r] = raw, step, step * x[t, r]


@vectors
def soft_steps(b: Builder, given: Array, shift: Array, x: Array, dt: Array, dtx: Array, size: Any, lanes: Any) -> None:
    """Adds shift to given; dt = softplus(given), dtx = dt * x."""
    _steps(b, given, shift, x, dt, dtx, size, lanes, soft=True)


@vectors
def plain_steps(b: Builder, given: Array, shift: Array, x: Array, dt: Array, dtx: Array, size: Any, lanes: Any) -> None:
    """Adds shift to given; dt = given, dtx = dt * x."""
    _steps(b, given, shift, x, dt, dtx, size, lanes, soft=False)


def _walk(
    b: Builder,
    h: Array,
    A: Array,
    dt: Array,
    dtx: Array,
    B: Array,
    size: Any,
    lanes: Any,
    outputs: tuple[Array, Array] | None = None,
) -> None:
    with b.loop(h.shape[0], TILE) as first, b.loop(lanes, WIDTH) as r:
        states = [b.plus(first, i) for i in range(TILE)]
        rates = [A[n, r] for n in states]
        carried = [b.variable(h[n, r]) for n in states]
        with b.loop(size) as t:
            step, drive = dt[t, r], dtx[t, r]
            decays = [exp2(step * rate) for rate in rates]
            for n, state, decay in zip(states, carried, decays, strict=True):
                state.value = decay * state.value + drive * B.spread(t, n)
            if outputs:
                C, y = outputs
                out = y[t, r]
                for n, state in zip(states, carried, strict=True):
                    out = state.value * C.spread(t, n) + out
                y[t, r] = out
        for n, state in zip(states, carried, strict=True):
            h[n, r] = state.value


@vectors
def advance(b: Builder, h: Array, A: Array, dt: Array, dtx: Array, B: Array, size: Any, lanes: Any) -> None:
    """Walk h over the positions."""
    _walk(b, h, A, dt, dtx, B, size, lanes)


@vectors
def advance_and_emit(
    b: Builder, h: Array, A: Array, dt: Array, dtx: Array, B: Array, C: Array, y: Array, size: Any, lanes: Any
) -> None:
    """Walk h over the positions, adding C . h to y at each."""
    _walk(b, h, A, dt, dtx, B, size, lanes, (C, y))


@vectors
def retrace(
    b: Builder,
    h: Array,
    A: Array,
    dt: Array,
    dtx: Array,
    B: Array,
    C: Array,
    g: Array,
    carry: Array,
    grad_A: Array,
    grad_dt: Array,
    grad_dtx: Array,
    grad_B: Array,
    grad_C: Array,
    trail: Array,
    sums: Array,
    size: Any,
    lanes: Any,
) -> None:
    """Gradients of `advance`, which starts from h: g is that of y, carry that of the last states.

    Adds to grad_A, grad_dt (of dt as A sees it) and grad_dtx, writes grad_B and grad_C, summed over the lanes, and
    leaves in carry the gradient of h. trail (positions + 1, 2 * TILE, 16) takes states and decays, sums (positions,
    2 * TILE, 16) what is to be summed over the lanes.
    """
    tile, zero = range(TILE), b.index(0)
    with b.loop(h.shape[0], TILE) as first:
        states = [b.plus(first, i) for i in tile]
        with b.loop(size) as t:
            for i in range(2 * TILE):
                sums[t, b.index(i), zero] = b.number(0.0)
        with b.loop(lanes, WIDTH) as r:
            rates = [A[n, r] for n in states]
            replayed = [b.variable(h[n, r]) for n in states]
            for i, state in zip(tile, replayed, strict=True):
                trail[zero, b.index(i), zero] = state.value
            with b.loop(size) as t:
                step, drive = dt[t, r], dtx[t, r]
                decays = [exp2(step * rate) for rate in rates]
                for i, n, state, decay in zip(tile, states, replayed, decays, strict=True):
                    state.value = decay * state.value + drive * B.spread(t, n)
                    trail[b.plus(t, 1), b.index(i), zero] = state.value
                    trail[t, b.index(TILE + i), zero] = decay
            through = [b.variable(carry[n, r]) for n in states]
            of_rates = [b.variable(grad_A[n, r]) for n in states]
            after = [b.variable(state.value) for state in replayed]
            with b.loop_down(size) as t:
                out, step, drive = g[t, r], dt[t, r], dtx[t, r]
                by_dt, by_dtx = grad_dt[t, r], grad_dtx[t, r]
                for i, n in zip(tile, states, strict=True):
                    before, decay = trail[t, b.index(i), zero], trail[t, b.index(TILE + i), zero]
                    grad = out * C.spread(t, n) + through[i].value
                    of_B, of_C = b.index(i), b.index(TILE + i)
                    sums[t, of_B, zero] = grad * drive + sums[t, of_B, zero]
                    sums[t, of_C, zero] = out * after[i].value + sums[t, of_C, zero]
                    by_dtx = grad * B.spread(t, n) + by_dtx
                    through[i].value = grad * decay
                    exponent = through[i].value * before
                    by_dt = exponent * rates[i] + by_dt
                    of_rates[i].value = exponent * step + of_rates[i].value
                    after[i].value = before
                grad_dt[t, r], grad_dtx[t, r] = by_dt, by_dtx
            for n, state, of_rate in zip(states, through, of_rates, strict=True):
                carry[n, r], grad_A[n, r] = state.value, of_rate.value
        with b.loop(size) as t:
            for i, n in zip(tile, states, strict=True):
                grad_B.put(sums[t, b.index(i), zero].total(), t, n)
                grad_C.put(sums[t, b.index(TILE + i), zero].total(), t, n)


@vectors
def close(
    b: Builder,
    given: Array,
    x: Array,
    dt: Array,
    g: Array,
    skip: Array,
    grad_dt: Array,
    grad_dtx: Array,
    grad_D: Array,
    grad_bias: Array,
    soft: Any,
    size: Any,
    lanes: Any,
) -> None:
    """From `retrace`'s sums to gradients: of given in grad_dt, of x in grad_dtx; adds to grad_D and grad_bias."""
    zero = b.index(0)
    with b.loop(lanes, WIDTH) as r:
        of_D, of_bias = b.variable(grad_D[zero, r]), b.variable(grad_bias[zero, r])
        with b.loop(size) as t:
            by_dtx, u = grad_dtx[t, r], x[t, r]
            slope = sigmoid(given[t, r]).where(soft, 1.0)
            of_given = (grad_dt[t, r] * _LN2 + by_dtx * u) * slope  # A is in units of ln 2 here
            grad_dt[t, r] = of_given
            grad_dtx[t, r] = by_dtx * dt[t, r] + skip[zero, r] * g[t, r]
            of_D.value = g[t, r] * u + of_D.value
            of_bias.value = of_given + of_bias.value
        grad_D[zero, r], grad_bias[zero, r] = of_D.value, of_bias.value
