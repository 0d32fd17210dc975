"""Coding tables: the integer frequencies that every entropy coder of this library codes with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssmctx.errors import ArgumentError

__all__ = ["CodingTables", "check_indexes", "check_symbols"]

_TOTAL = 1 << 16
_SHORTEST = 3  # one symbol and the escape: CompressAI's coder divides by zero on a row that is only an escape
_MOST_ROWS = 1 << 16
_SYMBOLS = np.iinfo(np.int16)

_START_BITS = 7  # with more entries per row the start table leaves the fast caches, with fewer there is more to search


class KernelArrays(NamedTuple):
    """What the rANS kernels read; intervals of all rows one after the other, without padding.

    Attributes:
        rows: (rows, 3) int64, of each row its first interval, its offset and the number of its escape.
        intervals: (intervals,) uint32, each start | frequency << 16.
        divisors: (intervals, 2) uint64, a reciprocal of the frequency and start | frequency << 16 | shift << 32;
            x // frequency is the upper half of 2 x * reciprocal, shifted down, for every x below 2^63.
        starts: (rows, 128) uint32, for the top bits of a 16-bit target the first interval that it can fall in.
        numbers: (rows, 128) uint16, the number of that interval within its row.
    """

    rows: NDArray[np.int64]
    intervals: NDArray[np.uint32]
    divisors: NDArray[np.uint64]
    starts: NDArray[np.uint32]
    numbers: NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class CodingTables:
    """Cumulative 16-bit frequencies, one row per index; checked when made, and read-only from then on.

    Interval i of a row codes the symbol offset + i, except the last one: it is the row's escape, followed by the
    symbol itself. All symbols of a row are 16-bit numbers.

    Args:
        cdfs: cumulative frequencies (rows, longest) int32, each row 0, ..., 65536, strictly increasing, zero-padded to
            the longest; 1 to 65536 rows.
        lengths: entries used of each row, (rows,) int32, at least 3.
        offsets: the symbol that each row's first interval stands for, (rows,) int32.

    Raises:
        ArgumentError: an array has another dtype or shape, or a row breaks one of these rules.

    Source:
        The tables of CompressAI's entropy models: `_quantized_cdf`, `_cdf_length`, `_offset`.

    Examples:
        >>> from ssmctx.distributions.tables import CodingTables
        >>> tables = CodingTables.from_lists([[0, 16384, 49152, 65535, 65536]], [5], [-1])
        >>> tables.cdfs.shape, tables.fingerprint().hex()
        ((1, 5), '8af2e7f186cebd8d')
    """

    cdfs: NDArray[np.int32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name, dimensions in (("cdfs", 2), ("lengths", 1), ("offsets", 1)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.ndim != dimensions:
                raise ArgumentError(f"{name} must be a {dimensions}-D int32 array, got {_describe(array)}")
            object.__setattr__(self, name, _read_only(np.array(array, order="C")))
        self._check_shapes()
        self._check_rows()

    @classmethod
    def from_lists(cls, cdfs: Sequence[Any], lengths: Sequence[Any], offsets: Sequence[Any]) -> CodingTables:
        """Tables of rows that may differ in length, as lists or arrays of any integers.

        Raises:
            ArgumentError: see the class; also a row that holds fewer entries than its length.

        Examples:
            >>> from ssmctx.distributions.tables import CodingTables
            >>> CodingTables.from_lists([[0, 9, 65536], [0, 1, 2, 65536]], [3, 4], [0, -1]).cdfs.tolist()
            [[0, 9, 65536, 0], [0, 1, 2, 65536]]
        """
        used = _integers("lengths", lengths)
        if len(cdfs) != used.size:
            raise ArgumentError(f"as many rows as lengths are needed, got {len(cdfs)} rows and {used.size} lengths")
        sizes = np.array([len(row) for row in cdfs], np.int64)
        _all_rows(sizes >= used, "a row of cdfs must have the entries that its length says", sizes)
        padded = np.zeros((used.size, max(0, used.max(initial=0))), np.int32)
        for number, length in enumerate(used.clip(min=0).tolist()):
            padded[number, :length] = _integers(f"row {number} of cdfs", cdfs[number][:length])
        return cls(padded, used, _integers("offsets", offsets))

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and unpickled tables are checked again, and read-only again
        return CodingTables, (self.cdfs, self.lengths, self.offsets)

    def fingerprint(self) -> bytes:
        """8 bytes that tell these tables from others; how far the rows are padded does not matter."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> bytes:
        used = np.arange(self.cdfs.shape[1]) < self.lengths[:, None]
        digest = hashlib.sha256()
        for array in (self.cdfs[used], self.lengths, self.offsets):
            digest.update(array.astype("<i4").tobytes())
        return digest.digest()[:8]

    @cached_property
    def kernel_arrays(self) -> KernelArrays:
        """What the rANS kernels read, made when first used."""
        counts = self.lengths.astype(np.int64) - 1
        first = np.cumsum(counts) - counts
        used = np.arange(self.cdfs.shape[1] - 1) < counts[:, None]
        start = self.cdfs[:, :-1][used].astype(np.uint64)
        frequency = np.diff(self.cdfs, axis=1)[used].astype(np.uint64)
        packed = start | frequency << np.uint64(16)
        intervals = packed.astype(np.uint32)

        # ceil(2^(63 + shift) / frequency), shift the smallest with 2^shift >= frequency: 64 bits, the top one set
        shift = np.frexp((frequency - np.uint64(1)).astype(np.float64))[1].astype(np.uint64)
        whole, rest = np.divmod(np.uint64(1 << 63), frequency)
        reciprocal = (whole << shift) + ((rest << shift) + frequency - np.uint64(1)) // frequency

        targets = np.arange(1 << _START_BITS) << (16 - _START_BITS)
        begin = np.stack(
            [
                np.searchsorted(row[1 : length - 1], targets, side="right")
                for row, length in zip(self.cdfs, self.lengths.tolist(), strict=True)
            ]
        )
        return KernelArrays(
            _read_only(np.stack([first, self.offsets.astype(np.int64), counts - 1], axis=1)),
            _read_only(intervals),
            _read_only(np.stack([reciprocal, packed | shift << np.uint64(32)], axis=1)),
            _read_only(intervals[first[:, None] + begin]),
            _read_only(begin.astype(np.uint16)),
        )

    def _check_shapes(self) -> None:
        rows, longest = self.cdfs.shape
        if not 1 <= rows <= _MOST_ROWS or len(self.lengths) != rows or len(self.offsets) != rows:
            raise ArgumentError(
                f"cdfs, lengths and offsets must have the same 1 to {_MOST_ROWS} rows, "
                f"got {rows}, {len(self.lengths)} and {len(self.offsets)}"
            )
        _all_rows(
            (self.lengths >= _SHORTEST) & (self.lengths <= longest),
            f"the length of a row must be {_SHORTEST} (one symbol and the escape) to {longest} (the width of cdfs)",
            self.lengths,
        )

    def _check_rows(self) -> None:
        last = np.take_along_axis(self.cdfs, self.lengths[:, None].astype(np.int64) - 1, axis=1)[:, 0]
        _all_rows(self.cdfs[:, 0] == 0, "a row of cdfs must start at 0", self.cdfs[:, 0])
        _all_rows(last == _TOTAL, f"a row of cdfs must end at {_TOTAL}", last)
        unused = np.arange(1, self.cdfs.shape[1]) >= self.lengths[:, None]
        steps = np.where(unused, 1, np.diff(self.cdfs.astype(np.int64), axis=1)).min(axis=1)
        _all_rows(steps > 0, "a row of cdfs must increase strictly", steps, "a step of ")
        top = self.offsets.astype(np.int64) + self.lengths - _SHORTEST
        rule = f"the symbols of a row must lie within {_SYMBOLS.min} ... {_SYMBOLS.max}"
        _all_rows(self.offsets >= _SYMBOLS.min, rule, self.offsets)
        _all_rows(top <= _SYMBOLS.max, rule, top)


