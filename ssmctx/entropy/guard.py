r"""The guard: what keeps encoder and decoder on the same table rows when their floating-point numbers differ.

Which row codes an element is decided by comparing its scale with borders. Two machines compute scales that differ in
the last bits, so that one may see a scale left of a border and the other right of it; from there on the rest of the
stream is garbage. So the encoder looks for elements whose scale lies within a band of a border,

$$ |\sigma e^{s} / b - 1| \le \mathrm{band}, $$

and lists them with the side that it chose; the decoder follows the list there. Elsewhere a relative drift up to the
band leaves the row as it is. The shift s, one of 256 that are too small to cost rate, is the encoder's choice for each
group of elements: mostly there is one that leaves no element near a border, and a byte is all that the group costs.
A checksum of the symbols of each step tells larger drift, and that of z's symbols tells damage to the guard itself: a
CRC of the guard's other bytes is folded into it.
"""

from __future__ import annotations

import binascii
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions.scales import ScaleGrid
from ssmctx.entropy.rice import pack_places, unpack_places
from ssmctx.errors import ArgumentError, CorruptStreamError

__all__ = ["DEFAULT_BAND", "Guard", "check_band", "checksum", "folded", "guard_scales", "guarded_rows"]

_BAND_UNIT = 2.0**-24
_MOST_UNITS = (1 << 16) - 1  # a band of 0.0039: two of them stay well within the 13 % from one border to the next

DEFAULT_BAND = 2.0**-13
"""15 times the largest relative drift of scales seen between scan backends, thread counts and batch sizes (8.2e-6)."""

_ROUNDING = 2.0**-22  # what float32 may lose in the comparisons themselves
_SHIFTS = 256
_SHIFT_STEP = 5 * 2.0**-15  # all of them within 2 %, a sixth of the distance of two borders
_GROUP = 1024
_MOST_DOUBLINGS = 17
_Z_CHECKSUM = slice(3, 5)  # bytes of the guard


def checksum(symbols: NDArray[np.int16]) -> int:
    """16 bits that tell the symbols of a step from others."""
    return zlib.crc32(symbols.astype("<i2", copy=False).tobytes()) & 0xFFFF


def folded(guard: bytes) -> bytes:
    """A guard's bytes with the CRC-16 of all others xored into z's checksum; twice is the identity.

    Every flipped bit of the guard then changes z's checksum as a decoder reads it.
    """
    head, z_checksum, tail = guard[: _Z_CHECKSUM.start], guard[_Z_CHECKSUM], guard[_Z_CHECKSUM.stop :]
    crc = binascii.crc_hqx(head + tail, 0).to_bytes(2, "little")
    return head + bytes(a ^ b for a, b in zip(z_checksum, crc, strict=False)) + tail


def check_band(band: float) -> float:
    """The band as files write it, rounded up to a multiple of 2^-24.

    Raises:
        ArgumentError: not between 0 and 0.0039.
    """
    if not 0 <= band <= _MOST_UNITS * _BAND_UNIT:
        raise ArgumentError(f"guard_band must be a relative width of 0 to {_MOST_UNITS * _BAND_UNIT:.4f}, got {band!r}")
    return math.ceil(band / _BAND_UNIT) * _BAND_UNIT


