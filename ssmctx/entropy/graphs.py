"""CUDA graphs of the coding path: what coding asks of the device is recorded once for each size, and then replayed.

Around small latents a GPU waits for the host, which launches some sixty kernels for every coding step; a recorded
step is one launch. The kernels are the same, and so are their results.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ssmctx.constants import holding
from ssmctx.context.base import ContextModel
from ssmctx.entropy.steps import Step, coding_steps
from ssmctx.errors import ArgumentError
from ssmctx.stages import stage

__all__ = ["called", "cuda_graphs", "walked"]

R = TypeVar("R")

_MOST = 16  # recordings that are kept, the last used ones

_active: ContextVar[_Recordings | None] = ContextVar("recordings of CUDA graphs", default=None)


@contextmanager
def cuda_graphs() -> Iterator[None]:
    """Code with CUDA graphs inside a `with` block, which is faster where many images have the same size.

    The hyper-transforms and the steps of the coding loop run as always the first time that a size comes, are recorded
    the second time, and replayed from then on; of small images also g_a and g_s. Files and pixels are the same. A
    recording keeps memory for what it computes, up to 16 of them until the block ends. Weights may change in place;
    modules may not be changed inside the block. Other threads, and models on a CPU, code as without it.

    Raises:
        ArgumentError: a module makes the host wait for the GPU, so that it cannot be recorded; raised when it is used.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.entropy import cuda_graphs
        >>> model = MambaICEntropyModel(M=10, hyper_channels=4, N=2)
        >>> _ = model.update()
        >>> with cuda_graphs():
        ...     strings = [model.compress(y)["strings"] for y in torch.zeros(3, 1, 10, 4, 6)]
        >>> strings[0] == strings[1] == strings[2]
        True
    """
    token = _active.set(_Recordings())
    try:
        yield
    finally:
        _active.reset(token)


def called(module: nn.Module, x: Tensor, worth_it: bool = True) -> Tensor:
    """module(x); replayed inside `cuda_graphs`, where it is worth it and no gradients are wanted."""
    kind = (x.shape, x.stride(), x.dtype, x.device)
    recorded = _recorded(module, x, kind, lambda: _Call(module, x)) if worth_it else None
    y: Tensor = module(x) if recorded is None else recorded(x)
    return y


def walked(context: ContextModel, side: Tensor, gain: Tensor | None = None) -> Generator[Step, Tensor, Tensor]:
    """`coding_steps`; replayed inside `cuda_graphs`, where no gradients are wanted."""
    kind = (side.shape, side.dtype, side.device, None if gain is None else gain.shape)
    recorded = _recorded(context, side, kind, lambda: _Walk(context, side, gain))
    return coding_steps(context, side, gain) if recorded is None else recorded(side, gain)


def _recorded(module: nn.Module, x: Tensor, kind: Hashable, record: Callable[[], R]) -> R | None:
    """What is to be replayed for an input x of that kind; None where the module is to be called."""
    recordings = _active.get()
    return None if recordings is None or not _recordable(x) else recordings.find(module, kind, record)


def _recordable(x: Tensor) -> bool:
    return x.is_cuda and not torch.is_grad_enabled()


class _Recordings:
    """What was recorded so far, of which modules and for which kinds of input."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[nn.Module, Hashable], Any] = OrderedDict()

    def find(self, module: nn.Module, kind: Hashable, record: Callable[[], R]) -> R | None:
        """A recording that is still valid; None where such an input is seen for the first time."""
        key = (module, kind)
        if key not in self._kept:
            self._keep(key, None)
            return None
        recorded = self._kept[key]
        if recorded is None or not recorded.weights.are_where_they_were():
            try:
                with torch.inference_mode(False), torch.no_grad():  # whose tensors only it may write to
                    recorded = record()
            except RuntimeError as error:
                raise ArgumentError(
                    f"{type(module).__name__} cannot be recorded as a CUDA graph: {error}; let it ask the GPU for no "
                    "values, or code without cuda_graphs"
                ) from error
        self._keep(key, recorded)
        found: R = recorded
        return found

    def _keep(self, key: tuple[nn.Module, Hashable], recorded: Any) -> None:
        self._kept[key] = recorded
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)


class _Weights:
    """A module's weights, as a recording reads them: by their addresses."""

    def __init__(self, module: nn.Module) -> None:
        owners = [owned for part in module.modules() for owned in (part._parameters, part._buffers)]
        self._kept = [(owned, name, w, w.data_ptr()) for owned in owners for name, w in owned.items() if w is not None]

    def are_where_they_were(self) -> bool:
        """Whether none was replaced or moved since."""
        return all(owned.get(name) is w and w.data_ptr() == address for owned, name, w, address in self._kept)


class _Call:
    """A recorded call of a module."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self.weights = _Weights(module)
        self._x = x.clone()
        with holding() as self._constants:
            self._graph = _Graph(x.device)
            self._y: Tensor = self._graph.record(lambda: module(self._x))

    def __call__(self, x: Tensor) -> Tensor:
        self._x.copy_(x)
        self._graph.replay()
        return self._y.clone()  # the next call writes into it


class _Walk:
    """A recorded coding loop: what lies between a step and the next one is a graph."""

    def __init__(self, context: ContextModel, side: Tensor, gain: Tensor | None) -> None:
        self.weights = _Weights(context)
        self._side, self._gain = side.clone(), None if gain is None else gain.clone()
        self._parts: list[tuple[_Graph, Step, Tensor]] = []
        steps = coding_steps(context, self._side, self._gain)
        memory = None
        with holding() as self._constants:
            send: Callable[[], Step] = partial(next, steps)
            while True:
                graph = _Graph(side.device, memory)
                try:
                    step = graph.record(send)
                except StopIteration as end:
                    self._last: _Graph = graph
                    self._y_hat: Tensor = end.value
                    return
                q = torch.zeros_like(step.mean)
                self._parts.append((graph, step, q))
                memory = graph.memory
                send = partial(steps.send, q)

    def __call__(self, side: Tensor, gain: Tensor | None) -> Generator[Step, Tensor, Tensor]:
        self._side.copy_(side)
        if self._gain is not None and gain is not None:
            self._gain.copy_(gain)
        for graph, step, room in self._parts:
            with stage("context", step.index):
                graph.replay()
            q = yield step
            room.copy_(q)
        self._last.replay()
        return self._y_hat.clone()  # the next image's loop writes into it


class _Graph:
    """A CUDA graph of what a function asks of the device; memory of one may be given to those that follow it."""

    def __init__(self, device: torch.device, memory: Any = None) -> None:
        self._device = device
        self.memory = torch.cuda.graph_pool_handle() if memory is None else memory
        self._graph = torch.cuda.CUDAGraph()

    def record(self, run: Callable[[], R]) -> R:
        """What the function gives, in memory of the graph; an exception of it passes, and is recorded too."""
        with torch.cuda.device(self._device):
            own = torch.cuda.current_stream()
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(own)
            with torch.cuda.stream(aside):
                # other threads may go on to take memory
                self._graph.capture_begin(pool=self.memory, capture_error_mode="thread_local")
                try:
                    return run()
                finally:
                    self._graph.capture_end()
                    own.wait_stream(aside)

    def replay(self) -> None:
        """Compute it anew."""
        with torch.cuda.device(self._device):
            self._graph.replay()
