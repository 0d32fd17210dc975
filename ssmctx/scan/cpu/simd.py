"""Vectors of 16 float32 inside numba kernels: Python expressions that become LLVM's vector instructions.

Loops over arrays leave it to the compiler what stays in registers, and it keeps a scan's states in memory. A function
decorated with `vectors` is run once, while a kernel is compiled: its `Array`s and `Vector`s write the instructions,
Python's own loops are unrolled, and what `Builder.loop` carries round stays in registers. On processors with shorter
vectors LLVM splits them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "WIDTH",
    "Array",
    "Builder",
    "Variable",
    "Vector",
    "exp2",
    "maximum",
    "sigmoid",
    "softplus",
    "totals",
    "vectors",
]

WIDTH = 16
"""Lanes of a vector."""

_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_INTS = ir.VectorType(ir.IntType(32), WIDTH)
_INDEX = ir.IntType(64)
# what fused multiply-adds need, and no more: sums keep their order and NaN stays NaN
_FLAGS = ("contract", "nsz", "arcp")


class Vector:
    """16 float32 in a register; arithmetic with vectors and numbers."""

    def __init__(self, ir_builder: Any, value: Any) -> None:
        self.ir, self.value = ir_builder, value

    def of(self, other: Vector | float) -> Vector:
        """A number in every lane; a vector as it is."""
        return other if isinstance(other, Vector) else _constant(self.ir, other)

    def __add__(self, other: Vector | float) -> Vector:
        return Vector(self.ir, self.ir.fadd(self.value, self.of(other).value, flags=_FLAGS))

    def __sub__(self, other: Vector | float) -> Vector:
        return Vector(self.ir, self.ir.fsub(self.value, self.of(other).value, flags=_FLAGS))

    def __mul__(self, other: Vector | float) -> Vector:
        return Vector(self.ir, self.ir.fmul(self.value, self.of(other).value, flags=_FLAGS))

    def __truediv__(self, other: Vector | float) -> Vector:
        return Vector(self.ir, self.ir.fdiv(self.value, self.of(other).value, flags=_FLAGS))

    def times_power_of_two(self, whole: Vector) -> Vector:
        """Times 2^k, k in the low bits of `whole`: added to the exponent, where it must not overflow."""
        shift = ir.Constant(_INTS, [23] * WIDTH)
        exponent = self.ir.shl(self.ir.bitcast(whole.value, _INTS), shift)
        return Vector(self.ir, self.ir.bitcast(self.ir.add(self.ir.bitcast(self.value, _INTS), exponent), _FLOATS))

    def within(self, measured: Vector, bound: float) -> Vector:
        """self where `measured` is at most `bound`, NaN elsewhere."""
        inside = self.ir.fcmp_ordered("<=", measured.value, self.of(bound).value)
        return Vector(self.ir, self.ir.select(inside, self.value, self.of(math.nan).value))


def totals(vectors: Sequence[Vector]) -> list[Any]:
    """The sums of the lanes of each vector, by halves, as IR floats; of a power of two up to 16 of them.

    Two vectors of halves become one, and so on: what one vector's sum would take in steps, all take together.
    """
    builder, parts, lanes = vectors[0].ir, [vector.value for vector in vectors], WIDTH
    while lanes > 1:
        lanes //= 2
        pairs = list(zip(parts[::2], parts[1::2], strict=True)) if len(parts) > 1 else [(parts[0], parts[0])]
        width = WIDTH if len(parts) > 1 else parts[0].type.count // 2
        lows = [i for i in range(2 * WIDTH) if i // lanes % 2 == 0][:width]
        both = [ir.Constant(ir.VectorType(ir.IntType(32), width), [i + start for i in lows]) for start in (0, lanes)]
        parts = [builder.fadd(*(builder.shuffle_vector(*pair, half) for half in both)) for pair in pairs]
    return [builder.extract_element(parts[0], ir.Constant(ir.IntType(32), i)) for i in range(len(vectors))]


def _spread(ir_builder: Any, element: Any) -> Any:
    """An element in every lane, an IR value."""
    undefined, zero = ir.Constant(_FLOATS, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    one = ir_builder.insert_element(undefined, element, zero)
    return ir_builder.shuffle_vector(one, undefined, ir.Constant(_INTS, [0] * WIDTH))


def _constant(ir_builder: Any, number: float) -> Vector:
    return Vector(ir_builder, ir.Constant(_FLOATS, [float(np.float32(number))] * WIDTH))


def maximum(x: Vector, y: Vector | float) -> Vector:
    """The larger one, lane by lane; NaN where x is."""
    y = x.of(y)
    return Vector(x.ir, x.ir.select(x.ir.fcmp_unordered(">", x.value, y.value), x.value, y.value))


_LOG2E = 1.4426950408889634
_ROUND = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, kept in the low bits


def exp2(t: Vector) -> Vector:
    """2^t for t < 128, relative error 1.1e-7, exact at 0; below -126 it is 2^-126, negligible against any state."""
    t = maximum(t, -126.0)
    whole = t + _ROUND
    f = t - (whole - _ROUND)
    return _polynomial(f, 1.33003e-3, 9.66971e-3, 5.55056e-2, 2.4022282e-1, 0.6931471805599453, 1.0).times_power_of_two(
        whole
    )


def softplus(x: Vector) -> Vector:
    """log(1 + e^x), to relative precision for very negative x as well."""
    e = _exp_of_minus_abs(x)
    s = e / (e + 2.0)  # log(1 + e) = 2 artanh(s), s <= 1/3
    series = _polynomial(s * s, 1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0)
    return maximum(x, 0.0) + s * 2.0 * series


def sigmoid(x: Vector) -> Vector:
    """1 / (1 + e^-x)."""
    e = _exp_of_minus_abs(x)
    numerator = x.ir.select(x.ir.fcmp_ordered(">=", x.value, x.of(0.0).value), x.of(1.0).value, e.value)
    return Vector(x.ir, numerator) / (e + 1.0)


def _exp_of_minus_abs(x: Vector) -> Vector:
    return exp2(maximum(x, x * -1.0) * -_LOG2E)


def _polynomial(x: Vector, *coefficients: float) -> Vector:
    """Horner's scheme, the highest power first."""
    value = x.of(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


class Array:
    """A C-ordered array of a kernel: vectors of float32, or single elements of any type."""

    def __init__(self, ir_builder: Any, struct: Any) -> None:
        self.ir, self.data = ir_builder, struct.data
        self.shape = cgutils.unpack_tuple(ir_builder, struct.shape)

    def _pointer(self, index: Sequence[Any]) -> Any:
        offset = index[0]
        for size, i in zip(self.shape[1:], index[1:], strict=True):
            offset = self.ir.add(self.ir.mul(offset, size), i)
        return self.ir.gep(self.data, [offset])

    def __getitem__(self, index: tuple[Any, ...]) -> Vector:
        """The vector that starts at an index."""
        return self.piece(WIDTH, *index)

    def __setitem__(self, index: tuple[Any, ...], value: Vector) -> None:
        self.put_piece(value, *index)

    def piece(self, lanes: int, *index: Any) -> Vector:
        """The vector of so many lanes that starts at an index."""
        return Vector(self.ir, self.ir.load(self._vector_pointer(index, lanes), align=4))

    def put_piece(self, value: Vector, *index: Any) -> None:
        """Store a vector of any number of lanes."""
        self.ir.store(value.value, self._vector_pointer(index, value.value.type.count), align=4)

    def _vector_pointer(self, index: tuple[Any, ...], lanes: int) -> Any:
        return self.ir.bitcast(self._pointer(index), ir.VectorType(ir.FloatType(), lanes).as_pointer())

    def spread(self, *index: Any) -> Vector:
        """One element in every lane."""
        return Vector(self.ir, _spread(self.ir, self.get(*index)))

    def get(self, *index: Any) -> Any:
        """One element, an IR value."""
        return self.ir.load(self._pointer(index))

    def put(self, value: Any, *index: Any) -> None:
        """Store one element."""
        self.ir.store(value, self._pointer(index))


class Builder:
    """Loops, indices and registers."""

    def __init__(self, ir_builder: Any) -> None:
        self.ir = ir_builder

    def index(self, number: int) -> Any:
        """A fixed index."""
        return ir.Constant(_INDEX, number)

    def number(self, number: float) -> Vector:
        """A number in every lane."""
        return _constant(self.ir, number)

    def plus(self, index: Any, number: int) -> Any:
        """index + number."""
        return self.ir.add(index, self.index(number))

    @contextmanager
    def loop(self, stop: Any, step: int = 1, start: Any = None) -> Iterator[Any]:
        """The body of a loop over start (0 by default), start + step, ... below stop, all IR indices."""
        start = self.index(0) if start is None else start
        with cgutils.for_range_slice(self.ir, start, stop, self.index(step), intp=_INDEX) as (index, _):
            yield index

    @contextmanager
    def loop_down(self, start: Any) -> Iterator[Any]:
        """The body of a loop over start - 1, ..., 0."""
        with cgutils.for_range(self.ir, start, intp=_INDEX) as loop:
            yield self.ir.sub(self.ir.sub(start, self.index(1)), loop.index)

    def pieces(self, width: Any) -> Iterator[tuple[int, Any]]:
        """The bodies of loops over a row of any width: lanes of a piece, and the index where it starts."""
        begin = self.index(0)
        for lanes in (WIDTH, 4, 1):
            end = self.ir.and_(width, self.index(-lanes))
            with self.loop(end, lanes, start=begin) as index:
                yield lanes, index
            begin = end

    def variable(self, value: Vector) -> Variable:
        """A vector that a loop changes."""
        return Variable(value)


class Variable:
    """A vector that a loop carries round: `value` reads and sets it."""

    def __init__(self, value: Vector) -> None:
        self.ir, self._slot = value.ir, cgutils.alloca_once(value.ir, _FLOATS)
        self.value = value

    @property
    def value(self) -> Vector:
        """What it holds."""
        return Vector(self.ir, self.ir.load(self._slot))

    @value.setter
    def value(self, value: Vector) -> None:
        self.ir.store(value.value, self._slot)


def vectors(write: Callable[..., None]) -> Any:
    """Make of write(builder, *arguments) a function that numba kernels can call.

    Arrays, float32 and C-ordered, arrive as `Array`, named tuples of them as such tuples of `Array`s, integers as
    IR indices.
    """

    def unpacked(context: Any, ir_builder: Any, kind: Any, value: Any) -> Any:
        if isinstance(kind, (types.NamedTuple, types.NamedUniTuple)):
            fields = zip(kind, cgutils.unpack_tuple(ir_builder, value), strict=True)
            return kind.instance_class(*(unpacked(context, ir_builder, *field) for field in fields))
        if isinstance(kind, types.Array):
            return Array(ir_builder, context.make_array(kind)(context, ir_builder, value))
        return value

    def typed(typing_context: Any, *arguments: Any) -> Any:
        def generate(context: Any, ir_builder: Any, signature: Any, values: Sequence[Any]) -> Any:
            arguments = zip(signature.args, values, strict=True)
            write(Builder(ir_builder), *(unpacked(context, ir_builder, *argument) for argument in arguments))
            return context.get_dummy_value()

        whole = (types.Integer, types.Boolean)
        return types.void(*(types.int64 if isinstance(a, whole) else a for a in arguments)), generate

    typed.__name__, typed.__doc__ = write.__name__, write.__doc__
    typed.__signature__ = inspect.signature(write)  # type: ignore[attr-defined]  # numba looks the arguments up there
    return intrinsic(typed)
