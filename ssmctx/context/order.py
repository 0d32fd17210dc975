"""The coding order of a latent: slices of channels, each in two checkerboard passes or in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ssmctx.errors import ArgumentError

__all__ = ["CodingOrder", "even_slices"]


def even_slices(owner: str, M: int, num_slices: int) -> list[int]:
    """Widths of slices of equal width.

    Raises:
        ArgumentError: M is no multiple of num_slices.
    """
    if M % num_slices:
        raise ArgumentError(f"{owner}: M must be a multiple of num_slices, got M={M}, num_slices={num_slices}")
    return [M // num_slices] * num_slices


class CodingOrder:
    """Which elements of a latent are coded at which step.

    With two passes, step 2k codes the anchors of slice k, the positions whose row + column is even, and step 2k + 1 the
    rest of the slice; with one, step k codes all of slice k. The masks of all steps partition the latent.

    Args:
        slices: channels of each slice, in coding order.
        passes: 1 or 2.

    Raises:
        ArgumentError: no slice, one without channels, or another number of passes.

    Source:
        MambaIC section 3.1 (equations 10 and 11) and 3.2; checkerboard of He et al., 2021.

    Examples:
        >>> from ssmctx import CodingOrder
        >>> order = CodingOrder([2, 1])
        >>> order.num_steps, order.channels(3)
        (4, slice(2, 3, None))
        >>> order.mask(2, (2, 2)).int().tolist()
        [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 1]]]
    """

    def __init__(self, slices: Sequence[int], passes: int = 2) -> None:
        self.slices, self.passes = tuple(slices), passes
        if not self.slices or min(self.slices) < 1:
            raise ArgumentError(f"CodingOrder needs slices of at least 1 channel each, got {self.slices}")
        if passes not in (1, 2):
            raise ArgumentError(f"CodingOrder codes a slice in 1 or 2 passes, got {passes!r}")
        self._ends = tuple(accumulate(self.slices))

    @property
    def num_channels(self) -> int:
        """Channels M of the latent."""
        return self._ends[-1]

    @property
    def num_steps(self) -> int:
        """Coding steps: as many a slice as there are passes."""
        return self.passes * len(self.slices)

    def slice_index(self, step: int) -> int:
        """The slice k that a step codes part of."""
        if not 0 <= step < self.num_steps:
            raise ArgumentError(f"step must lie in 0..{self.num_steps - 1}, got {step}")
        return step // self.passes

    def is_anchor(self, step: int) -> bool:
        """Whether a step is the first of its slice: it codes the anchors, or with one pass everything."""
        return step % self.passes == 0

    def channels(self, step: int) -> slice:
        """The channels of the slice that a step belongs to."""
        k = self.slice_index(step)
        return slice(self._ends[k] - self.slices[k], self._ends[k])

    def positions(self, step: int, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """Boolean (H, W): the positions that a step codes in each channel of its slice."""
        if self.passes == 1:
            return torch.ones(size, dtype=torch.bool, device=device)
        row, column = torch.arange(size[0], device=device), torch.arange(size[1], device=device)
        return ((row[:, None] + column) % 2 == 0) == self.is_anchor(step)

    def mask(self, step: int, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """Boolean (M, H, W): the elements of the whole latent that a step codes."""
        mask = torch.zeros(self.num_channels, *size, dtype=torch.bool, device=device)
        mask[self.channels(step)] = self.positions(step, size, device)
        return mask

    def __repr__(self) -> str:
        return f"CodingOrder({list(self.slices)}, passes={self.passes})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodingOrder) and (self.slices, self.passes) == (other.slices, other.passes)

    def __hash__(self) -> int:
        return hash((self.slices, self.passes))
