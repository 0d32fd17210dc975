"""What a kernel is called with, and the tasks that its threads take one after another."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["count", "pointer"]


@intrinsic
def count(typing_context: Any, counters: Any, index: Any) -> Any:
    """What an int64 that threads share, counters[index], held before adding 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        # no order beside other memory: tasks write nothing that another one reads
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counters, types.intp), generate


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """An address as what `numba.carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate
