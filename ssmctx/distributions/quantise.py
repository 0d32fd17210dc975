"""Probabilities as the integers that entropy coders work with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["quantise", "quantise_closely"]

_TOTAL = 1 << 16


def quantise(pmf: NDArray[np.float64]) -> NDArray[np.int32]:
    """16-bit cumulative frequencies of a row of probabilities, each interval at least 1.

    Args:
        pmf: probabilities (n,), the escape's last; their sum need not be exactly 1.

    Returns:
        (n + 1,) int32 cumulative frequencies, from 0 to 65536, strictly increasing.

    Source:
        As CompressAI's `pmf_to_quantized_cdf`: round, scale to the total, leave the rest to the escape, and where an
        interval is empty take from the smallest that can give.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.distributions.quantise import quantise
        >>> quantise(np.array([0.5, 0.25, 0.25, 0.0])).tolist()
        [0, 32768, 49151, 65535, 65536]
    """
    counts = np.floor(np.asarray(pmf, np.float64) * _TOTAL + 0.5).astype(np.int64)
    counts = counts * _TOTAL // counts.sum()
    counts[-1] = _TOTAL - counts[:-1].sum()
    empty = np.flatnonzero(counts == 0)
    givers = np.flatnonzero(counts > 1)
    givers = givers[np.argsort(counts[givers], kind="stable")]
    spare = counts[givers] - 1
    counts[givers] -= np.clip(empty.size - (np.cumsum(spare) - spare), 0, spare)
    counts[empty] = 1
    return _cumulative(counts)


def quantise_closely(pmf: NDArray[np.float64]) -> NDArray[np.int32]:
    """As `quantise`, for fewer bits: every probability is rounded, and the largest absorb the error of the sum.

    `quantise` rounds down, which leaves up to 1 % of a wide row to its escape. To first order one count costs the same
    bits in any interval; to second order a large one is cheaper.

    Args:
        pmf: probabilities (n,), the escape's last, at most 65536; their sum need not be exactly 1.

    Returns:
        (n + 1,) int32 cumulative frequencies, from 0 to 65536, strictly increasing.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.distributions.quantise import quantise_closely
        >>> quantise_closely(np.array([0.5, 0.25, 0.25, 0.0])).tolist()
        [0, 32767, 49151, 65535, 65536]
    """
    counts = np.floor(np.asarray(pmf, np.float64) * _TOTAL + 0.5).astype(np.int64).clip(min=1)
    largest = np.argsort(-counts, kind="stable")
    while excess := int(counts.sum()) - _TOTAL:
        some = largest[: abs(excess)]
        counts[some[counts[some] > 1] if excess > 0 else some] -= np.sign(excess)
    return _cumulative(counts)


def _cumulative(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
