"""The coding order of a latent, as data: steps, each a slice of channels and a lattice of positions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

import torch
from torch import Tensor

from ssmctx.constants import constant
from ssmctx.errors import ArgumentError

__all__ = [
    "CHECKERBOARD",
    "COARSE_TO_FINE",
    "EVERYWHERE",
    "QUAD",
    "CodingOrder",
    "Lattice",
    "check_order",
    "even_slices",
]

_MAX_STEPS = (1 << 14) - 1
"""Most steps of an order, so that checksums, of two bytes per step, stay below 32 KiB."""

_LARGEST_TILE = 1 << 12


@dataclass(frozen=True)
class Lattice:
    """A set of positions: a small boolean tile, repeated over the plane.

    Args:
        tile: rows of booleans, all of the same length; true where a position belongs to the set.

    Raises:
        ArgumentError: the tile is empty, ragged or has no true cell.

    Examples:
        >>> from ssmctx.context import Lattice
        >>> Lattice(((True, False), (False, True))).positions((2, 3)).int().tolist()
        [[1, 0, 1], [0, 1, 0]]
    """

    tile: tuple[tuple[bool, ...], ...]

    def __post_init__(self) -> None:
        rows = tuple(tuple(bool(cell) for cell in row) for row in self.tile)
        if not rows or len({len(row) for row in rows}) != 1 or not any(map(any, rows)):
            raise ArgumentError(
                f"a Lattice needs a tile with rows of one length and a true cell in it, got {self.tile!r}"
            )
        object.__setattr__(self, "tile", rows)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the tile."""
        return len(self.tile), len(self.tile[0])

    def __contains__(self, position: tuple[int, int]) -> bool:
        (row, column), (height, width) = position, self.size
        return self.tile[row % height][column % width]

    def positions(self, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """Boolean (H, W): the positions of the set in a latent of that size; made once, so not to be written to."""
        return constant(_positions, (self,), tuple(size), device=device)


def _positions(lattices: Sequence[Lattice], size: tuple[int, int], device: torch.device | str | None) -> Tensor:
    """Boolean (H, W): the positions of all these lattices."""
    positions = torch.zeros(size, dtype=torch.bool, device=device)
    for lattice in lattices:
        tile = torch.tensor(lattice.tile, device=device)
        row, column = (torch.arange(n, device=device) % m for n, m in zip(size, lattice.size, strict=True))
        positions = positions | tile[row[:, None], column]
    return positions


def _indices(lattice: Lattice, size: tuple[int, int], device: torch.device | str | None) -> Tensor:
    """Row-major indices of a lattice's positions, increasing."""
    # on the CPU, so that no GPU is asked how many there are
    return _positions([lattice], size, "cpu").flatten().nonzero().flatten().to(device)


def _window_indices(lattice: Lattice, window_size: int, device: torch.device | str | None) -> Tensor:
    """The same inside a window, without a look at values, so that graphs hold it."""
    square = product(range(window_size), repeat=2)
    inside = [row * window_size + column for row, column in square if (row, column) in lattice]
    return torch.tensor(inside, device=device)


def _tensor(numbers: Sequence[int], device: torch.device | str | None) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def _numbered(tile: Sequence[Sequence[int]]) -> tuple[Lattice, ...]:
    """The lattices of a tile that says of each cell in which pass it is coded."""
    passes = 1 + max(map(max, tile))
    return tuple(Lattice(tuple(tuple(cell == p for cell in row) for row in tile)) for p in range(passes))


EVERYWHERE = _numbered([[0]])
"""One pass: all positions."""

CHECKERBOARD = _numbered([[0, 1], [1, 0]])
"""Two passes: anchors, whose row + column is even, then the rest."""

QUAD = _numbered([[0, 2], [3, 1]])
"""Four passes over each square of 2 x 2: upper left, lower right, upper right, lower left."""

COARSE_TO_FINE = _numbered([[0, 4, 2, 4], [4, 3, 4, 3], [2, 4, 1, 4], [4, 3, 4, 3]])
"""Five passes over each square of 4 x 4, the grid twice as dense after each: 1, 1, 2, 4 and 8 of 16 positions."""

_BY_COUNT = {1: EVERYWHERE, 2: CHECKERBOARD, 4: QUAD, 5: COARSE_TO_FINE}


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

    A step codes the positions of one lattice in the channels of one slice. The masks of all steps partition the latent.
    `one_pass`, `checkerboard`, `quad` and `coarse_to_fine` make the usual orders by name.

    Args:
        slices: channels of each slice, in coding order.
        passes: the lattices of the passes that code a slice, in order; or 1, 2, 4 or 5 for those of `one_pass`,
            `checkerboard`, `quad` and `coarse_to_fine`.
        passes_outer: code one pass of all slices before the next pass; otherwise all passes of a slice before the next
            slice.
        permutation: the channels of the latent in coding order, `slices` divides it; None keeps them as they are.

    Raises:
        ArgumentError: no slice, one without channels, lattices that do not partition the plane, no permutation of the
            channels, or more than 16383 steps, the limit of a file.

    Source:
        MambaIC section 3.1 (equations 10 and 11) and 3.2; checkerboard of He et al., 2021; channels sorted by
        information as in Minnen and Singh, 2020; dyadic passes as in coarse-to-fine models (Hu et al., 2020).

    Examples:
        >>> from ssmctx import CodingOrder
        >>> order = CodingOrder.checkerboard([2, 1])
        >>> order.num_steps, order.channels(3)
        (4, slice(2, 3, None))
        >>> order.mask(2, (2, 2)).int().tolist()
        [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 1]]]
    """

    def __init__(
        self,
        slices: Sequence[int],
        passes: int | Sequence[Lattice] = 2,
        *,
        passes_outer: bool = False,
        permutation: Sequence[int] | None = None,
    ) -> None:
        self.slices = tuple(slices) if isinstance(slices, Iterable) else ()
        if not self.slices or not all(isinstance(width, int) and width >= 1 for width in self.slices):
            raise ArgumentError(f"CodingOrder needs a sequence of slices of at least 1 channel each, got {slices!r}")
        self.lattices = _lattices(passes)
        self.passes_outer = bool(passes_outer)
        self._ends = tuple(accumulate(self.slices))
        if self.num_steps > _MAX_STEPS:
            raise ArgumentError(f"CodingOrder has {self.num_steps} steps, a file stores {_MAX_STEPS} at most")
        self.permutation = _permutation(permutation, self.num_channels)
        # where in coding order each channel stands
        self._inverse = tuple(
            sorted(range(self.num_channels), key=(self.permutation or range(self.num_channels)).__getitem__)
        )

    @classmethod
    def one_pass(cls, slices: Sequence[int], *, permutation: Sequence[int] | None = None) -> CodingOrder:
        """Each slice at once."""
        return cls(slices, EVERYWHERE, permutation=permutation)

    @classmethod
    def checkerboard(
        cls, slices: Sequence[int], *, passes_outer: bool = False, permutation: Sequence[int] | None = None
    ) -> CodingOrder:
        """Two passes: the anchors, whose row + column is even, then the rest."""
        return cls(slices, CHECKERBOARD, passes_outer=passes_outer, permutation=permutation)

    @classmethod
    def quad(
        cls, slices: Sequence[int], *, passes_outer: bool = False, permutation: Sequence[int] | None = None
    ) -> CodingOrder:
        """Four passes, one for each position of a 2 x 2 square, diagonals first."""
        return cls(slices, QUAD, passes_outer=passes_outer, permutation=permutation)

    @classmethod
    def coarse_to_fine(
        cls, slices: Sequence[int], *, passes_outer: bool = False, permutation: Sequence[int] | None = None
    ) -> CodingOrder:
        """Five passes, each on a grid twice as dense as all before it: 1, 1, 2, 4 and 8 of 16 positions."""
        return cls(slices, COARSE_TO_FINE, passes_outer=passes_outer, permutation=permutation)

    @property
    def num_channels(self) -> int:
        """Channels M of the latent."""
        return self._ends[-1]

    @property
    def passes(self) -> int:
        """Passes that code a slice."""
        return len(self.lattices)

    @property
    def consecutive_passes(self) -> int:
        """How many steps in a row code the same slice: all its passes, or 1 with `passes_outer`."""
        return 1 if self.passes_outer else self.passes

    @property
    def num_steps(self) -> int:
        """Coding steps: as many for each slice as there are passes."""
        return self.passes * len(self.slices)

    def slice_index(self, step: int) -> int:
        """The slice k that a step codes part of."""
        self._check(step)
        return step % len(self.slices) if self.passes_outer else step // self.passes

    def pass_index(self, step: int) -> int:
        """Which pass of its slice a step is, from 0."""
        self._check(step)
        return step // len(self.slices) if self.passes_outer else step % self.passes

    def is_anchor(self, step: int) -> bool:
        """Whether a step is the first of its slice: nothing of the slice is coded before it."""
        return self.pass_index(step) == 0

    def ends_slice(self, step: int) -> bool:
        """Whether a step is the last of its slice."""
        return self.pass_index(step) == self.passes - 1

    def channels(self, step: int) -> slice | list[int]:
        """The channels of the slice that a step belongs to, as an index into the latent's channels."""
        k = self.slice_index(step)
        own = slice(self._ends[k] - self.slices[k], self._ends[k])
        return own if self.permutation is None else list(self.permutation[own])

    def earlier_channels(self, step: int) -> slice | list[int]:
        """The channels of all slices before that of a step, in coding order."""
        k = self.slice_index(step)
        own = slice(0, self._ends[k] - self.slices[k])
        return own if self.permutation is None else list(self.permutation[own])

    def select(self, step: int, x: Tensor) -> Tensor:
        """x (batch, M, ...) at the channels of the slice that a step belongs to."""
        return self._select(self.channels(step), x)

    def select_earlier(self, step: int, x: Tensor) -> Tensor:
        """x (batch, M, ...) at the channels of all slices before that of a step."""
        return self._select(self.earlier_channels(step), x)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The slices of x (batch, M, H, W), in coding order; cheaper than one by one where gradients are wanted."""
        x = x if self.permutation is None else self._select(self.permutation, x)
        return torch.split(x, list(self.slices), dim=1)

    def join(self, slices: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`."""
        x = torch.cat(list(slices), dim=1)
        if self.permutation is None:
            return x
        return x.index_select(1, constant(_tensor, self._inverse, device=x.device))

    def positions(self, step: int, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """Boolean (H, W): the positions that a step codes in each channel of its slice.

        As all masks and indices of an order it is made once for a size and a device, and not to be written to.
        """
        return self.lattices[self.pass_index(step)].positions(size, device)

    def indices(self, step: int, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """The positions that a step codes as row * W + column, increasing, int64 (P,)."""
        return constant(_indices, self.lattices[self.pass_index(step)], tuple(size), device=device)

    def coded_positions(self, step: int, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """Boolean (H, W): the positions of a step's own slice that earlier steps coded."""
        return constant(_positions, self.lattices[: self.pass_index(step)], tuple(size), device=device)

    def mask(self, step: int, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """Boolean (M, H, W): the elements of the whole latent that a step codes."""
        mask = torch.zeros(self.num_channels, *size, dtype=torch.bool, device=device)
        mask[self.channels(step)] = self.positions(step, size, device)
        return mask

    def coded_mask(self, step: int, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """Boolean (M, H, W): the elements of the whole latent that earlier steps coded."""
        return constant(_coded_mask, self, step, tuple(size), device=device)

    def window_indices(self, step: int, window_size: int, device: torch.device | str | None = None) -> Tensor | None:
        """Row-major indices (n,) of a step's positions inside each window of a grid of windows that starts at (0, 0).

        None where they differ from window to window, or where the step codes every position.
        """
        lattice = self.lattices[self.pass_index(step)]
        if any(window_size % side for side in lattice.size) or all(map(all, lattice.tile)):
            return None
        return constant(_window_indices, lattice, window_size, device=device)

    def _select(self, channels: slice | Sequence[int], x: Tensor) -> Tensor:
        if isinstance(channels, slice):
            return x.narrow(1, channels.start, channels.stop - channels.start)
        return x.index_select(1, constant(_tensor, tuple(channels), device=x.device))

    def _check(self, step: int) -> None:
        if not 0 <= step < self.num_steps:
            raise ArgumentError(f"step must lie in 0..{self.num_steps - 1}, got {step}")

    def _key(self) -> tuple[object, ...]:
        return self.slices, self.lattices, self.passes_outer, self.permutation

    def __repr__(self) -> str:
        name = {EVERYWHERE: "1", CHECKERBOARD: "2", QUAD: "4", COARSE_TO_FINE: "5"}.get(self.lattices)
        passes = f"passes={name or list(self.lattices)}"
        outer = ", passes_outer=True" if self.passes_outer else ""
        permutation = "" if self.permutation is None else f", permutation={list(self.permutation)}"
        return f"CodingOrder({list(self.slices)}, {passes}{outer}{permutation})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodingOrder) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _coded_mask(order: CodingOrder, step: int, size: tuple[int, int], device: torch.device | str | None) -> Tensor:
    mask = torch.zeros(order.num_channels, *size, dtype=torch.bool, device=device)
    for earlier in range(step):
        mask |= order.mask(earlier, size, device)
    return mask


def check_order(owner: str, M: int, order: CodingOrder, **replaced: object) -> CodingOrder:
    """The order that a context is given, or ArgumentError: it has not M channels, or comes with what it replaces."""
    if any(value is not None for value in replaced.values()):
        raise ArgumentError(f"{owner}: order replaces {', '.join(replaced)}: give only order")
    if order.num_channels != M:
        raise ArgumentError(f"{owner}: the order must have M={M} channels, got {order.num_channels}")
    return order


def _lattices(passes: int | Sequence[Lattice]) -> tuple[Lattice, ...]:
    if isinstance(passes, int):
        if passes not in _BY_COUNT:
            raise ArgumentError(f"CodingOrder: passes must be 1, 2, 4, 5 or a sequence of Lattice, got {passes}")
        return _BY_COUNT[passes]
    lattices = tuple(passes) if isinstance(passes, Iterable) else ()
    if not lattices or not all(isinstance(lattice, Lattice) for lattice in lattices):
        raise ArgumentError(f"CodingOrder: passes must be a number or a sequence of Lattice, got {passes!r}")
    height, width = (math.lcm(*(lattice.size[axis] for lattice in lattices)) for axis in (0, 1))
    if height * width > _LARGEST_TILE:
        raise ArgumentError(f"CodingOrder: the lattices repeat after {height} x {width} positions, too large a tile")
    for row, column in product(range(height), range(width)):
        times = sum((row, column) in lattice for lattice in lattices)
        if times != 1:
            raise ArgumentError(
                "CodingOrder: the lattices of all passes must partition the plane; "
                f"position ({row}, {column}) is coded {times} times"
            )
    return lattices


def _permutation(permutation: Sequence[int] | None, channels: int) -> tuple[int, ...] | None:
    if permutation is None:
        return None
    order = tuple(int(channel) for channel in permutation)
    if sorted(order) != list(range(channels)):
        raise ArgumentError(f"CodingOrder: permutation must hold each of 0..{channels - 1} once, got {permutation!r}")
    return None if order == tuple(range(channels)) else order
