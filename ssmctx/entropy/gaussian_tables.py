"""Coding tables of the Gaussian model, with the same integers on every machine.

Only additions, multiplications and divisions of float64 are used, which IEEE 754 rounds in one way; exp and erf differ
between mathematical libraries in the last bit, and a table that differs in one count decodes to garbage.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from ssmctx.entropy.gaussian import level_values
from ssmctx.entropy.tables import CodingTables

__all__ = ["gaussian_tables", "quantise"]

_TAIL = 6.109410204869  # standard deviations that hold all but 1e-9 of the mass
_FARTHEST = 9.0  # standard deviations; beyond, 1/2 - Phi is rounding noise
_TERMS = 200  # enough for the series at 9 standard deviations
_TOTAL = 1 << 16


@functools.cache
def gaussian_tables() -> CodingTables:
    """Tables of the 64 scales: row i codes residuals of standard deviation `level_values()[i]`.

    Examples:
        >>> from ssmctx.entropy.gaussian_tables import gaussian_tables
        >>> tables = gaussian_tables()
        >>> tables.cdfs[0, :5].tolist(), tables.offsets[:3].tolist(), tables.fingerprint().hex()
        ([0, 1, 65534, 65535, 65536], [-1, -1, -1], '46e54a158d254104')
    """
    rows, offsets = [], []
    for scale in level_values():
        reach = math.ceil(_TAIL * scale)
        edges = (np.arange(reach + 1) + 0.5) / scale
        inner = _half_mass(edges)  # between 0 and each edge
        half = np.diff(inner, prepend=0.0)
        half[0] = 2 * inner[0]
        rows.append(quantise(np.concatenate([half[:0:-1], half, [max(0.0, 1 - 2 * inner[-1])]])))
        offsets.append(-reach)
    return CodingTables.from_lists(rows, [len(row) for row in rows], offsets)


def _half_mass(x: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Phi(x) - 1/2 of the normal distribution, for x >= 0.

    $$ \Phi(x) - \tfrac12 = \frac{\sum_k x^{2k+1} / (1 \cdot 3 \cdots (2k+1))}{\sqrt{2\pi} \sum_k (x^2/2)^k / k!} $$

    Both sums have positive terms only, so that nothing cancels.
    """
    x = np.minimum(x, _FARTHEST)
    square = x * x
    upper_term, lower_term = x, np.ones_like(x)
    upper, lower = upper_term, lower_term
    for k in range(1, _TERMS):
        upper_term = upper_term * square / (2 * k + 1)
        lower_term = lower_term * square / (2 * k)
        upper, lower = upper + upper_term, lower + lower_term
    return upper / (lower * math.sqrt(2 * math.pi))


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
        >>> from ssmctx.entropy.gaussian_tables import quantise
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
