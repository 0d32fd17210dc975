"""The same work on many images, in one process or in several of one torch thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from tqdm import tqdm

from mambaic.errors import EvaluationError

_worker: _Worker | None = None


class _Worker:
    """Makes the work when it is first needed, so that an error in that reaches the caller like any other."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.make, self.work = make, None

    def __call__(self, item: Any) -> Any:
        if self.work is None:
            self.work = self.make()
        return self.work(item)


def for_each(make: Callable[[], Callable[[Any], Any]], items: Sequence[Any], jobs: int, label: str) -> list[Any]:
    """Do the work for every item, with a progress bar; returns what it gave, in order.

    Args:
        make: gives the function that does the work, once per process; can be pickled, as can items and results.
        items: what to work on.
        jobs: processes; 1 stays in this one, with all its threads.
        label: of the progress bar.

    Raises:
        EvaluationError: a process died.
    """
    bar = {"desc": label, "unit": "image", "total": len(items), "dynamic_ncols": True}
    if jobs == 1:
        return list(tqdm(map(_Worker(make), items), **bar))
    context = multiprocessing.get_context("spawn")  # a forked child inherits locks of torch's threads
    with ProcessPoolExecutor(min(jobs, len(items)), context, _start, (make,)) as pool:
        try:
            return list(tqdm(pool.map(_run, items), **bar))
        except BrokenProcessPool:
            raise EvaluationError(
                f"one of {jobs} processes died, usually because memory ran out: lower --jobs"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = _Worker(make)


def _run(item: Any) -> Any:
    assert _worker is not None  # `_start` ran
    return _worker(item)
