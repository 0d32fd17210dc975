"""Kernels compiled by numba, kept on disk where that is possible."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

__all__ = ["c_function", "kernel", "unavailable"]


@functools.cache
def unavailable() -> str | None:
    """Why numba cannot compile kernels here; None when it can. Loads numba."""
    try:
        from llvmlite import ir  # noqa: F401
        from numba import config, njit  # noqa: F401
        from numba.extending import intrinsic  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name in ("numba", "llvmlite"):
            return f"{error.name} is not installed: pip install numba"
        return _broken(error)
    except Exception as error:  # a numba that does not fit numpy, Python or its llvmlite raises what it likes
        return _broken(error)
    switched_off = config.DISABLE_JIT  # type: ignore[attr-defined]  # numba sets it from the environment
    return "numba's compiler is switched off: unset NUMBA_DISABLE_JIT" if switched_off else None


def _broken(error: Exception) -> str:
    return f"numba cannot be imported ({error!r}): pip install --force-reinstall numba"


def kernel(signature: Any = None, *, inlined: Sequence[ModuleType] = (), **options: Any) -> Callable[[Any], Any]:
    """`numba.njit` that releases the GIL, with numba's cache on disk or, where no folder can be written, without.

    numba compiles again what has changed in a kernel's own file. What it takes from other files is named by
    `inlined`, and becomes part of the name that it is kept under.

    Args:
        signature: of numba's types, to compile for at once; without one, when it is called.
        inlined: other modules whose code ends up in the kernel.
        options: of `numba.njit`.
    """
    from numba import njit

    return lambda function: _compiled(functools.partial(njit, signature, nogil=True, **options), function, inlined)


def c_function(
    signature: Any, *, inlined: Sequence[ModuleType] = (), **options: Any
) -> Callable[[Any], Callable[[], Any]]:
    """`numba.cfunc` with the cache of `kernel`, compiled when it is first asked for: decorates to a function that gives
    it.

    Args:
        signature: of numba's types.
        inlined: other modules whose code ends up in the function.
        options: of `numba.cfunc`.
    """
    from numba import cfunc

    def decorate(function: Any) -> Callable[[], Any]:
        lock = threading.Lock()
        made: list[Any] = []

        @functools.wraps(function)
        def once() -> Any:
            with lock:  # several threads may be the first
                if not made:
                    made.append(_compiled(functools.partial(cfunc, signature, **options), function, inlined))
            return made[0]

        return once

    return decorate


def _compiled(compiler: Callable[..., Any], function: Any, inlined: Sequence[ModuleType]) -> Any:
    with suppress(OSError):  # a frozen application has no sources; numba looks at its program then
        sources = "\0".join(inspect.getsource(module) for module in inlined)
        function.__qualname__ += "_" + hashlib.sha256(sources.encode()).hexdigest()[:16]
    try:
        return compiler(cache=True)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        _say_no_cache()
        return compiler()(function)


@functools.cache
def _say_no_cache() -> None:
    """Say so once a process."""
    logging.getLogger("ssmctx").warning(
        "numba can write neither to ssmctx's folder nor to the user's cache folder, so that every process compiles its "
        "kernels again: set NUMBA_CACHE_DIR to a folder that can be written"
    )
