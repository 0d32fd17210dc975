"""Threads for kernels that release the GIL: as many as torch uses, safe from several threads and after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["share_out"]

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def share_out(kernel: Callable[[int, int], object], tasks: int) -> None:
    """Run kernel(first, stride) on several threads, so that tasks first, first + stride, ... of all add up to `tasks`.

    Args:
        kernel: handles its share of the tasks; must release the GIL to gain anything.
        tasks: how many there are. No more threads than tasks, and than `torch.get_num_threads()`, take part.
    """
    global _pool
    threads = max(1, min(tasks, torch.get_num_threads()))
    if threads == 1:
        kernel(0, 1)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ssmctx")
    others = [_pool.submit(kernel, first, threads) for first in range(1, threads)]
    try:
        kernel(0, threads)
    finally:
        for other in others:
            other.result()