@dataclass(frozen=True, eq=False)
class Guard:
    """What a stream of y carries beside its symbols.

    Attributes:
        band: relative; a multiple of 2^-24. With a band of 0 there are no shifts and no list.
        checksums: of z's symbols, then of each step's.
        doublings: of the 1024 elements of a group.
        shifts: one a group, (groups,) uint8.
        places: elements near a border, by number in coding order, increasing, (n,) int64.
        upper: whether the row of each is the one above its border, (n,) bool.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.guard import Guard, guard_scales
        >>> rows, guard = guard_scales(torch.rand(5000), 2.0**-14, checksums=(7, 65535))
        >>> data = guard.to_bytes(total=5000)
        >>> Guard.from_bytes(data, total=5000, steps=1).checksums
        (7, 65535)
    """

    band: float
    checksums: tuple[int, ...]
    doublings: int
    shifts: NDArray[np.uint8]
    places: NDArray[np.int64]
    upper: NDArray[np.bool_]

    @classmethod
    def none(cls, checksums: tuple[int, ...] = ()) -> Guard:
        """The guard that trusts a decoder's own numbers, with checksums or, as for files of version 1, without."""
        return cls(0.0, checksums, 0, np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.bool_))

    def to_bytes(self, total: int) -> bytes:
        """The guard of `total` elements: band, checksums, doublings, shifts, and the list; see `folded`."""
        head = struct.pack("<HB", round(self.band / _BAND_UNIT), len(self.checksums))
        head += struct.pack(f"<{len(self.checksums)}H", *self.checksums)
        if self.band == 0:
            return folded(head)
        rest = bytes([self.doublings]) + self.shifts.tobytes() + pack_places(self.places, self.upper, total)
        return folded(head + rest)

    @classmethod
    def from_bytes(cls, data: bytes, total: int, steps: int) -> Guard:
        """Parse the guard of `total` elements coded in `steps` steps; one with a flipped bit has another z checksum.

        Raises:
            CorruptStreamError: it is not one that `to_bytes` writes for them.
        """
        place = 3 + 2 * (steps + 1)
        if not isinstance(data, bytes) or len(data) < place or data[2] != steps + 1:
            raise CorruptStreamError(f"the guard of {steps} steps has {place} bytes or more, this is none: damaged")
        units, _, *checksums = struct.unpack_from(f"<HB{steps + 1}H", folded(data))
        if units == 0:
            if len(data) > place:
                raise CorruptStreamError("a guard without a band ends with its checksums, this one goes on: damaged")
            return cls.none(tuple(checksums))
        doublings = data[place] if len(data) > place else 255
        groups = -(-total // (_GROUP << doublings))
        if doublings > _MOST_DOUBLINGS or len(data) < place + 1 + groups:
            raise CorruptStreamError("the guard ends within its shifts: it was cut or is damaged")
        shifts = np.frombuffer(data, np.uint8, groups, place + 1)
        places, upper = unpack_places(data[place + 1 + groups :], total)
        return cls(units * _BAND_UNIT, tuple(checksums), doublings, shifts, places, upper)


def guard_scales(scale: Tensor, band: float, checksums: tuple[int, ...]) -> tuple[Tensor, Guard]:
    """Rows for all scales of a latent, and the guard that lets a decoder find the same rows.

    Args:
        scale: any real numbers, in coding order.
        band: relative drift that decoders may have; as `check_band` gives it.
        checksums: of z's symbols and of each step's.

    Shape:
        scale (total,); rows (total,) uint8.
    """
    if band == 0:
        return _row(scale), Guard.none(checksums)
    doublings, shifts = _choose_shifts(scale, band)
    shifted = _shifted(scale, 0, doublings, shifts)
    width = band + _ROUNDING
    rows, below = _row(shifted), _row(shifted * (1 - width))
    places = (below != _row(shifted * (1 + width))).nonzero().flatten()
    upper = rows[places] != below[places]
    return rows, Guard(band, checksums, doublings, shifts, places.cpu().numpy(), upper.cpu().numpy())


def guarded_rows(scale: Tensor, first: int, guard: Guard) -> NDArray[np.uint8]:
    """The encoder's rows for some scales of a latent, from a decoder's own scales.

    Args:
        scale: as this machine computes it; within the guard's band of the encoder's, relatively.
        first: number of its first element in coding order.
        guard: of the encoder.

    Shape:
        scale (n,) to (n,) uint8.
    """
    if guard.band == 0:
        return _host(_row(scale))
    shifted = _shifted(scale, first, guard.doublings, guard.shifts)
    rows = _host(_row(shifted))
    begin, end = np.searchsorted(guard.places, [first, first + len(rows)])
    if begin < end:
        listed = guard.places[begin:end] - first
        # the encoder saw these within a band of a border, this machine within two: look that far below it
        near = shifted[torch.from_numpy(listed).to(scale.device)]
        rows[listed] = _host(_row(near * (1 - 2 * guard.band - 2 * _ROUNDING))) + guard.upper[begin:end]
    return rows


def _row(scale: Tensor) -> Tensor:
    return ScaleGrid().index(scale).to(torch.uint8)


def _host(rows: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = rows.cpu().numpy()
    return array


def _shifted(scale: Tensor, first: int, doublings: int, shifts: NDArray[np.uint8]) -> Tensor:
    """Scales times e^s, s the shift of each element's group; the elements are numbered from `first` on."""
    factors = torch.exp((torch.from_numpy(shifts.astype(np.float64)) - _SHIFTS // 2) * _SHIFT_STEP)
    group = torch.arange(first, first + len(scale), device=scale.device) // (_GROUP << doublings)
    return scale * factors.to(scale)[group]


def _choose_shifts(scale: Tensor, band: float) -> tuple[int, NDArray[np.uint8]]:
    """Size of the groups and a shift for each, so that shifts and list together take few bits.

    What is near a border is only estimated here: the list is made afterwards, from the shifted scales themselves.
    """
    total = len(scale)
    levels = torch.tensor(ScaleGrid().values(), dtype=torch.float64).log()
    borders = ((levels[1:] + levels[:-1]) / 2).to(scale)
    place = scale.clamp(min=1e-9).log()
    distance = place - borders[torch.bucketize(place, levels[1:-1].to(scale))]
    nearest = torch.round(-distance / _SHIFT_STEP)
    group = torch.arange(total, device=scale.device) // _GROUP
    groups = -(-total // _GROUP)
    counts = torch.zeros(groups * _SHIFTS, dtype=torch.int64, device=scale.device)
    reach = math.ceil(band / _SHIFT_STEP - 0.5)
    for shift in (nearest + r for r in range(-reach, reach + 1)):
        near = (distance + shift * _SHIFT_STEP).abs() <= band + _ROUNDING
        hit = near & (shift >= -(_SHIFTS // 2)) & (shift < _SHIFTS // 2)
        key = group[hit] * _SHIFTS + shift[hit].long() + _SHIFTS // 2
        counts += torch.bincount(key, minlength=groups * _SHIFTS)
    table = counts.view(groups, _SHIFTS).cpu().numpy()
    best: tuple[float, int, NDArray[np.uint8]] | None = None
    for doublings in range(_MOST_DOUBLINGS + 1):
        listed = int(table.min(axis=1).sum())
        bits = 8 * len(table) + listed * (math.log2(total / max(1, listed)) + 3)
        if best is None or bits < best[0]:
            best = (bits, doublings, table.argmin(axis=1).astype(np.uint8))
        if len(table) == 1:
            break
        table = np.pad(table, ((0, len(table) % 2), (0, 0)))
        table = table[0::2] + table[1::2]
    return best[1:]  # type: ignore[index]  # the loop runs at least once
