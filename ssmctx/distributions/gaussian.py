"""The normal distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions.base import Distribution
from ssmctx.distributions.build import Quantise
from ssmctx.distributions.quantise import quantise

__all__ = ["Gaussian"]

_FARTHEST = 9.0  # standard deviations; beyond, 1/2 - Phi is rounding noise
_TERMS = 200  # enough for the series at 9 standard deviations


@dataclass(frozen=True)
class Gaussian(Distribution):
    r"""The normal distribution, $p(x) \propto e^{-x^2 / 2\sigma^2}$: what the paper codes y with.

    Its tables equal CompressAI's: they leave less mass to the escape and round less closely than those of the others.

    Args:
        grid: the tabled scales.

    Source:
        MambaIC section 3.1, equation 4.

    Examples:
        >>> from ssmctx.distributions import Gaussian
        >>> tables = Gaussian().tables()
        >>> tables.cdfs[0, :5].tolist(), tables.offsets[:3].tolist(), tables.fingerprint().hex()
        ([0, 1, 65534, 65535, 65536], [-1, -1, -1], '46e54a158d254104')
    """

    name: ClassVar[str] = "gaussian"
    escaped: ClassVar[float] = 1e-9
    quantise: ClassVar[Quantise] = staticmethod(quantise)

    def survival(self, x: Tensor, scale: Tensor) -> Tensor:
        """Half of erfc(x / (sqrt(2) scale))."""
        return 0.5 * torch.erfc(x / (scale * math.sqrt(2)))

    def half_mass(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        r"""Phi(x) - 1/2, by two sums of positive terms, so that nothing cancels.

        $$ \Phi(x) - \tfrac12 = \frac{\sum_k x^{2k+1} / (1 \cdot 3 \cdots (2k+1))}{\sqrt{2\pi} \sum_k (x^2/2)^k / k!} $$
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
