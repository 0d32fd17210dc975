r"""The guard: keeps encoder and decoder on the same table rows when their floating-point results differ.

Which row codes an element is decided by comparing its scale with borders. Two machines compute scales that differ in
the last bits, so that one may see a scale left of a border and the other right of it; from there on the rest of the
stream is garbage. So the encoder looks for elements whose scale lies within a band of a border,

$$ |\sigma e^{s} / b - 1| \le \mathrm{band}, $$

and lists them with the side that it chose; the decoder follows the list there. Elsewhere a relative drift up to the
band leaves the row as it is. The shift s, one of 256 that are too small to cost rate, is the encoder's choice for each
group of elements. Usually one of them leaves no element near a border, and the group costs one byte.
Larger drift shows in the checksums (`ssmctx.entropy.bitstream.checksums`).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions import ScaleGrid
from ssmctx.entropy.bitstream.rice import pack_indices, unpack_indices
from ssmctx.errors import ArgumentError, CorruptStreamError
from ssmctx.stages import stage

__all__ = ["DEFAULT_BAND", "Guard", "check_band", "guard_scales", "guarded_rows"]

_BAND_UNIT = 2.0**-24
_MOST_UNITS = (1 << 16) - 1  # what two bytes hold: a band of 0.0039

DEFAULT_BAND = 2.0**-13
"""15 times the largest relative drift of scales seen between scan backends, thread counts and batch sizes (8.2e-6)."""

_ROUNDING = 2.0**-22  # what float32 may lose in the comparisons themselves
_SHIFTS = 256
_NO_SHIFT = _SHIFTS // 2
_SHIFT_STEP = 5 * 2.0**-15  # of the default grid: all shifts within 2 %, a sixth of the distance of two borders
_DEFAULT_GRID = ScaleGrid()
_BANDS_PER_LEVEL = 30  # at least so many fit between two scales, so that the nearest border is the only one near
_GROUP = 1024
_MOST_DOUBLINGS = 17


def check_band(band: float, grid: ScaleGrid) -> float:
    """The band as files write it, rounded up to a multiple of 2^-24.

    Args:
        band: relative width.
        grid: whose borders it guards.

    Raises:
        ArgumentError: not between 0 and 0.0039, or too wide for a grid as fine as this.
    """
    largest = min(_MOST_UNITS * _BAND_UNIT, grid.spacing / _BANDS_PER_LEVEL)
    if not 0 <= band <= largest:
        raise ArgumentError(f"guard_band must be a relative width of 0 to {largest:.4g}, got {band!r}")
    return math.ceil(band / _BAND_UNIT) * _BAND_UNIT


@dataclass(frozen=True, eq=False)
class Guard:
    """What a stream of y carries beside its symbols so that decoders find their table rows.

    Attributes:
        band: relative; a multiple of 2^-24. With a band of 0 there are no shifts and no list.
        doublings: of the 1024 elements of a group.
        shifts: one per group, (groups,) uint8; none where no group is shifted and nothing is listed.
        indices: elements near a border, counted in coding order, increasing, (n,) int64.
        upper: whether the row of each is the one above its border, (n,) bool.

    Examples:
        >>> import torch
        >>> from ssmctx.distributions import ScaleGrid
        >>> from ssmctx.entropy.guard import Guard, guard_scales
        >>> rows, guard = guard_scales(torch.rand(5000), 2.0**-14, ScaleGrid())
        >>> data = guard.to_bytes(total=5000)
        >>> Guard.from_bytes(data, total=5000).band == 2.0**-14
        True
    """

    band: float
    doublings: int
    shifts: NDArray[np.uint8]
    indices: NDArray[np.int64]
    upper: NDArray[np.bool_]

    @classmethod
    def none(cls, band: float = 0.0) -> Guard:
        """A guard that shifts and lists nothing; with a band of 0, decoders use their own scales unchanged."""
        return cls(band, 0, np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.bool_))

    def to_bytes(self, total: int) -> bytes:
        """The guard of `total` elements: nothing, the band, or band, doublings, shifts and list."""
        if self.band == 0:
            return b""
        band = struct.pack("<H", round(self.band / _BAND_UNIT))
        if not len(self.shifts):
            return band
        return band + bytes([self.doublings]) + self.shifts.tobytes() + pack_indices(self.indices, self.upper, total)

    @classmethod
    def from_bytes(cls, data: bytes, total: int) -> Guard:
        """Parse the guard of `total` elements.

        Raises:
            CorruptStreamError: it is not one that `to_bytes` writes for them.
        """
        if not isinstance(data, bytes) or len(data) == 1:
            raise CorruptStreamError(f"a guard is bytes, none or two or more; got {data!r:.20}: truncated or damaged")
        if not data:
            return cls.none()
        band = struct.unpack_from("<H", data)[0] * _BAND_UNIT
        if band == 0:
            raise CorruptStreamError("the guard has a band of 0, which is written as no guard: damaged")
        if len(data) == 2:
            return cls.none(band)
        doublings = data[2]
        groups = -(-total // (_GROUP << min(doublings, _MOST_DOUBLINGS)))
        if doublings > _MOST_DOUBLINGS or len(data) < 3 + groups:
            raise CorruptStreamError("the guard ends within its shifts: it was truncated or is damaged")
        shifts = np.frombuffer(data, np.uint8, groups, 3)
        indices, upper = unpack_indices(data[3 + groups :], total)
        return cls(band, doublings, shifts, indices, upper)


def guard_scales(scale: Tensor, band: float, grid: ScaleGrid) -> tuple[Tensor, Guard]:
    r"""Rows for all scales of a latent, and the guard that lets a decoder find the same rows.

    An element is listed if its shifted scale lies within the band of a border b: $|\sigma e^{s} / b - 1| \le
    \mathrm{band}$.

    Args:
        scale: any real numbers in coding order, (total,), float32 or wider.
        band: relative drift that decoders may have; as `check_band` gives it.
        grid: the tabled scales.

    Returns:
        The rows (total,), int64, and the guard.

    Examples:
        >>> import torch
        >>> from ssmctx.distributions import ScaleGrid
        >>> from ssmctx.entropy.guard import guard_scales, guarded_rows
        >>> scale = torch.rand(5000)
        >>> rows, guard = guard_scales(scale, 2.0**-14, ScaleGrid())
        >>> drifted = scale * (1 + 2.0**-15)
        >>> (guarded_rows(drifted, 0, guard, ScaleGrid()) == rows.numpy()).all().item()
        True
    """
    if band == 0:
        return grid.index(scale), Guard.none()
    width = band + _ROUNDING
    doublings, shifts = _choose_shifts(scale, band, grid)
    shifted = scale if shifts is None else _shifted(scale, 0, doublings, shifts, grid)
    rows, below = grid.index(shifted), grid.index(shifted * (1 - width))
    indices = (below != grid.index(shifted * (1 + width))).nonzero().flatten()
    upper = rows[indices] != below[indices]
    if shifts is None and len(indices):  # the estimate in _choose_shifts missed them
        shifts = np.full(-(-len(scale) // (_GROUP << doublings)), _NO_SHIFT, np.uint8)
    if shifts is None:
        return rows, Guard.none(band)
    return rows, Guard(band, doublings, shifts, indices.cpu().numpy(), upper.cpu().numpy())


def guarded_rows(scale: Tensor, first: int, guard: Guard, grid: ScaleGrid) -> NDArray[np.uint16]:
    """The encoder's rows for some scales of a latent, from a decoder's own scales.

    Args:
        scale: as this machine computes it, (n,); within the guard's band of the encoder's, relatively.
        first: index of its first element in coding order.
        guard: of the encoder.
        grid: the tabled scales.

    Returns:
        The rows, (n,) uint16.
    """
    if not len(guard.shifts):
        return host_rows(grid.index(scale))
    shifted = _shifted(scale, first, guard.doublings, guard.shifts, grid)
    rows = host_rows(grid.index(shifted))
    begin, end = np.searchsorted(guard.indices, [first, first + len(rows)])
    if begin < end:
        listed = guard.indices[begin:end] - first
        # the encoder saw these within a band of a border, this machine within two: look that far below it
        near = shifted[torch.from_numpy(listed).to(scale.device)]
        below = host_rows(grid.index(near * (1 - 2 * guard.band - 2 * _ROUNDING)))
        rows[listed] = np.minimum(below + guard.upper[begin:end], grid.levels - 1)  # checksums tell of more drift
    return rows


def host_rows(rows: Tensor) -> NDArray[np.uint16]:
    """Rows as the coders take them."""
    with stage("transfer"):
        array: NDArray[np.uint16] = rows.to(torch.int32).cpu().numpy().astype(np.uint16)
    return array


def _shift_step(grid: ScaleGrid) -> float:
    """Shifts of a grid reach as far, in distances of its borders, as those of the default grid.

    Rounded to what every machine has alike: the logarithms behind it need not be.
    """
    if grid == _DEFAULT_GRID:
        return _SHIFT_STEP
    return round(_SHIFT_STEP * grid.spacing / _DEFAULT_GRID.spacing * 2**30) * 2.0**-30


def _shifted(scale: Tensor, first: int, doublings: int, shifts: NDArray[np.uint8], grid: ScaleGrid) -> Tensor:
    """Scales times e^s, s the shift of each element's group; the elements are counted from `first` on."""
    factors = torch.exp((torch.from_numpy(shifts.astype(np.float64)) - _NO_SHIFT) * _shift_step(grid))
    group = torch.arange(first, first + len(scale), device=scale.device) // (_GROUP << doublings)
    return scale * factors.to(scale)[group]


