"""Stages of coding, reported to observers: for measurements inside a codec.

The coding loop and `ImageCodec` name what they do: "g_a", "h_a", "entropy_bottleneck", "h_s", "scale_network",
"context", "coder", "transfer", "guard", "g_s". Stages nest. Without an observer they cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

import torch

from ssmctx.memory import peak_memory

__all__ = ["Observer", "StagePeaks", "StageTimes", "observe", "stage"]


class Observer(Protocol):
    """Called when a stage begins and when it ends."""

    def begin(self, stage: str, index: int | None) -> None:
        """A stage begins; `index` is the coding step, where the stage belongs to one."""
        ...

    def end(self, stage: str, index: int | None) -> None:
        """The stage that began last ends, by an exception too."""
        ...


class StageTimes:
    """An observer that counts seconds by stage; a nested stage's time is not counted in the outer one.

    Args:
        device: on which the codec runs; the GPU is synchronised when a stage begins or ends.

    Attributes:
        seconds: by stage.

    Examples:
        >>> from ssmctx.stages import StageTimes, observe, stage
        >>> times = StageTimes("cpu")
        >>> with observe(times), stage("g_a"):
        ...     pass
        >>> list(times.seconds)
        ['g_a']
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def now(self) -> float:
        """The time at which everything that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def key(self, stage: str, index: int | None) -> str:
        """What a stage is counted under; its name, unless a derived class tells coding steps apart."""
        return stage

    def begin(self, stage: str, index: int | None) -> None:
        """See `Observer`."""
        self._count()
        self._open.append(self.key(stage, index))

    def end(self, stage: str, index: int | None) -> None:
        """See `Observer`."""
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = self.now()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


class StagePeaks:
    """An observer that measures the peak memory of each stage; one within another is not measured.

    Args:
        device: on which the codec runs.

    Attributes:
        peaks: bytes by stage, the largest of its calls; None where the system does not report it.

    Examples:
        >>> from ssmctx.stages import StagePeaks, observe, stage
        >>> peaks = StagePeaks("cpu")
        >>> with observe(peaks), stage("g_a"):
        ...     pass
        >>> list(peaks.peaks)
        ['g_a']
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.peaks: dict[str, int | None] = {}
        self._depth = 0
        self._running: Any = None

    def key(self, stage: str, index: int | None) -> str:
        """What a stage is counted under; its name, unless a derived class tells coding steps apart."""
        return stage

    def begin(self, stage: str, index: int | None) -> None:
        """See `Observer`."""
        self._depth += 1
        if self._depth == 1:
            measure = peak_memory(self.device)
            self._running = measure, measure.__enter__()

    def end(self, stage: str, index: int | None) -> None:
        """See `Observer`."""
        self._depth -= 1
        if self._depth == 0:
            measure, peak = self._running
            measure.__exit__(None, None, None)
            key = self.key(stage, index)
            measured = [size for size in (self.peaks.get(key), *peak) if size is not None]
            self.peaks[key] = max(measured, default=None)


_observers: ContextVar[tuple[Observer, ...]] = ContextVar("ssmctx_observers", default=())


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Report all stages of this thread inside a `with` block to an observer.

    Args:
        observer: called at the begin and end of stages.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.stages import observe
        >>> class Names(list):
        ...     def begin(self, stage, index):
        ...         self.append(stage)
        ...     def end(self, stage, index):
        ...         pass
        >>> model, names = MambaICEntropyModel(M=10, hyper_channels=4, N=2).eval(), Names()
        >>> with observe(names):
        ...     _ = model(torch.zeros(1, 10, 2, 2))
        >>> names[:3]
        ['h_a', 'entropy_bottleneck', 'h_s']
    """
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


def stage(name: str, index: int | None = None) -> AbstractContextManager[None]:
    """Name the stage of a `with` block.

    Args:
        name: of the stage.
        index: the coding step that it belongs to.

    Examples:
        >>> from ssmctx.stages import StageTimes, observe, stage
        >>> times = StageTimes("cpu")
        >>> with observe(times):
        ...     with stage("context", 0):
        ...         pass
        >>> list(times.seconds)
        ['context']
    """
    if torch.compiler.is_compiling() or not _observers.get():
        return nullcontext()
    return _told(name, index, _observers.get())


@contextmanager
def _told(name: str, index: int | None, observers: tuple[Observer, ...]) -> Iterator[None]:
    for observer in observers:
        observer.begin(name, index)
    try:
        yield
    finally:
        for observer in reversed(observers):
            observer.end(name, index)
