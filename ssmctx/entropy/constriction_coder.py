"""The ANS coder of the package constriction behind our protocol: the same tables, other bytes."""

from __future__ import annotations

import struct
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmctx.distributions.tables import CodingTables, check_indexes, check_symbols
from ssmctx.entropy.coders import StreamDecoder, StreamEncoder
from ssmctx.errors import BackendUnavailableError, CorruptStreamError

__all__ = ["ConstrictionCoder"]

_HEADER = struct.Struct("<II")


class ConstrictionCoder:
    """constriction's `AnsCoder`, a categorical model per table row; a peer to check and to time our own coder against.

    A stream: the number of symbols, that of words, the words and the 16-bit symbols that lay outside their rows. All
    these lengths are checked; damage within the words shows if it changes where they end.

    Raises:
        BackendUnavailableError: constriction is not installed.

    Source:
        Bamler, Understanding entropy coding with asymmetric numeral systems, arXiv:2201.01741.

    Examples:
        >>> from importlib.util import find_spec
        >>> from ssmctx.entropy.constriction_coder import ConstrictionCoder
        >>> find_spec("constriction") is None or ConstrictionCoder().encoder().finish() == bytes(8)
        True
    """

    name = "constriction"

    def __init__(self) -> None:
        _constriction()

    def encoder(self) -> StreamEncoder:
        """A new encoder."""
        return _Encoder()

    def decoder(self, stream: bytes) -> StreamDecoder:
        """A decoder of one stream; `CorruptStreamError` if its lengths contradict each other."""
        return _Decoder(stream)


class _Encoder:
    def __init__(self) -> None:
        self._steps: list[tuple[NDArray[np.int32], NDArray[np.uint16], CodingTables]] = []
        self._outside = b""

    def encode(self, symbols: NDArray[np.int16], indexes: NDArray[Any], tables: CodingTables) -> None:
        rows = check_indexes(indexes, tables).copy()
        check_symbols(symbols, indexes)
        intervals, escapes = symbols - tables.offsets[rows], tables.lengths[rows] - 2
        outside = (intervals < 0) | (intervals >= escapes)
        self._steps.append((np.where(outside, escapes, intervals), rows, tables))
        self._outside += symbols[outside].astype("<i2").tobytes()

    def finish(self) -> bytes:
        coder = _constriction().stack.AnsCoder()
        for intervals, rows, tables in reversed(self._steps):
            for run in reversed(_runs(rows)):
                coder.encode_reverse(intervals[run], _model(tables, int(rows[run.start])))
        words: bytes = coder.get_compressed().astype("<u4").tobytes()
        return _HEADER.pack(sum(len(rows) for _, rows, _ in self._steps), len(words) // 4) + words + self._outside


class _Decoder:
    def __init__(self, stream: bytes) -> None:
        if not isinstance(stream, bytes) or len(stream) < _HEADER.size:
            raise CorruptStreamError(f"a constriction stream is {_HEADER.size} bytes or more, got {stream!r:.40}")
        self._left, length = _HEADER.unpack_from(stream)
        end = _HEADER.size + 4 * length
        if len(stream) < end or len(stream) % 2:
            raise CorruptStreamError(
                f"this constriction stream has an even number of bytes, {end} or more, got {len(stream)}"
            )
        try:
            words = np.frombuffer(stream[_HEADER.size : end], "<u4").astype(np.uint32)
            self._coder = _constriction().stack.AnsCoder(words)
        except ValueError as error:
            raise CorruptStreamError(f"constriction rejects the words of the stream: {error}") from error
        self._outside = np.frombuffer(stream[end:], "<i2")

    def decode(self, indexes: NDArray[Any], tables: CodingTables) -> NDArray[np.int16]:
        rows = check_indexes(indexes, tables)
        self._left -= len(rows)
        intervals = np.zeros(len(rows), np.int32)
        for run in _runs(rows) if self._left >= 0 else []:
            intervals[run] = self._coder.decode(_model(tables, int(rows[run.start])), run.stop - run.start)
        escaped = np.flatnonzero(intervals == tables.lengths[rows] - 2)
        if self._left < 0 or len(escaped) > len(self._outside):
            raise CorruptStreamError("the constriction stream ends before its symbols do, or the tables differ")
        symbols = (intervals + tables.offsets[rows]).astype(np.int16)
        symbols[escaped], self._outside = self._outside[: len(escaped)], self._outside[len(escaped) :]
        return symbols

    def finish(self) -> None:
        if self._left or len(self._outside) or not self._coder.is_empty():
            raise CorruptStreamError("the constriction stream does not end with its symbols, or the tables differ")


def _runs(rows: NDArray[np.uint16]) -> list[slice]:
    """Stretches of one row: no more can go in one call without changing the order."""
    cuts = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist(), len(rows)]
    return [slice(first, end) for first, end in pairwise(cuts) if first < end]


@lru_cache(maxsize=1024)
def _model(tables: CodingTables, row: int) -> Any:
    weights = np.diff(tables.cdfs[row, : tables.lengths[row]]) / 2**16
    return _constriction().model.Categorical(weights, perfect=False)


def _constriction() -> Any:
    try:
        return import_module("constriction").stream
    except ImportError as error:
        raise BackendUnavailableError("constriction is not installed: pip install constriction") from error
