"""The Gaussian model of y: probability of a quantised residual, and the tables that the coder uses for it."""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from ssmctx.entropy.coder import CodingTables, tables_from_pmfs

__all__ = [
    "SCALE_LEVELS",
    "SCALE_MAX",
    "SCALE_MIN",
    "gaussian_likelihood",
    "gaussian_tables",
    "scale_index",
    "scale_levels",
]

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 256.0, 64
_LIKELIHOOD_MIN = 1e-9
_TAIL = 6.11  # standard deviations that hold all but 1e-9 of the mass


@functools.lru_cache(maxsize=1)
def _levels() -> tuple[float, ...]:
    step = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)
    return tuple(SCALE_MIN * math.exp(i * step) for i in range(SCALE_LEVELS))


def scale_levels(like: Tensor) -> Tensor:
    """The 64 tabled scales, log-spaced from 0.11 to 256 quantisation steps, in the dtype and device of `like`."""
    return torch.tensor(_levels(), dtype=like.dtype, device=like.device)


def scale_index(scale: Tensor) -> Tensor:
    """Index of the tabled scale that is nearest on a log axis; int64, the shape of `scale`.

    Example:
        >>> scale_index(torch.tensor([-3.0, 0.11, 0.12, 1e9])).tolist()
        [0, 0, 1, 63]
    """
    levels = _levels()
    borders = torch.tensor(
        [math.sqrt(a * b) for a, b in itertools.pairwise(levels)], dtype=scale.dtype, device=scale.device
    )
    return torch.bucketize(scale, borders)


def gaussian_likelihood(residual: Tensor, scale: Tensor) -> Tensor:
    r"""Probability that a zero-mean Gaussian falls within half a step of `residual`.

    $$ p = \Phi\!\left(\frac{1/2 - |r|}{\sigma}\right) - \Phi\!\left(\frac{-1/2 - |r|}{\sigma}\right) $$

    Args:
        residual: y - mean, rounded or with noise, in quantisation steps.
        scale: standard deviation, positive.

    Returns:
        Likelihoods in [1e-9, 1], the shape of `residual`; -log2 of them are bits.

    Source:
        MambaIC section 3.1, equation 4.

    Example:
        >>> gaussian_likelihood(torch.tensor([0.0]), torch.tensor([0.11]))
        tensor([1.0000])
    """
    distance = residual.abs()
    upper = torch.erfc((distance - 0.5) / (scale * math.sqrt(2)))
    lower = torch.erfc((distance + 0.5) / (scale * math.sqrt(2)))
    return (0.5 * (upper - lower)).clamp(min=_LIKELIHOOD_MIN)


@functools.lru_cache(maxsize=1)
def gaussian_tables() -> CodingTables:
    """Coding tables of the 64 scales: index i of `scale_index` codes residuals of standard deviation level i."""
    pmfs = []
    offsets = []
    for scale in _levels():
        reach = math.ceil(_TAIL * scale)

        def tail(distance: float, scale: float = scale) -> float:
            return 0.5 * math.erfc(distance / (scale * math.sqrt(2)))

        half = [tail(i - 0.5) - tail(i + 0.5) for i in range(reach + 1)]
        pmfs.append([*reversed(half[1:]), *half, 2 * tail(reach + 0.5)])
        offsets.append(-reach)
    return tables_from_pmfs(pmfs, offsets)
