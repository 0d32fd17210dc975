"""Coding tables of a factorised prior, with the same integers on every machine.

Weights are float32 numbers, the same everywhere; from there on only additions, multiplications and divisions of float64
are used, one after the other, which IEEE 754 rounds in one way. The exponential of a mathematical library may differ in
the last bit, and so may a matrix product that sums in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssmctx.distributions.exact import exp
from ssmctx.distributions.quantise import quantise
from ssmctx.distributions.tables import CodingTables
from ssmctx.errors import ArgumentError, NonFiniteError

__all__ = ["ExactPrior", "factorized_tables", "settled_quantiles"]

Array = NDArray[np.float64]

_LOG_TERMS = 20  # (1 / 3)^40 / 41 < 1e-20
_REACH = 1 << 15  # symbols are 16-bit numbers
_FARTHEST, _RELATIVE, _ABSOLUTE = 1e5, 1e-4, 1e-3  # where the search for a quantile begins, and when it ends


class ExactPrior:
    """The cumulative logits of a factorised prior in float64.

    Args:
        matrices: weights (channels, outputs, inputs) of each layer.
        biases: (channels, outputs, 1) of each layer.
        factors: (channels, outputs, 1) for all layers but the last.

    Raises:
        NonFiniteError: one of them holds NaN or an infinity.
    """

    def __init__(self, matrices: Sequence[Array], biases: Sequence[Array], factors: Sequence[Array]) -> None:
        if not all(np.isfinite(array).all() for array in (*matrices, *biases, *factors)):
            raise NonFiniteError("FactorizedPrior: weights must be finite, got NaN or an infinity; check the training")
        self.channels = len(matrices[0])
        self._matrices = [softplus(matrix) for matrix in matrices]
        self._biases = biases
        self._factors = [tanh(factor) for factor in factors]

    def logits(self, x: Array) -> Array:
        """Logits of P(z < x), for x and result (channels, n)."""
        inputs = [x]
        for layer, (matrix, bias) in enumerate(zip(self._matrices, self._biases, strict=True)):
            outputs = []
            for row in range(matrix.shape[1]):
                total = matrix[:, row, 0, None] * inputs[0]
                for column in range(1, matrix.shape[2]):
                    total = total + matrix[:, row, column, None] * inputs[column]
                total = total + bias[:, row]
                if layer < len(self._factors):
                    total = total + self._factors[layer][:, row] * tanh(total)
                outputs.append(total)
            inputs = outputs
        return inputs[0]


class _Span(NamedTuple):
    minima: NDArray[np.int64]
    maxima: NDArray[np.int64]


def factorized_tables(prior: ExactPrior, quantiles: NDArray[Any]) -> CodingTables:
    """Tables of a prior: row c codes the rounded distance of channel c from its median.

    Args:
        prior: the distribution of each channel.
        quantiles: (channels, 3), where the lower tail ends, the median, where the upper tail begins; in the precision
            in which the model holds them.

    Raises:
        NonFiniteError: a quantile is NaN or infinite.
        ArgumentError: quantiles so far apart that symbols would need more than 16 bits.

    Source:
        CompressAI's `EntropyBottleneck.update`. As there, all rows take their upper tail from where the longest ends.
    """
    minima, maxima = _span(quantiles)
    lengths = minima + maxima + 1
    symbols = np.arange(lengths.max())[None] - minima[:, None]
    values = quantiles[:, 1, None].astype(np.float64) + symbols
    lower, upper = prior.logits(values - 0.5), prior.logits(values + 0.5)
    pmf = sigmoid(upper) - sigmoid(lower)
    tails = sigmoid(lower[:, 0]) + sigmoid(-upper[:, -1])
    rows = []
    for row, length, tail in zip(pmf, lengths.tolist(), tails.tolist(), strict=True):
        empty = max(tail, row[:length].max()) * (1 << 16) < 0.5  # all of the mass lies between this row and its tail
        rows.append(quantise(np.append(row[:length], 1.0 if empty else tail)))
    return CodingTables.from_lists(rows, [len(row) for row in rows], (-minima).tolist())


def _span(quantiles: NDArray[Any]) -> _Span:
    if not np.isfinite(quantiles).all():
        raise NonFiniteError("FactorizedPrior: quantiles must be finite, got NaN or an infinity; check the training")
    # in the model's own precision, as CompressAI does: in a wider one the difference may round up to another integer
    low, median, high = quantiles.T
    minima, maxima = (np.maximum(np.ceil(side).astype(np.int64), 0) for side in (median - low, high - median))
    for channel in np.flatnonzero((minima > _REACH) | (maxima >= _REACH - 1))[:1].tolist():
        raise ArgumentError(
            f"FactorizedPrior: the quantiles of channel {channel} must lie within 16 bits of its median, "
            f"got {quantiles[channel].tolist()}; train them with loss(), or call update(force=True, "
            "update_quantiles=True)"
        )
    return _Span(minima, maxima)


def settled_quantiles(prior: ExactPrior, targets: Sequence[float]) -> Array:
    """Where the logits of each channel reach the targets, by bisection.

    Args:
        prior: the distribution of each channel.
        targets: logits, from the lowest to the highest.

    Returns:
        Quantiles (channels, len(targets)), within 0.001 + 0.01 % of their values, or nearer.

    Source:
        CompressAI's `EntropyBottleneck.update(update_quantiles=True)`, with its bounds and tolerances.
    """
    return np.concatenate([_search(prior, target) for target in targets], axis=1)


def _search(prior: ExactPrior, target: float) -> Array:
    low = np.full((prior.channels, 1), -_FARTHEST)
    high = -low
    # a target beyond the end of the search ends it there
    low = np.where(prior.logits(high) < target, high, low)
    high = np.where(prior.logits(low) > target, low, high)
    while (abs(high - low) > _ABSOLUTE + _RELATIVE * abs(high)).any():
        middle = (low + high) / 2
        logits = prior.logits(middle)
        low, high = np.where(logits <= target, middle, low), np.where(logits >= target, middle, high)
    found: Array = (low + high) / 2
    return found


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(-x))


def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    small = exp(-2.0 * abs(x))
    return np.copysign((1.0 - small) / (1.0 + small), x)


def softplus(x: Array) -> Array:
    """log(1 + e^x), with log(1 + t) = 2 artanh(t / (2 + t)) as a series."""
    t = exp(-abs(x))
    ratio = t / (2.0 + t)
    square = ratio * ratio
    total = np.zeros_like(x)
    for n in range(_LOG_TERMS, -1, -1):
        total = total * square + 1.0 / (2 * n + 1)
    result: Array = np.maximum(x, 0.0) + 2.0 * ratio * total
    return result
