"""torch's global switches, set for coding and restored when the last thread that codes is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["all_in_evaluation_mode", "evaluation_mode", "full_precision"]

_lock = threading.RLock()


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in full precision, deterministic cuDNN kernels, no autotuning, while any thread is inside.

    The switches belong to the process: the first thread that enters saves and sets them, the last that leaves puts
    them back.
    """
    with _lock:
        _precision.enter()
    try:
        yield
    finally:
        with _lock:
            _precision.leave()


class _Precision:
    """Counts who is inside, and holds what the switches were."""

    def __init__(self) -> None:
        self.inside = 0
        self.put_back: Callable[[], None] = lambda: None

    def enter(self) -> None:
        if not self.inside:
            restore_precision = _ieee() if _HAS_PRECISIONS else _no_tf32()
            restore_cudnn = _set(torch.backends.cudnn, enabled=True, benchmark=False, deterministic=True)

            def put_back() -> None:
                restore_cudnn()
                restore_precision()

            self.put_back = put_back
        self.inside += 1

    def leave(self) -> None:
        self.inside -= 1
        if not self.inside:
            self.put_back()


_precision = _Precision()
_HAS_PRECISIONS = hasattr(torch.backends, "fp32_precision")  # torch 2.9


def _ieee() -> Callable[[], None]:
    """Set the precision of each kind of operation; what none is set for inherits from its library, that from all.

    Written without the older switches (`allow_tf32`, `set_float32_matmul_precision`): torch raises where both are used.
    """
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    levels: list[list[Any]] = [
        [backends],
        [cudnn, mkldnn],
        [backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn],
    ]
    before: list[tuple[Any, str]] = []
    for level in levels[:-1]:  # a value is read as inherited unless those above it are "none"
        before += [(owner, owner.fp32_precision) for owner in level]
        for owner in level:
            owner.fp32_precision = "none"
    before += [(owner, owner.fp32_precision) for owner in levels[-1]]
    for owner in levels[-1]:
        owner.fp32_precision = "ieee"

    def restore() -> None:
        for owner, precision in reversed(before):
            owner.fp32_precision = precision

    return restore


def _no_tf32() -> Callable[[], None]:
    """The same for torch before 2.9."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    restore_cudnn = _set(torch.backends.cudnn, allow_tf32=False)

    def restore() -> None:
        restore_cudnn()
        torch.set_float32_matmul_precision(precision)

    return restore


def _set(owner: Any, **values: bool) -> Callable[[], None]:
    before = {name: getattr(owner, name) for name in values}

    def put(values: dict[str, bool]) -> None:
        for name, value in values.items():
            setattr(owner, name, value)

    put(values)
    return lambda: put(before)


_evaluating: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()
"""Of each module that some thread keeps in evaluation mode: how many do, and the mode that it was in."""


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Keep a module in evaluation mode; afterwards every submodule is in the mode that it was in.

    Several threads may share a module: it stays in evaluation mode until the last of them is done.

    Args:
        module: any module.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.switches import evaluation_mode
        >>> layers = torch.nn.Sequential(torch.nn.Dropout(0.5).eval(), torch.nn.Dropout(0.5))
        >>> with evaluation_mode(layers):
        ...     [m.training for m in layers]
        [False, False]
        >>> [m.training for m in layers]
        [False, True]
    """
    with all_in_evaluation_mode(module.modules()):
        yield


@contextmanager
def all_in_evaluation_mode(modules: Iterable[nn.Module]) -> Iterator[list[nn.Module]]:
    """`evaluation_mode` of these modules, and not of what they hold; gives those that would be in training mode."""
    with _lock:
        # those that are in evaluation mode already need nothing, unless a thread only keeps them there
        parts = [part for part in modules if part.training or (_evaluating and part in _evaluating)]
        for part in parts:
            entry = _evaluating.setdefault(part, [0, part.training])
            entry[0] += 1
            part.training = False
    try:
        yield parts
    finally:
        with _lock:
            for part in parts:
                entry = _evaluating[part]
                entry[0] -= 1
                if not entry[0]:
                    part.training = entry[1]
                    del _evaluating[part]
