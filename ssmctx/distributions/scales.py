"""The tabled scales: log-spaced standard deviations, and which of them a scale is coded with."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from decimal import Decimal, localcontext

import torch
from torch import Tensor

from ssmctx.constants import constant
from ssmctx.errors import ArgumentError

__all__ = ["ScaleGrid"]

_MOST_LEVELS = 1 << 16  # rows of coding tables


@dataclass(frozen=True)
class ScaleGrid:
    r"""Standard deviations that have a table row each, log-spaced.

    $$ \sigma_i = \sigma_{\min} \left(\frac{\sigma_{\max}}{\sigma_{\min}}\right)^{i / (n - 1)}, \quad 0 \le i < n $$

    Args:
        minimum: smallest tabled scale, in quantisation steps.
        maximum: largest tabled scale, in quantisation steps.
        levels: how many there are, n.

    Raises:
        ArgumentError: not 0 < minimum < maximum, or not 2 to 65536 levels.

    Source:
        The scale table of CompressAI's hyperprior models; Minnen et al. 2018.

    Examples:
        >>> from ssmctx.distributions import ScaleGrid
        >>> ScaleGrid(1, 8, 4).values()
        (1.0, 2.0, 4.0, 8.0)
    """

    minimum: float = 0.11
    maximum: float = 256.0
    levels: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.minimum < self.maximum < math.inf:
            raise ArgumentError(
                f"ScaleGrid needs finite scales, 0 < minimum < maximum; got {self.minimum} and {self.maximum}"
            )
        if not isinstance(self.levels, int) or not 2 <= self.levels <= _MOST_LEVELS:
            raise ArgumentError(f"ScaleGrid needs 2 to {_MOST_LEVELS} levels, got {self.levels}")

    def values(self) -> tuple[float, ...]:
        """The tabled scales, smallest first; the same bits on every machine."""
        return _values(self)

    @property
    def spacing(self) -> float:
        """Distance of two neighbouring scales on a log axis."""
        return math.log(self.maximum / self.minimum) / (self.levels - 1)

    def borders(self) -> tuple[float, ...]:
        """The geometric means of neighbouring scales, one fewer than there are scales."""
        return tuple(math.sqrt(a * b) for a, b in itertools.pairwise(self.values()))

    def tensor(self, like: Tensor) -> Tensor:
        """The tabled scales, (levels,), in the dtype and on the device of `like`; shared, not to be written to."""
        return constant(_tensor, self, False, like.dtype, device=like.device)

    def index(self, scale: Tensor) -> Tensor:
        """Index of the tabled scale that is nearest on a log axis.

        Args:
            scale: standard deviations, any real numbers, of any shape.

        Returns:
            0 to levels - 1, int64, the shape of `scale`.

        Examples:
            >>> import torch
            >>> from ssmctx.distributions import ScaleGrid
            >>> ScaleGrid().index(torch.tensor([-3.0, 0.11, 0.12, 1e9])).tolist()
            [0, 0, 1, 63]
        """
        scale = scale.to(torch.promote_types(scale.dtype, torch.float32))  # half-precision borders would be too coarse
        return torch.bucketize(scale.contiguous(), constant(_tensor, self, True, scale.dtype, device=scale.device))

    def nearest(self, scale: Tensor) -> Tensor:
        """The tabled scale that is nearest on a log axis: what the coder works with.

        Args:
            scale: standard deviations, any real numbers, of any shape.

        Returns:
            Tabled scales, the shape of `scale`; with its gradient, 0 above the largest.

        Examples:
            >>> import torch
            >>> from ssmctx.distributions import ScaleGrid
            >>> ScaleGrid(1, 8, 4).nearest(torch.tensor([0.3, 2.5, 9.0]))
            tensor([1., 2., 8.])
        """
        tabled = self.tensor(scale)[self.index(scale)]
        if not scale.requires_grad:
            return tabled
        within = scale.clamp(max=self.maximum)
        return tabled + (within - within.detach())  # plus 0


@functools.cache
def _values(grid: ScaleGrid) -> tuple[float, ...]:
    with localcontext() as context:  # decimal rounds exp and ln correctly everywhere, math's depend on the machine
        context.prec = 30
        low, high = Decimal(repr(float(grid.minimum))), Decimal(repr(float(grid.maximum)))
        ratio = (high / low).ln() / (grid.levels - 1)
        return tuple(float(low * (i * ratio).exp()) for i in range(grid.levels))


def _tensor(grid: ScaleGrid, borders: bool, dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    return torch.tensor(grid.borders() if borders else grid.values(), dtype=dtype, device=device)
