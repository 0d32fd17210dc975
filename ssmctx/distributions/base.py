"""What y is coded with: a family of distributions with a scale, its likelihoods and its coding tables."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions.build import Quantise, build_tables
from ssmctx.distributions.quantise import quantise_closely
from ssmctx.distributions.scales import ScaleGrid
from ssmctx.distributions.tables import CodingTables

__all__ = ["Distribution"]

_LIKELIHOOD_MIN = 1e-9


@dataclass(frozen=True)
class Distribution(ABC):
    r"""Base class of what an element of y is coded with: zero-mean, symmetric, unimodal, with a scale.

    Random variables $\sigma X$ with $\mathrm{E} X = 0$ and $\mathrm{Var} X = 1$: the scale is always the
    standard deviation. Derive from it, give it a `name`, and write `survival` and `half_mass`; likelihoods, rows and
    tables follow. Two of the same class and parameters are equal. A class with parameters of its own is a dataclass,
    `@dataclass(frozen=True)`, too.

    Args:
        grid: the tabled scales.

    Attributes:
        name: under which it is registered; stored with a model.
        escaped: mass beyond the last symbols of a table row, which its escape codes.
        quantise: from a row's probabilities to its cumulative frequencies.

    Examples:
        >>> import torch
        >>> from ssmctx.distributions import Gaussian
        >>> gaussian = Gaussian()
        >>> gaussian.likelihood(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor([0.3829, 0.2417])
        >>> gaussian.rows(torch.tensor([0.11, 1.0])).tolist(), len(gaussian.tables().lengths)
        ([0, 18], 64)
    """

    grid: ScaleGrid = field(default=ScaleGrid(), kw_only=True)

    name: ClassVar[str]
    escaped: ClassVar[float] = 2.0**-13
    quantise: ClassVar[Quantise] = staticmethod(quantise_closely)

    @abstractmethod
    def survival(self, x: Tensor, scale: Tensor) -> Tensor:
        r"""The probability of more than x, $P(\sigma X > x)$.

        Autograd must be able to differentiate it in both; it should be accurate where x is large, not 1 minus something
        near 1. Called with float32 or wider only.

        Args:
            x: any real numbers, of any shape.
            scale: standard deviations, positive, of a shape that broadcasts with x's.

        Returns:
            Probabilities, 0 to 1, of the common shape.
        """

    @abstractmethod
    def half_mass(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        r"""The probability between 0 and x at a standard deviation of 1, $P(0 < X < x)$.

        Encoder and decoder may run on different machines, and tables that differ in one count decode to garbage. So
        use +, -, *, / and sqrt of float64, which IEEE 754 rounds in one way, and `ssmctx.distributions.exact`; not exp,
        log, pow or erf, whose last bit depends on the mathematical library.

        Args:
            x: (n,) float64, 0 or more.

        Returns:
            (n,) float64, 0 to 1/2, increasing.
        """

    @final
    def likelihood(self, residual: Tensor, scale: Tensor) -> Tensor:
        r"""Probability of falling within half a step of a residual.

        $$ p = P(\sigma X > |r| - \tfrac12) - P(\sigma X > |r| + \tfrac12) $$

        Differentiable in both arguments, except that the gradient is 0 where p is below 1e-9. Computed in float32 or
        wider, under autocast too: in bfloat16 a rate would be 0.1 % off.

        Args:
            residual: y - mean, rounded or with noise, in quantisation steps; any shape.
            scale: standard deviations, positive; a shape that broadcasts with residual's.

        Returns:
            Likelihoods in [1e-9, 1], of the common shape, float32 or wider; -log2 of them are bits.

        Source:
            MambaIC section 3.1, equation 4.
        """
        wide = torch.promote_types(torch.promote_types(residual.dtype, scale.dtype), torch.float32)
        distance, scale = residual.to(wide).abs(), scale.to(wide)
        mass = self.survival(distance - 0.5, scale) - self.survival(distance + 0.5, scale)
        return mass.clamp(min=_LIKELIHOOD_MIN, max=1)

    @final
    def rows(self, scale: Tensor) -> Tensor:
        """The table row that codes an element: that of the tabled scale nearest on a log axis.

        Args:
            scale: standard deviations, any real numbers, of any shape.

        Returns:
            Rows of `tables()`, int64, the shape of `scale`.
        """
        return self.grid.index(scale)

    @final
    def tables(self) -> CodingTables:
        """Coding tables, one row per tabled scale, with the same integers on every machine; made once.

        Every symbol of a row takes at least 1 of 65536 counts. So a row ends where the mass beyond is `escaped`: to
        give the rare symbols of a wide row counts of their own would cost more than escapes do. With the default,
        tables of Laplace, logistic and generalised Gaussian (1.5) take up to 0.07 % more bits than the likelihoods
        say at scales from 0.3 to 128, and 0.17 % at 256.

        Raises:
            ArgumentError: what `half_mass` gives are not probabilities, or do not sum to 1.
        """
        return _tables(self)


@functools.cache  # equal distributions share them, and copies and pickles hold none
def _tables(distribution: Distribution) -> CodingTables:
    return build_tables(
        distribution.name,
        distribution.half_mass,
        distribution.grid.values(),
        distribution.escaped,
        type(distribution).quantise,  # mypy takes the other for a method
    )
