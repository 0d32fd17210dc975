"""An entropy coder: symbols survive, however they are split; decoding of any bytes ends, in symbols or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmctx.distributions.tables import CodingTables
from ssmctx.entropy.coders import Coder
from ssmctx.errors import CorruptStreamError
from ssmctx.testing.broken import LawBroken, attempt, in_brief

__all__ = ["assert_coder"]

_LAW = "coder"
_ROWS, _COUNT = 5, 400


def assert_coder(coder: Coder, seed: int = 0) -> None:
    """Symbols decode in portions of any size; truncated streams raise; no bytes crash the decoder.

    Args:
        coder: of the protocol `ssmctx.entropy.coders.Coder`.
        seed: of tables and symbols, outliers among them.

    Raises:
        LawBroken: symbols differ, a cut stream passes, or anything but a `CorruptStreamError` is raised.

    Examples:
        >>> from ssmctx.entropy.rans import RansCoder
        >>> from ssmctx.testing import assert_coder
        >>> assert_coder(RansCoder())
    """
    rng = np.random.default_rng(seed)
    tables = _tables(rng)
    indexes = rng.integers(0, _ROWS, _COUNT).astype(np.uint8)
    symbols = rng.normal(0, 3, _COUNT).astype(np.int16)
    symbols[rng.random(_COUNT) < 0.02] = rng.choice([-32768, -500, 999, 32767])

    stream = _encoded(coder, symbols, indexes, tables, [_COUNT])
    portions = [0, 1, _COUNT // 3, _COUNT]
    if _encoded(coder, symbols, indexes, tables, portions) != stream:
        raise LawBroken(_LAW, "the stream depends on the portions in which symbols are handed over")
    for ends in ([_COUNT], portions):
        decoded = attempt(_LAW, "decoding", _decoded, coder, stream, indexes, tables, ends)
        wrong = np.flatnonzero(decoded != symbols)
        if wrong.size:
            raise LawBroken(
                _LAW,
                f"symbol {wrong[0]} of {_COUNT} is {decoded[wrong[0]]} instead of {symbols[wrong[0]]}; "
                f"{wrong.size} differ, decoded in portions that end at {ends}",
                "an escape that is coded and read differently, or a state that does not outlive a call",
            )
    empty = _encoded(coder, symbols[:0], indexes[:0], tables, [0])
    attempt(_LAW, "decoding nothing", _decoded, coder, empty, indexes[:0], tables, [0])
    for length in [*range(0, len(stream), 7), len(stream) - 1]:
        if _ending(coder, stream[:length], indexes, tables) is None:
            raise LawBroken(
                _LAW, f"a stream cut to {length} of {len(stream)} bytes passes", "a decoder that reads zeros at the end"
            )
    for _ in range(50):
        changed = bytearray(stream)
        changed[rng.integers(len(stream))] ^= 1 << rng.integers(8)
        _ending(coder, bytes(changed), indexes, tables)
        _ending(coder, rng.bytes(int(rng.integers(40))), indexes, tables)


def _tables(rng: np.random.Generator) -> CodingTables:
    """Rows of random frequencies, of 1 to 12 symbols and an escape."""
    cdfs, offsets = [], []
    for _ in range(_ROWS):
        count = int(rng.integers(1, 13))
        inner = np.sort(rng.choice(np.arange(1, 1 << 16), count, replace=False))
        cdfs.append([0, *inner.tolist(), 1 << 16])
        offsets.append(-(count // 2))
    return CodingTables.from_lists(cdfs, [len(row) for row in cdfs], offsets)


def _encoded(
    coder: Coder, symbols: NDArray[np.int16], indexes: NDArray[Any], tables: CodingTables, ends: list[int]
) -> bytes:
    encoder = coder.encoder()
    begin = 0
    for end in ends:
        encoder.encode(symbols[begin:end], indexes[begin:end], tables)
        begin = end
    return encoder.finish()


def _decoded(
    coder: Coder, stream: bytes, indexes: NDArray[Any], tables: CodingTables, ends: list[int]
) -> NDArray[np.int16]:
    decoder = coder.decoder(stream)
    parts, begin = [], 0
    for end in ends:
        parts.append(decoder.decode(indexes[begin:end], tables))
        begin = end
    decoder.finish()
    return np.concatenate(parts)


def _ending(coder: Coder, stream: bytes, indexes: NDArray[Any], tables: CodingTables) -> str | None:
    """How decoding damaged bytes ends: the refusal, or None where they pass."""
    try:
        _decoded(coder, stream, indexes, tables, [len(indexes)])
    except CorruptStreamError as error:
        return str(error)
    except Exception as error:
        raise LawBroken(
            _LAW, f"damaged bytes raise {in_brief(error)}", "the stream is used before it is checked"
        ) from error
    return None
