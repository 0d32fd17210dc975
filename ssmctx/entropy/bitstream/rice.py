"""A few marked indices among many, each with one bit, in nearly as few bits as possible: Golomb-Rice codes of gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssmctx.entropy.bitstream.varint import put_varint, take_varint
from ssmctx.errors import CorruptStreamError

__all__ = ["pack_indices", "unpack_indices"]


def pack_indices(indices: NDArray[np.int64], marks: NDArray[np.bool_], total: int) -> bytes:
    """Bytes of increasing indices below `total`, each with a mark.

    Their number comes first; then of each gap the upper part in ones and a zero, the lower bits, and the mark, from the
    lowest bit of a byte on.

    Source:
        Rice and Plaunt, Adaptive variable-length coding, 1971.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.entropy.bitstream.rice import pack_indices, unpack_indices
        >>> data = pack_indices(np.array([3, 1000]), np.array([True, False]), 2000)
        >>> data.hex(), unpack_indices(data, 2000)
        ('02068c3c', (array([   3, 1000]), array([ True, False])))
    """
    low_bits = _low_bits(len(indices), total)
    bits: list[int] = []
    for gap, mark in zip((np.diff(indices, prepend=-1) - 1).tolist(), marks.tolist(), strict=True):
        bits += [1] * (gap >> low_bits) + [0] + [gap >> i & 1 for i in range(low_bits)] + [int(mark)]
    return put_varint(len(indices)) + np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def unpack_indices(data: bytes, total: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The indices and marks of `pack_indices`.

    Raises:
        CorruptStreamError: it did not write this for so many elements.
    """
    count, start = take_varint(data, 0, "the number of guarded elements")
    # each takes two bits at least, so that short data cannot ask for much memory
    if count > min(total, 4 * (len(data) - start)):
        raise CorruptStreamError(f"the guard lists {count} of {total} elements in {len(data)} bytes: damaged")
    low_bits = _low_bits(count, total)
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=start), bitorder="little").tolist()
    indices, marks = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    at, index = 0, -1
    for number in range(count):
        try:
            end = bits.index(0, at)
            marks[number] = bits[end + 1 + low_bits]
        except (ValueError, IndexError):
            raise CorruptStreamError("the guard ends within its list: it was truncated") from None
        low = bits[end + 1 : end + 1 + low_bits]
        index += 1 + (end - at << low_bits) + sum(bit << i for i, bit in enumerate(low))
        indices[number] = index
        at = end + low_bits + 2
    if index >= total or len(bits) - at >= 8 or any(bits[at:]):
        raise CorruptStreamError(f"the guard's list of {total} elements does not end where it should: damaged")
    return indices, marks


def _low_bits(count: int, total: int) -> int:
    """The best for gaps that are geometric with this mean, from integers only."""
    return max(0, (total * 11 // (16 * max(1, count))).bit_length() - 1)  # 11 / 16 is about ln 2
