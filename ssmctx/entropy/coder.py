"""Entropy coding of symbols with CompressAI's rANS coder.

A stream is rANS with a 64-bit state, 32-bit words and 16-bit tables; symbols outside their table take an escape and
4-bit groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssmctx.errors import ArgumentError, CorruptStreamError

__all__ = ["CodingTables", "StreamDecoder", "StreamEncoder", "tables_from_pmfs"]

_PRECISION = 16
_SYMBOL_MAX = 2**15 - 1
_SAFE_COUNT = 4


@dataclass(frozen=True)
class CodingTables:
    """Cumulative 16-bit frequencies, one row an index.

    Attributes:
        cdfs: rows of cumulative frequencies; the last interval of a row is its escape.
        lengths: entries used of each row.
        offsets: the symbol that each row's first interval stands for.
    """

    cdfs: list[list[int]]
    lengths: list[int]
    offsets: list[int]


def tables_from_pmfs(pmfs: Sequence[Sequence[float]], offsets: Sequence[int]) -> CodingTables:
    """Quantise probability rows, each ending in its escape's, to 16-bit cumulative frequencies of at least 1."""
    from compressai._CXX import pmf_to_quantized_cdf

    cdfs = [list(pmf_to_quantized_cdf(list(pmf), _PRECISION)) for pmf in pmfs]
    return CodingTables(cdfs, [len(row) for row in cdfs], list(offsets))


class StreamEncoder:
    """Gathers symbols in coding order and writes them as one stream."""

    def __init__(self) -> None:
        from compressai.ans import BufferedRansEncoder

        self._encoder: Any = BufferedRansEncoder()
        self._count = 0

    def encode(self, symbols: Tensor, indexes: Tensor, tables: CodingTables) -> None:
        """Append symbols (whole numbers), each with the table row that its index names.

        Raises:
            ArgumentError: a symbol is not finite or beyond 16 bits; nothing is appended.
        """
        if symbols.numel() == 0:
            return
        # written so that NaN fails too
        if not bool((symbols.abs() <= _SYMBOL_MAX).all()):
            worst = symbols.abs().max().item()
            raise ArgumentError(
                f"the coder takes symbols of magnitude up to {_SYMBOL_MAX}, got {worst}; check the latent"
            )
        self._count += symbols.numel()
        values = symbols.flatten().to(torch.int32).tolist()
        self._encoder.encode_with_indexes(
            values, indexes.flatten().tolist(), tables.cdfs, tables.lengths, tables.offsets
        )

    def finish(self) -> bytes:
        """The stream of everything appended."""
        # CompressAI's flush takes one word of memory a symbol but writes two at least: below four symbols it overruns
        filler = max(0, _SAFE_COUNT - self._count)
        self._encoder.encode_with_indexes([0] * filler, [0] * filler, [[0, 1 << 15, 1 << 16]], [3], [0])
        return bytes(self._encoder.flush())


class StreamDecoder:
    """Hands out the symbols of one stream, step by step, in the order in which they were encoded.

    Raises:
        CorruptStreamError: the stream cannot have been written by `StreamEncoder`.
    """

    def __init__(self, stream: bytes) -> None:
        from compressai.ans import RansDecoder

        if not isinstance(stream, bytes) or len(stream) < 8 or len(stream) % 4:
            came = f"{len(stream)} bytes" if isinstance(stream, bytes) else type(stream).__name__
            raise CorruptStreamError(
                f"a stream is 8 bytes or more, a multiple of 4; got {came}: it was cut or is not ours"
            )
        self._decoder: Any = RansDecoder()
        self._decoder.set_stream(stream)

    def decode(self, indexes: Tensor, tables: CodingTables) -> Tensor:
        """The next symbols, int32, one for each index and in its shape."""
        if indexes.numel() == 0:
            return torch.zeros_like(indexes, dtype=torch.int32)
        values = self._decoder.decode_stream(indexes.flatten().tolist(), tables.cdfs, tables.lengths, tables.offsets)
        return torch.tensor(values, dtype=torch.int32, device=indexes.device).view_as(indexes)
