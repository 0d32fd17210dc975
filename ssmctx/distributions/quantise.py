"""Probabilities as the whole numbers that entropy coders work with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["quantise"]

_TOTAL = 1 << 16


def quantise(pmf: NDArray[np.float64]) -> NDArray[np.int32]:
    """16-bit cumulative frequencies of a row of probabilities, each interval at least 1.

    Args:
        pmf: probabilities, the escape's last; their sum need not be exactly 1.

    Shape:
        (n,) to (n + 1,), from 0 to 65536.

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
    for empty in np.flatnonzero(counts == 0):
        giver = np.where(counts > 1, counts, _TOTAL + 1).argmin()
        counts[giver] -= 1
        counts[empty] += 1
    cdf: NDArray[np.int32] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return cdf
