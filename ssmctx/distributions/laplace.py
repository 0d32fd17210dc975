"""The Laplace distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions.base import Distribution
from ssmctx.distributions.exact import exp

__all__ = ["Laplace"]


@dataclass(frozen=True)
class Laplace(Distribution):
    r"""The Laplace distribution: a peak at 0 and exponential tails.

    $$ p(x) = \frac{1}{\sqrt 2 \sigma} e^{-\sqrt 2 |x| / \sigma} $$

    Args:
        grid: the tabled scales.

    Examples:
        >>> import torch
        >>> from ssmctx.distributions import Laplace
        >>> Laplace().likelihood(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor([0.5069, 0.1866])
    """

    name: ClassVar[str] = "laplace"

    def survival(self, x: Tensor, scale: Tensor) -> Tensor:
        """Half of e^(-sqrt(2) x / scale), or 1 minus half of e^(sqrt(2) x / scale) where x is negative."""
        x = x * math.sqrt(2) / scale
        # the branch that is not taken must not overflow: its gradient would be NaN; and abs() has no gradient at 0
        tail = 0.5 * torch.exp(torch.where(x < 0, x, -x))
        return torch.where(x < 0, 1 - tail, tail)

    def half_mass(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half of 1 - e^(-sqrt(2) x)."""
        return 0.5 - 0.5 * exp(-math.sqrt(2) * x)
