"""Tasks that threads take one after another, inside numba kernels."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["take"]


@intrinsic
def take(typing_context: Any, taken: Any) -> Any:
    """The number of the next task: what the int64 array (1,) `taken`, which threads share, held before adding 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        # no order beside other memory: tasks write nothing that another one reads
        return builder.atomic_rmw("add", array.data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(taken), generate
