"""Neighbourhoods of 3 x 3 positions, so that a convolution is computed only where and from what it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import lcm

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmctx.constants import constant
from ssmctx.context.order import Lattice

__all__ = ["ALL_TAPS", "coded_taps", "kernel_at", "neighbourhoods"]

_OFFSETS = tuple(product((-1, 0, 1), repeat=2))

ALL_TAPS = tuple(range(len(_OFFSETS)))
"""Numbers of the taps of a 3 x 3 kernel, row by row."""


def coded_taps(lattices: Sequence[Lattice], number: int) -> tuple[int, ...]:
    """Taps of a 3 x 3 kernel through which a position of a pass sees any of what earlier passes coded.

    Args:
        lattices: the positions of each pass.
        number: of the pass, from 0.

    Returns:
        Numbers of the taps, row by row.

    Examples:
        >>> from ssmctx import CodingOrder
        >>> from ssmctx.entropy.scale_network.neighbours import coded_taps
        >>> coded_taps(CodingOrder.checkerboard([8]).lattices, 1)
        (1, 3, 5, 7)
    """
    own, earlier = lattices[number], lattices[:number]
    height, width = (lcm(*sides) for sides in zip(*(lattice.size for lattice in (own, *earlier)), strict=True))
    whole = [position for position in product(range(height), range(width)) if position in own]
    return tuple(
        tap
        for tap, (down, right) in enumerate(_OFFSETS)
        if any((row + down, column + right) in lattice for row, column in whole for lattice in earlier)
    )


def neighbourhoods(x: Tensor, lattice: Lattice, taps: Sequence[int]) -> Tensor:
    """What the taps of a 3 x 3 kernel see around the positions of a lattice.

    Args:
        x: image with channels last, (batch, H, W, channels).
        lattice: the P positions that are wanted.
        taps: numbers of the T taps.

    Returns:
        (batch, P, T * channels); zeros outside of the image.

    Examples:
        >>> import torch
        >>> from ssmctx.context.order import CHECKERBOARD
        >>> from ssmctx.entropy.scale_network.neighbours import neighbourhoods
        >>> image = torch.tensor([[1, 2], [3, 4]])[None, :, :, None]
        >>> neighbourhoods(image, CHECKERBOARD[1], (3, 5))[0].tolist()  # left and right of 2 and of 3
        [[1, 0], [0, 4]]
    """
    padded = F.pad(x, (0, 0, 1, 1, 1, 1)).flatten(1, 2)
    sources = constant(_sources, lattice, tuple(x.shape[1:3]), tuple(taps), device=x.device)
    return padded.index_select(1, sources.flatten()).view(len(x), *sources.shape, x.shape[3]).flatten(2)


def kernel_at(weight: Tensor, taps: Sequence[int]) -> Tensor:
    """What multiplies `neighbourhoods` of these taps: of (outputs, inputs, 3, 3), (outputs, T * inputs)."""
    numbers = constant(_numbers, tuple(taps), device=weight.device)  # not from the host at each call
    return weight.flatten(2).mT.index_select(1, numbers).flatten(1)


def _numbers(taps: Sequence[int], device: torch.device | str | None) -> Tensor:
    return torch.tensor(taps, dtype=torch.int64, device=device)


def _sources(lattice: Lattice, size: tuple[int, int], taps: Sequence[int], device: torch.device | str | None) -> Tensor:
    """Where each tap of each position is in a padded image, row by row, int64 (P, T)."""
    row, column = lattice.positions(size, "cpu").nonzero().unbind(1)
    down, right = (torch.tensor([_OFFSETS[tap][side] for tap in taps], dtype=torch.int64) for side in (0, 1))
    return ((row[:, None] + 1 + down) * (size[1] + 2) + column[:, None] + 1 + right).to(device)
