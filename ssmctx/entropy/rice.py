"""A few marked places among many, each with one bit, in nearly as few bits as possible: Golomb-Rice codes of gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssmctx.entropy.varint import put_varint, take_varint
from ssmctx.errors import CorruptStreamError

__all__ = ["pack_places", "unpack_places"]


def pack_places(places: NDArray[np.int64], marks: NDArray[np.bool_], total: int) -> bytes:
    """Bytes of increasing places below `total`, each with a mark.

    Their number comes first; then of each gap the upper part in ones and a zero, the lower bits, and the mark, from the
    lowest bit of a byte on.

    Source:
        Rice and Plaunt, Adaptive variable-length coding, 1971.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.entropy.rice import pack_places, unpack_places
        >>> data = pack_places(np.array([3, 1000]), np.array([True, False]), 2000)
        >>> data.hex(), unpack_places(data, 2000)
        ('02068c3c', (array([   3, 1000]), array([ True, False])))
    """
    low_bits = _low_bits(len(places), total)
    bits: list[int] = []
    for gap, mark in zip((np.diff(places, prepend=-1) - 1).tolist(), marks.tolist(), strict=True):
        bits += [1] * (gap >> low_bits) + [0] + [gap >> i & 1 for i in range(low_bits)] + [int(mark)]
    return put_varint(len(places)) + np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def unpack_places(data: bytes, total: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The places and marks of `pack_places`.

    Raises:
        CorruptStreamError: it did not write this for so many elements.
    """
    count, start = take_varint(data, 0, "the number of guarded elements")
    # each takes two bits at least, so that short data cannot ask for much memory
    if count > min(total, 4 * (len(data) - start)):
        raise CorruptStreamError(f"the guard lists {count} of {total} elements in {len(data)} bytes: damaged")
    low_bits = _low_bits(count, total)
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=start), bitorder="little").tolist()
    places, marks = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    at, place = 0, -1
    for number in range(count):
        try:
            end = bits.index(0, at)
            marks[number] = bits[end + 1 + low_bits]
        except (ValueError, IndexError):
            raise CorruptStreamError("the guard ends within its list: it was cut") from None
        low = bits[end + 1 : end + 1 + low_bits]
        place += 1 + (end - at << low_bits) + sum(bit << i for i, bit in enumerate(low))
        places[number] = place
        at = end + low_bits + 2
    if place >= total or len(bits) - at >= 8 or any(bits[at:]):
        raise CorruptStreamError(f"the guard's list of {total} elements does not end where it should: damaged")
    return places, marks


def _low_bits(count: int, total: int) -> int:
    """The best for gaps that are geometric with this mean, from whole numbers only."""
    return max(0, (total * 11 // (16 * max(1, count))).bit_length() - 1)  # 11 / 16 is about ln 2
