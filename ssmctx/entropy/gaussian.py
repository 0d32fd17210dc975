"""The Gaussian model of y: the tabled scales, which one a scale is coded with, and the likelihood of a residual."""

from __future__ import annotations

import functools
import itertools
import math
from decimal import Decimal, localcontext

import torch
from torch import Tensor

__all__ = [
    "SCALE_LEVELS",
    "SCALE_MAX",
    "SCALE_MIN",
    "gaussian_likelihood",
    "level_values",
    "scale_index",
    "scale_levels",
]

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 256.0, 64
_LIKELIHOOD_MIN = 1e-9


@functools.cache
def level_values() -> tuple[float, ...]:
    """The 64 tabled scales, log-spaced from 0.11 to 256 quantisation steps; the same bits on every machine."""
    with localcontext() as context:  # decimal rounds exp and ln correctly everywhere, math's depend on the machine
        context.prec = 30
        ratio = (Decimal("256") / Decimal("0.11")).ln() / (SCALE_LEVELS - 1)
        return tuple(float(Decimal("0.11") * (i * ratio).exp()) for i in range(SCALE_LEVELS))


@functools.cache
def _borders(dtype: torch.dtype, device: torch.device) -> Tensor:
    values = [math.sqrt(a * b) for a, b in itertools.pairwise(level_values())]
    return torch.tensor(values, dtype=dtype, device=device)


@functools.cache
def _levels(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(level_values(), dtype=dtype, device=device)


def scale_levels(like: Tensor) -> Tensor:
    """The tabled scales, (64,), in the dtype and on the device of `like`."""
    return _levels(like.dtype, like.device)


def scale_index(scale: Tensor) -> Tensor:
    """Index of the tabled scale that is nearest on a log axis; int64, the shape of `scale`.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.gaussian import scale_index
        >>> scale_index(torch.tensor([-3.0, 0.11, 0.12, 1e9])).tolist()
        [0, 0, 1, 63]
    """
    return torch.bucketize(scale.contiguous(), _borders(scale.dtype, scale.device))


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

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.gaussian import gaussian_likelihood
        >>> gaussian_likelihood(torch.tensor([0.0]), torch.tensor([0.11]))
        tensor([1.0000])
    """
    distance = residual.abs()
    upper = torch.erfc((distance - 0.5) / (scale * math.sqrt(2)))
    lower = torch.erfc((distance + 0.5) / (scale * math.sqrt(2)))
    return (0.5 * (upper - lower)).clamp(min=_LIKELIHOOD_MIN)