def _choose_shifts(scale: Tensor, band: float, grid: ScaleGrid) -> tuple[int, NDArray[np.uint8] | None]:
    """Size of the groups and a shift for each, so that shifts and list together take few bits; None to shift nothing.

    What is near a border is only estimated here: the list is made afterwards, from the shifted scales themselves.
    """
    total, step = len(scale), _shift_step(grid)
    levels = torch.tensor(grid.values(), dtype=torch.float64).log()
    borders = ((levels[1:] + levels[:-1]) / 2).to(scale)
    log_scale = scale.clamp(min=1e-9).log()
    distance = log_scale - borders[torch.bucketize(log_scale, levels[1:-1].to(scale))]
    if not bool((distance.abs() <= band + _ROUNDING).any()):
        return 0, None
    nearest = torch.round(-distance / step)
    group = torch.arange(total, device=scale.device) // _GROUP
    groups = -(-total // _GROUP)
    counts = torch.zeros(groups * _SHIFTS, dtype=torch.int64, device=scale.device)
    reach = math.ceil(band / step - 0.5)
    for shift in (nearest + r for r in range(-reach, reach + 1)):
        near = (distance + shift * step).abs() <= band + _ROUNDING
        hit = near & (shift >= -_NO_SHIFT) & (shift < _NO_SHIFT)
        key = group[hit] * _SHIFTS + shift[hit].long() + _NO_SHIFT
        counts += torch.bincount(key, minlength=groups * _SHIFTS)
    table = counts.view(groups, _SHIFTS).cpu().numpy()
    best: tuple[float, int, NDArray[np.uint8]] | None = None
    for doublings in range(_MOST_DOUBLINGS + 1):
        fewest = table.min(axis=1)
        listed = int(fewest.sum())
        bits = 8 * len(table) + listed * (math.log2(total / max(1, listed)) + 3)
        if best is None or bits < best[0]:
            shifts = np.where(table[:, _NO_SHIFT] == fewest, _NO_SHIFT, table.argmin(axis=1))
            best = (bits, doublings, shifts.astype(np.uint8))
        if len(table) == 1:
            break
        table = np.pad(table, ((0, len(table) % 2), (0, 0)))
        table = table[0::2] + table[1::2]
    return best[1:]  # type: ignore[index]  # the loop runs at least once