def check_indexes(indexes: NDArray[Any], tables: CodingTables) -> NDArray[np.uint16]:
    """Check indexes for a coder.

    Args:
        indexes: the table row of each symbol.
        tables: that have these rows.

    Returns:
        The indexes as uint16; the same memory where that is possible.

    Raises:
        ArgumentError: not a 1-D array of uint8 or uint16, an index without a row, or not `CodingTables`.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.distributions.tables import CodingTables, check_indexes
        >>> tables = CodingTables.from_lists([[0, 16384, 49152, 65535, 65536]], [5], [-1])
        >>> check_indexes(np.zeros(3, np.uint8), tables)
        array([0, 0, 0], dtype=uint16)
    """
    if not isinstance(tables, CodingTables):
        raise ArgumentError(f"tables must be CodingTables, got {type(tables).__name__}")
    if not isinstance(indexes, np.ndarray) or indexes.dtype not in (np.uint8, np.uint16) or indexes.ndim != 1:
        raise ArgumentError(f"indexes must be a 1-D array of uint8 or uint16, got {_describe(indexes)}")
    rows = len(tables.lengths)
    if indexes.size and int(indexes.max()) >= rows:
        raise ArgumentError(f"the tables have {rows} rows, got the index {indexes.max()}")
    return np.ascontiguousarray(indexes, dtype=np.uint16)


def check_symbols(symbols: NDArray[np.int16], indexes: NDArray[Any]) -> None:
    """Check symbols for a coder.

    Args:
        symbols: to be coded.
        indexes: as `check_indexes` takes them.

    Raises:
        ArgumentError: not a 1-D array of int16, or not one symbol an index.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.distributions.tables import check_symbols
        >>> check_symbols(np.array([0, -1], np.int16), np.zeros(2, np.uint8))
    """
    if not isinstance(symbols, np.ndarray) or symbols.dtype != np.int16 or symbols.ndim != 1:
        raise ArgumentError(f"symbols must be a 1-D array of int16, got {_describe(symbols)}")
    if symbols.size != indexes.size:
        raise ArgumentError(f"one index per symbol is needed, got {symbols.size} symbols and {indexes.size} indexes")


def _all_rows(good: NDArray[np.bool_], rule: str, values: NDArray[Any], what: str = "") -> None:
    if not good.all():
        row = int(good.argmin())
        raise ArgumentError(f"{rule}; row {row} has {what}{values[row]}")


def _integers(name: str, values: Any) -> NDArray[np.int32]:
    array = np.asarray(values)
    if array.size and (array.dtype.kind not in "iu" or array.ndim != 1):
        raise ArgumentError(f"{name} must be a row of integers, got {_describe(array)}")
    limits = np.iinfo(np.int32)
    if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
        raise ArgumentError(f"{name} must be 32-bit, got {array.min()} ... {array.max()}")
    return array.astype(np.int32)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.ndim}-D array of {value.dtype}"
    return type(value).__name__


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
