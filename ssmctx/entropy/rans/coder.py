"""The rANS coder: symbols and indexes in, 32-bit words out, one stream however many steps it took."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmctx import jit
from ssmctx.distributions.tables import CodingTables, check_indexes, check_symbols
from ssmctx.entropy.rans import plain
from ssmctx.entropy.rans.plain import MALFORMED, SHORT
from ssmctx.errors import CorruptStreamError

__all__ = ["RansCoder", "RansDecoder", "RansEncoder"]

_INITIAL = 1 << 31
_LIMIT = 1 << 63


@functools.cache
def _kernels() -> Any:
    """The compiled functions where numba can compile; otherwise those in Python, which write and read the same."""
    if reason := jit.unavailable():
        logging.getLogger("ssmctx").warning("the rANS coder runs uncompiled, about a hundred times slower: %s", reason)
        return plain
    from ssmctx.entropy.rans import kernels

    return kernels


class RansCoder:
    """rANS with a 64-bit state, 32-bit little-endian words and 16-bit tables, byte for byte that of CompressAI.

    A stream is the encoder's last state (8 bytes) and the words in the order in which the decoder needs them. It holds
    nothing else: no length, no checksum. Not every damage shows; the container around it has to tell.

    Source:
        CompressAI's `compressai.ans`; `ssmctx.entropy.rans.plain` says how it works.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.entropy.rans import RansCoder
        >>> from ssmctx.distributions.tables import CodingTables
        >>> tables = CodingTables.from_lists([[0, 16384, 49152, 65535, 65536]], [5], [-1])
        >>> symbols = np.array([0, 1, -1, 0, 300], np.int16)
        >>> indexes = np.zeros(5, np.uint8)
        >>> encoder = RansCoder().encoder()
        >>> encoder.encode(symbols, indexes, tables)
        >>> stream = encoder.finish()
        >>> decoder = RansCoder().decoder(stream)
        >>> len(stream), decoder.decode(indexes, tables).tolist()
        (12, [0, 1, -1, 0, 300])
        >>> decoder.finish()
    """

    name = "rans"

    def encoder(self) -> RansEncoder:
        """A new encoder."""
        return RansEncoder()

    def decoder(self, stream: bytes) -> RansDecoder:
        """A decoder of one stream; see `RansDecoder`."""
        return RansDecoder(stream)


class RansEncoder:
    """Gathers symbols in coding order and writes them as one stream; see `RansCoder`."""

    def __init__(self) -> None:
        self._steps: list[tuple[NDArray[np.int16], NDArray[np.uint16], CodingTables]] = []

    def encode(self, symbols: NDArray[np.int16], indexes: NDArray[Any], tables: CodingTables) -> None:
        """Append symbols, each with the table row that its index names.

        Args:
            symbols: any 16-bit numbers, int16 (n,), n may be 0; those outside their row cost an escape and up to 24
                bits.
            indexes: row of each symbol, uint8 or uint16 (n,), below the number of rows.
            tables: the tables of this step; other steps may have others.

        Raises:
            ArgumentError: another dtype or shape, or an index without a row; nothing is appended.
        """
        rows = check_indexes(indexes, tables)
        check_symbols(symbols, indexes)
        # copies, because rANS starts with the last symbol and so reads these only in the end
        self._steps.append((np.array(symbols, order="C"), np.array(rows), tables))

    def finish(self) -> bytes:
        """The stream of everything appended; 8 bytes when that is nothing."""
        words = np.empty(2 * sum(len(symbols) for symbols, _, _ in self._steps) + 2, np.uint32)
        state = np.array([_INITIAL, len(words)], np.uint64)
        for symbols, indexes, tables in reversed(self._steps):
            arrays = tables.kernel_arrays
            if not _kernels().encode(symbols, indexes, arrays.rows, arrays.divisors, words, state):
                raise RuntimeError("the buffer of the rANS encoder is too short: a bug in this library")
        x, first = int(state[0]), int(state[1])
        return x.to_bytes(8, "little") + words[first:].astype("<u4", copy=False).tobytes()


class RansDecoder:
    """Decodes the symbols of one stream, step by step, in the order in which they were encoded.

    Whatever the bytes are, every call ends, in time proportional to the symbols asked for, and reads nothing but them.

    Args:
        stream: what `RansEncoder.finish` returned.

    Raises:
        CorruptStreamError: no encoder can have written this.
    """

    def __init__(self, stream: bytes) -> None:
        if not isinstance(stream, bytes) or len(stream) < 8 or len(stream) % 4:
            came = f"{len(stream)} bytes" if isinstance(stream, bytes) else type(stream).__name__
            raise CorruptStreamError(
                f"a rANS stream is 8 bytes or more, a multiple of 4; got {came}: truncated, or not a rANS stream"
            )
        x = int.from_bytes(stream[:8], "little")
        if not _INITIAL <= x < _LIMIT:
            raise CorruptStreamError(f"a rANS stream starts with a state of 2^31 to 2^63, got {x}: not a rANS stream")
        self._words = np.frombuffer(stream, "<u4").astype(np.uint32, copy=False)
        self._state = np.array([x, 2], np.uint64)

    def decode(self, indexes: NDArray[Any], tables: CodingTables) -> NDArray[np.int16]:
        """The next symbols, one for each index.

        Args:
            indexes: row of each symbol, as it was encoded with, uint8 or uint16 (n,); n need not be that of an
                `encode`.
            tables: as they were encoded with.

        Returns:
            The symbols, int16 (n,).

        Raises:
            ArgumentError: indexes have another dtype or shape, or one has no row.
            CorruptStreamError: the stream is too short, or follows an escape with what no encoder writes; the decoder
                is where it was.
        """
        rows = check_indexes(indexes, tables)
        arrays = tables.kernel_arrays
        symbols = np.empty(len(rows), np.int16)
        fault = _kernels().decode(
            self._words, rows, arrays.rows, arrays.intervals, arrays.starts, arrays.numbers, symbols, self._state
        )
        if fault == SHORT:
            raise CorruptStreamError(
                "the rANS stream ends before its symbols do: it was truncated, or the tables differ"
            )
        if fault == MALFORMED:
            raise CorruptStreamError("the rANS stream has an escape to no 16-bit symbol: damaged, or the tables differ")
        return symbols

    def finish(self) -> None:
        """Check that the stream ended exactly where its encoder began.

        Raises:
            CorruptStreamError: words are left, or the state is not the initial one: the stream is damaged, or it was
                decoded with other indexes or tables.
        """
        x, left = int(self._state[0]), len(self._words) - int(self._state[1])
        if left or x != _INITIAL:
            raise CorruptStreamError(
                f"the rANS stream should end in state 2^31 with no words left, got {x} and {left}: "
                "it is damaged, or the tables differ"
            )
