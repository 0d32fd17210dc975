"""Threads for kernels that release the GIL: as many as torch uses, safe from several threads and after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import torch

__all__ = ["share_out"]

_SHARES_A_THREAD = 4

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def share_out(kernel: Callable[[int, int], object], tasks: int) -> None:
    """Run kernel(first, stride) for shares first, first + stride, ... of the tasks, on several threads.

    Args:
        kernel: handles a share; must release the GIL to gain anything.
        tasks: how many there are. No more threads than tasks, and than `torch.get_num_threads()`, take part.
    """
    global _pool
    threads = max(1, min(tasks, torch.get_num_threads()))
    if threads == 1:
        kernel(0, 1)
        return
    # more shares than threads: a thread that finishes takes the next share, so that a slow thread does not delay the
    # others
    shares = min(tasks, _SHARES_A_THREAD * threads)
    waiting = iter(range(shares))  # taking the next one holds the GIL

    def work() -> None:
        for first in waiting:
            kernel(first, shares)

    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ssmctx")
    others: list[Future[None]] = []
    try:
        # after the main thread has ended Python starts no more work on a pool: the calling thread does all the shares
        with suppress(RuntimeError):
            for _ in range(threads - 1):
                others.append(_pool.submit(work))
        work()
    finally:
        for other in others:
            other.result()
