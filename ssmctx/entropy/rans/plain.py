"""The rANS coder as its equations read, in integers of Python: slow, without a compiler, a reference for the kernels.

The coder's state is one integer x, 2^31 <= x < 2^63. A symbol of frequency f and start s takes it to
(x // f) 2^16 + s + x % f, which multiplies it by about 2^16 / f; when it would grow past 2^63 its lower 32 bits leave
as a word. Decoding runs all this backwards, so that the encoder starts with the last symbol and writes the words from
the end. An escape is followed by the number of 4-bit groups of what comes next and by the groups themselves, lowest
first: 2 k for the symbol k past the row's last one, 2 k + 1 for the one that is 1 + k before its first.

`ssmctx.entropy.rans.kernels` has the same functions, compiled.

Source:
    Duda, Asymmetric numeral systems, arXiv:1311.2540; CompressAI's rans_interface.cpp.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["MALFORMED", "MOST_GROUPS", "SHORT", "decode", "encode"]

SHORT, MALFORMED = 1, 2
"""Why `decode` gave up: the words ran out, or what follows an escape is nothing that `encode` writes."""

MOST_GROUPS = 5
"""Symbols and first symbols of rows are 16-bit, so that what follows an escape is below 2^17."""

_LOWER = 1 << 31


def encode(
    symbols: NDArray[Any],
    indexes: NDArray[Any],
    rows: NDArray[Any],
    divisors: NDArray[Any],
    words: NDArray[Any],
    state: NDArray[Any],
) -> bool:
    """Push symbols, the last one first, each with the row that its index names; see `kernels.encode`."""
    x, position = state.tolist()
    if position < 2 * len(symbols) or position > len(words) or len(indexes) != len(symbols):
        return False

    def push(start: int, frequency: int, bits: int) -> None:
        nonlocal x, position
        if x >= frequency << (63 - bits):
            position -= 1
            words[position] = x & 0xFFFFFFFF
            x >>= 32
        x = (x // frequency << bits) + start + x % frequency

    for symbol, row in zip(reversed(symbols.tolist()), reversed(indexes.tolist()), strict=True):
        first, offset, escape = rows[row].tolist()
        interval = symbol - offset
        if not 0 <= interval < escape:
            value = -2 * interval - 1 if interval < 0 else 2 * (interval - escape)
            groups = -(-value.bit_length() // 4)
            for j in reversed(range(groups)):
                push(value >> 4 * j & 15, 1, 4)
            push(groups, 1, 4)
            interval = escape
        packed = int(divisors[first + interval, 1])
        push(packed & 0xFFFF, packed >> 16 & 0xFFFF, 16)
    state[:] = x, position
    return True


def decode(
    words: NDArray[Any],
    indexes: NDArray[Any],
    rows: NDArray[Any],
    intervals: NDArray[Any],
    starts: NDArray[Any],
    numbers: NDArray[Any],
    symbols: NDArray[Any],
    state: NDArray[Any],
) -> int:
    """Pop one symbol per index; see `kernels.decode`."""
    x, position = state.tolist()

    def pop(start: int, frequency: int, bits: int) -> None:
        nonlocal x, position
        x = frequency * (x >> bits) + (x & (1 << bits) - 1) - start
        if x < _LOWER:
            x = x << 32 | (int(words[position]) if position < len(words) else 0)
            position += 1

    for i, row in enumerate(indexes.tolist()):
        first, offset, escape = rows[row].tolist()
        target = x & 0xFFFF
        entry = first + int(numbers[row, target * numbers.shape[1] >> 16])
        while target >= (int(intervals[entry]) & 0xFFFF) + (int(intervals[entry]) >> 16):
            entry += 1
        pop(int(intervals[entry]) & 0xFFFF, int(intervals[entry]) >> 16, 16)
        if position > len(words):
            return SHORT
        symbol = offset + entry - first
        if entry - first == escape:
            groups, value, group = x & 15, 0, 1
            if groups > MOST_GROUPS:
                return MALFORMED
            pop(groups, 1, 4)
            for j in range(groups):
                group = x & 15
                value |= group << 4 * j
                pop(group, 1, 4)
            if position > len(words):
                return SHORT
            symbol = offset - 1 - (value >> 1) if value & 1 else symbol + (value >> 1)
            if group == 0 or not -32768 <= symbol <= 32767:  # no encoder writes a group of 0 in front of the others
                return MALFORMED
        symbols[i] = symbol
    state[:] = x, position
    return 0
