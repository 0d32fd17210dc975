"""Threads for kernels that release the GIL: as many as torch uses, safe from several threads and after a fork.

Where torch has GNU OpenMP's threads the kernels run on these. After each of torch's operations they spin for some
milliseconds, and would keep threads of another pool off their cores.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from array import array
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

__all__ = ["share_out"]

_pool: ThreadPoolExecutor | None = None
_forked = False


def _after_fork() -> None:
    """A forked child has none of its parent's threads, and OpenMP would wait for them."""
    global _pool, _forked
    _pool, _forked = None, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def share_out(kernel: Any, call: array[int], tasks: int) -> None:
    """Run a kernel on several threads at once, each of which takes tasks until none is left.

    Args:
        kernel: a C function of one pointer, as ctypes has it.
        call: what the pointer points to. Threads count up in it which tasks are taken; see
            `ssmctx.scan.cpu.arrays.Scan`.
        tasks: how many there are. No more threads than tasks, and than `torch.get_num_threads()`, take part.
    """
    threads, address = min(tasks, torch.get_num_threads()), call.buffer_info()[0]
    if threads <= 1:
        kernel(address)
    elif _openmp() is not None and not _forked:
        _openmp()(kernel, address, threads, 0)
    else:
        _on_pool(lambda: kernel(address), threads)


@functools.cache
def _openmp() -> Any:
    """GNU OpenMP's function that calls another on each of its threads, if torch has loaded it; else None."""
    if not sys.platform.startswith("linux"):
        return None
    bundled = Path(torch.__file__).parent.joinpath("lib").glob("libgomp*")
    for name in (*map(str, bundled), "libgomp.so.1"):
        with suppress(OSError, AttributeError):
            function = ctypes.CDLL(name, mode=os.RTLD_NOLOAD).GOMP_parallel
            function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            function.restype = None
            return function
    return None


def _on_pool(work: Callable[[], object], threads: int) -> None:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ssmctx")
    others: list[Future[object]] = []
    try:
        # after the main thread has ended Python starts no more work on a pool: the calling thread does all the tasks
        with suppress(RuntimeError):
            for _ in range(threads - 1):
                others.append(_pool.submit(work))
        work()
    finally:
        for other in others:
            other.result()
