"""A distribution: likelihoods are probabilities of the stated variance, and its tables code at the rate they say."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ssmctx.distributions import Distribution
from ssmctx.testing.broken import LawBroken, attempt

__all__ = ["assert_distribution"]

_LAW = "distribution"
_SCALES = (0.11, 0.7, 3.0, 40.0)
_FARTHEST = 2000.0  # standard deviations
_STEP = 1e-4
_COST = 0.02  # bits, and for each bit of the entropy, that a table may take more than the likelihoods say


def assert_distribution(distribution: Distribution) -> None:
    """Likelihoods sum to 1, with the stated variance and gradients; the tables agree with them and cost no rate.

    Args:
        distribution: to judge.

    Raises:
        LawBroken: a property does not hold.

    Examples:
        >>> from ssmctx.distributions import Gaussian
        >>> from ssmctx.testing import assert_distribution
        >>> assert_distribution(Gaussian())
    """
    _check_object(distribution)
    for scale in _SCALES:
        _check_likelihoods(distribution, scale)
    _check_gradients(distribution)
    _check_precision(distribution)
    _check_tables(distribution)


def _check_object(distribution: Distribution) -> None:
    copied = copy.deepcopy(distribution)
    if copied != distribution or hash(copied) != hash(distribution):
        raise LawBroken(
            _LAW, f"a copy of {distribution!r} does not equal it", "a class with parameters must be a frozen dataclass"
        )


def _masses(distribution: Distribution, scale: float, symbols: Tensor) -> Tensor:
    """Likelihoods without their lower limit, in float64."""
    sigma, distance = symbols.new_tensor(scale), symbols.abs()
    return distribution.survival(distance - 0.5, sigma) - distribution.survival(distance + 0.5, sigma)


def _check_likelihoods(distribution: Distribution, scale: float) -> None:
    far = int(_FARTHEST * max(scale, 1))
    symbols = torch.arange(-far, far + 1, dtype=torch.float64)
    mass = attempt(_LAW, "survival", _masses, distribution, scale, symbols)
    if abs(float(mass.sum()) - 1) > 1e-6 or float(mass.min()) < -1e-12:
        raise LawBroken(
            _LAW, f"likelihoods at scale {scale} sum to {float(mass.sum()):.8f}, smallest {float(mass.min()):.3g}"
        )
    if float(mass[far:].diff().max()) > 1e-12:
        raise LawBroken(_LAW, f"likelihoods at scale {scale} rise away from 0", "the distribution is not unimodal")
    deviation = float((mass * symbols**2).sum() - 1 / 12) ** 0.5  # rounding adds the variance of a step
    if scale > 2 and abs(deviation / scale - 1) > 1e-3:
        raise LawBroken(
            _LAW,
            f"the standard deviation at scale {scale} is {deviation:.4f}",
            "the scale is not the standard deviation",
        )
    few = symbols[far - 20 : far + 21]
    likelihood = distribution.likelihood(few, few.new_tensor(scale))
    if not torch.allclose(likelihood, likelihood.flip(0), rtol=1e-9, atol=0):
        raise LawBroken(_LAW, f"likelihoods at scale {scale} differ between r and -r")


def _check_gradients(distribution: Distribution) -> None:
    residual = torch.tensor([-3.3, -0.9, 0.2, 0.45, 1.7, 6.1], dtype=torch.float64)
    for scale in (0.6, 2.5):
        at = [residual, torch.full_like(residual, scale)]
        for number, name in enumerate(("residual", "scale")):
            moved = [at.copy(), at.copy()]
            for arguments, step in zip(moved, (_STEP, -_STEP), strict=True):
                arguments[number] = at[number] + step
            slope = (distribution.likelihood(*moved[0]) - distribution.likelihood(*moved[1])) / (2 * _STEP)
            gradient = _gradients(distribution, *at)[number]
            if not torch.allclose(gradient, slope, rtol=1e-3, atol=1e-5):
                raise LawBroken(
                    _LAW, f"the gradient for the {name} at scale {scale} is {gradient}, differences say {slope}"
                )
    far = torch.tensor([0.0, 0.5, 40.0, 32767.0]).repeat_interleave(2)
    for gradient in _gradients(distribution, far, torch.tensor([0.11, 256.0]).repeat(4)):
        if not gradient.isfinite().all():
            raise LawBroken(
                _LAW,
                f"gradients at residuals of {far.tolist()} are {gradient.tolist()}",
                "a branch of torch.where that overflows although it is not taken",
            )


def _gradients(distribution: Distribution, *at: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in at]
    total = distribution.likelihood(*leaves).sum()
    return attempt(_LAW, "differentiating the likelihood", torch.autograd.grad, total, leaves)


def _check_precision(distribution: Distribution) -> None:
    residual, scale = torch.tensor([0.0, 1.3, -4.0]).bfloat16(), torch.tensor([0.3, 1.1, 2.0]).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        likelihood = distribution.likelihood(residual, scale)
    if likelihood.dtype != torch.float32 or not torch.equal(
        likelihood, distribution.likelihood(residual.float(), scale.float())
    ):
        raise LawBroken(_LAW, f"under bfloat16 autocast likelihoods are {likelihood.dtype}, or others than in float32")


def _check_tables(distribution: Distribution) -> None:
    tables = attempt(_LAW, "tables", distribution.tables)
    values = distribution.grid.values()
    if len(tables.lengths) != len(values):
        raise LawBroken(_LAW, f"{len(tables.lengths)} table rows for {len(values)} tabled scales")
    for row, scale in enumerate(values):
        frequency = np.diff(tables.cdfs[row, : tables.lengths[row]])
        symbols = torch.arange(len(frequency) - 1, dtype=torch.float64) + int(tables.offsets[row])
        mass = _masses(distribution, scale, symbols).numpy()
        mass = np.append(mass, max(0.0, 1 - mass.sum())).clip(1e-300)  # the escape's last
        bits, entropy = -(mass * np.log2(frequency / 65536)).sum(), -(mass * np.log2(mass)).sum()
        if bits > entropy * (1 + _COST) + _COST:
            raise LawBroken(
                _LAW,
                f"row {row}, scale {scale:.3g}, takes {bits:.4f} bits per symbol, the likelihoods say {entropy:.4f}",
                "survival and half_mass are of different distributions",
            )
