"""Numba kernels of the rANS coder, in the word format of CompressAI's: what one writes, the other reads.

`ssmctx.entropy.rans.plain` says how it works, and does the same without a compiler.

Source:
    Giesen's rans64.h, reciprocals included; CompressAI's rans_interface.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ssmctx.entropy.rans import plain
from ssmctx.entropy.rans.plain import MALFORMED, MOST_GROUPS, SHORT
from ssmctx.jit import kernel

__all__ = ["decode", "encode"]

_u32, _u64, _i64 = np.uint32, np.uint64, np.int64
_LOWER = np.uint64(1 << 31)

_INLINE: dict[str, Any] = {"inline": "always"}


def _inputs(dtype: Any, dimensions: int = 1) -> Any:
    return types.Array(dtype, dimensions, "C", readonly=True)


@intrinsic
def _upper_half(typing_context: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two 64-bit numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@njit(**_INLINE)
def _put_groups(x, position, words, value):
    """Push the groups of what follows an escape, so that they come out after their number."""
    groups = _i64(0)
    while value >> _u64(4 * groups):
        groups += 1
    for j in range(groups - 1, -2, -1):
        group = (value >> _u64(4 * j)) & _u64(15) if j >= 0 else _u64(groups)
        if x >= _u64(1 << 59):
            position -= _u64(1)
            words[position] = _u32(x)
            x >>= _u64(32)
        x = x << _u64(4) | group
    return x, position


@kernel(
    types.boolean(
        _inputs(types.int16),
        _inputs(types.uint16),
        _inputs(types.int64, 2),
        _inputs(types.uint64, 2),
        types.uint32[::1],
        types.uint64[::1],
    ),
    inlined=(plain,),
    boundscheck=False,
)
def encode(symbols, indexes, rows, divisors, words, state):
    """Push symbols, the last one first, each with the row that its index names.

    `state` is (x, the position in `words` of the last word written); words go before it. False, with nothing done,
    unless two words per symbol are free there. That is enough: a symbol takes 40 bits at most, 16 of a frequency of 1
    and 24 of the groups, and a 32-bit word leaves only when as many bits have come in.
    """
    x, position = state[0], state[1]
    if position < _u64(2 * symbols.size) or position > _u64(words.size) or indexes.size != symbols.size:
        return False
    for i in range(symbols.size - 1, -1, -1):
        row = indexes[i]
        escape = rows[row, 2]
        interval = _i64(symbols[i]) - rows[row, 1]
        if interval < 0:
            x, position = _put_groups(x, position, words, _u64(-2 * interval - 1))
            interval = escape
        elif interval >= escape:
            x, position = _put_groups(x, position, words, _u64(2 * (interval - escape)))
            interval = escape
        entry = _u64(rows[row, 0] + interval)  # unsigned, as all positions: numba has no negative ones to look for
        reciprocal, packed = divisors[entry, 0], divisors[entry, 1]
        frequency = packed >> _u64(16) & _u64(0xFFFF)
        if x >= frequency << _u64(47):
            position -= _u64(1)
            words[position] = _u32(x)
            x >>= _u64(32)
        quotient = _upper_half(x << _u64(1), reciprocal) >> (packed >> _u64(32))
        x += (packed & _u64(0xFFFF)) + quotient * (_u64(1 << 16) - frequency)
    state[0], state[1] = x, position
    return True


@njit(**_INLINE)
def _refill(x, position, words):
    """Take a word where x is small; words past the end are 0, and the position tells."""
    if x < _LOWER:
        word = _u64(words[position]) if position < _u64(words.size) else _u64(0)
        x = x << _u64(32) | word
        position += _u64(1)
    return x, position


@kernel(
    types.int64(
        _inputs(types.uint32),
        _inputs(types.uint16),
        _inputs(types.int64, 2),
        _inputs(types.uint32),
        _inputs(types.uint32, 2),
        _inputs(types.uint16, 2),
        types.int16[::1],
        types.uint64[::1],
    ),
    inlined=(plain,),
    boundscheck=False,
)
def decode(words, indexes, rows, intervals, starts, numbers, symbols, state):
    """Pop one symbol per index; 0, or `SHORT` or `MALFORMED`, and then the state is as it was.

    `state` is (x, the position in `words` of the next word), x at least 2^31 and below 2^63.
    """
    x, position, end = state[0], state[1], _u64(words.size)
    below = _u64(0)  # bits of a target that its entry of starts does not depend on
    while starts.shape[1] << below < 1 << 16:
        below += _u64(1)
    for i in range(indexes.size):
        row = indexes[i]
        first = _u64(rows[row, 0])
        target = x & _u64(0xFFFF)
        # an entry of starts is an interval, not only its number: mostly the next state depends on one load
        packed = _u64(starts[row, target >> below])
        entry = first + _u64(numbers[row, target >> below])
        frequency, within = packed >> _u64(16), target - (packed & _u64(0xFFFF))
        while within >= frequency:  # ends in the row: its last interval reaches to 2^16
            entry += _u64(1)
            packed = _u64(intervals[entry])
            frequency, within = packed >> _u64(16), target - (packed & _u64(0xFFFF))
        x = frequency * (x >> _u64(16)) + within
        if x < _LOWER:  # as _refill; a third faster, because what follows need not look at the position
            if position >= end:
                return SHORT
            x = x << _u64(32) | _u64(words[position])
            position += _u64(1)
        interval, offset, escape = _i64(entry - first), rows[row, 1], rows[row, 2]
        symbol = offset + interval
        if interval == escape:
            groups, value, group = x & _u64(15), _u64(0), _u64(1)
            if groups > _u64(MOST_GROUPS):
                return MALFORMED
            x, position = _refill(x >> _u64(4), position, words)
            for j in range(groups):
                group = x & _u64(15)
                value |= group << _u64(4 * j)
                x, position = _refill(x >> _u64(4), position, words)
            if position > end:
                return SHORT
            half = _i64(value >> _u64(1))
            symbol = offset - 1 - half if value & _u64(1) else symbol + half
            # the encoder writes no group of 0 in front of the others
            if group == _u64(0) or symbol < -32768 or symbol > 32767:
                return MALFORMED
        symbols[i] = symbol
    state[0], state[1] = x, position
    return 0
