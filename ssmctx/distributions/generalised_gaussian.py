"""The generalised Gaussian distribution of a fixed shape."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions.base import Distribution
from ssmctx.distributions.exact import exp, gamma, power
from ssmctx.errors import ArgumentError

__all__ = ["GeneralisedGaussian"]

_FARTHEST = 40.0  # of (x / a)^shape; beyond, the mass is 1/2 to the last bit
_TERMS = 150  # enough for the series there


@dataclass(frozen=True)
class GeneralisedGaussian(Distribution):
    r"""The generalised Gaussian distribution: a family from peaked (1: Laplace) over normal (2) to flat.

    $$ p(x) \propto e^{-(|x| / a)^\beta}, \quad
    a = \sigma \sqrt{\frac{\Gamma(1 / \beta)}{\Gamma(3 / \beta)}}, \quad
    P(X > x) = \frac{1}{2} Q\!\left(\frac{1}{\beta}, \left(\frac{x}{a}\right)^\beta\right) \; (x \ge 0) $$

    with $Q$ the regularised upper incomplete gamma function.

    Args:
        shape: the exponent, 0.5 to 4.
        grid: the tabled scales.

    Raises:
        ArgumentError: a shape outside 0.5 to 4.

    Examples:
        >>> import torch
        >>> from ssmctx.distributions import GeneralisedGaussian
        >>> GeneralisedGaussian(1.5).likelihood(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor([0.4268, 0.2216])
    """

    shape: float = 1.5

    name: ClassVar[str] = "generalised-gaussian"
    _known: ClassVar[tuple[float, float]]  # an instance attribute; ClassVar keeps it out of the dataclass fields

    def __post_init__(self) -> None:
        if not 0.5 <= self.shape <= 4:
            raise ArgumentError(f"GeneralisedGaussian: shape must be 0.5 to 4, got {self.shape}")
        # here and not when it is needed: torch.compile cannot trace decimal arithmetic
        object.__setattr__(self, "_known", _constants(self.shape))

    def survival(self, x: Tensor, scale: Tensor) -> Tensor:
        """Half of Q(1 / shape, (x / a)^shape), or 1 minus that of -x where x is negative."""
        height, unit = self._known
        return _Survival.apply(x / (scale * unit), self.shape, height)  # type: ignore[no-any-return]

    def half_mass(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        r"""Half of P(1 / shape, (x / a)^shape), by a sum of positive terms.

        $$ \gamma(s, u) = u^s e^{-u} \sum_k \frac{u^k}{s (s + 1) \cdots (s + k)}, \quad u^s = x / a $$
        """
        height, unit = self._known
        x = x / unit
        u = np.minimum(power(x, self.shape), _FARTHEST)
        x = np.minimum(x, power(np.array([_FARTHEST]), 1 / self.shape))
        s = 1 / self.shape
        term = total = np.ones_like(u)
        for k in range(1, _TERMS):
            term = term * u / (s + k)
            total = total + term
        half: NDArray[np.float64] = np.minimum(height * x * exp(-u) * total, 0.5)
        return half


@functools.cache
def _constants(shape: float) -> tuple[float, float]:
    """The density at 0 where a = 1, and a where the standard deviation is 1; the same bits everywhere."""
    with localcontext() as context:
        context.prec = 40
        s = 1 / Decimal(float(shape))
        whole = gamma(s)
        return float(1 / (2 * s * whole)), float((whole / gamma(3 * s)).sqrt())


class _Survival(torch.autograd.Function):
    """P(X > t) where a = 1, with its gradient: minus the density. Autograd through t^shape would give NaN at 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor, shape: float, height: float) -> Tensor:
        tail = 0.5 * torch.special.gammaincc(torch.full_like(t, 1 / shape), t.abs() ** shape)
        return torch.where(t < 0, 1 - tail, tail)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        t, ctx.shape, ctx.height = inputs
        ctx.save_for_backward(t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (t,) = ctx.saved_tensors
        return -grad * ctx.height * torch.exp(-(t.abs() ** ctx.shape)), None, None
