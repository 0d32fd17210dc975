"""The logistic distribution."""

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

__all__ = ["Logistic"]

_RATE = math.pi / math.sqrt(3)  # a logistic distribution of rate 1 has a variance of pi^2 / 3


@dataclass(frozen=True)
class Logistic(Distribution):
    r"""The logistic distribution: between the Gaussian and Laplace, round at 0 with exponential tails.

    $$ P(X > x) = \frac{1}{1 + e^{x / s}}, \quad s = \frac{\sqrt 3}{\pi} \sigma $$

    Args:
        grid: the tabled scales.

    Examples:
        >>> import torch
        >>> from ssmctx.distributions import Logistic
        >>> Logistic().likelihood(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor([0.4247, 0.2259])
    """

    name: ClassVar[str] = "logistic"

    def survival(self, x: Tensor, scale: Tensor) -> Tensor:
        """The sigmoid of -x / s."""
        return torch.sigmoid(x * -_RATE / scale)

    def half_mass(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half of tanh(x / 2s)."""
        tail = exp(-_RATE * x)
        return 0.5 * (1 - tail) / (1 + tail)
