"""The arithmetic of the coding path: evaluation mode, full float32, one way to run each kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import nn

from ssmctx.entropy.switches import all_in_evaluation_mode, full_precision
from ssmctx.errors import ArgumentError
from ssmctx.layers.vss import SS2D
from ssmctx.scan.backend import resolve

__all__ = ["coding_numerics", "scan_backend"]


@contextmanager
def coding_numerics(module: nn.Module) -> Iterator[None]:
    """Run a module as encoder and decoder must: in evaluation mode, without autocast, TF32 or autotuned kernels.

    Everything is as before afterwards, whatever other threads code meanwhile. Precision and kernels are switches of the
    process: other threads that compute at the same time get full precision too.

    Args:
        module: what codes.

    Raises:
        ArgumentError: the module's weights are narrower than float32.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.numerics import coding_numerics
        >>> layer = torch.nn.Dropout(0.5).train()
        >>> with coding_numerics(layer):
        ...     layer(torch.ones(3)), torch.is_autocast_enabled("cpu")
        (tensor([1., 1., 1.]), False)
        >>> layer.training
        True
    """
    outer = _coding.get()
    own = outer.within() if outer is not None and module in outer.parts else _walked(module)
    own.outer = outer
    with full_precision(), all_in_evaluation_mode(own.held) as own.held, ExitStack() as stack:
        for device in own.devices:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        _coding.set(own)
        try:
            yield
        finally:
            own.inside = False
            last = _coding.get()
            while last is not None and not last.inside:  # blocks of generators may end in any order
                last = last.outer
            _coding.set(last)


@dataclass(eq=False)
class _Coding:
    """Modules that code, the kinds of device that they are on, and which of them are to be held in evaluation mode."""

    parts: frozenset[nn.Module]
    devices: list[str]
    held: list[nn.Module]
    outer: _Coding | None = None
    inside: bool = True

    def within(self) -> _Coding:
        """For a part of the modules: without the walk over them, which takes a millisecond of a large model."""
        return _Coding(self.parts, self.devices, self.held)


_coding: ContextVar[_Coding | None] = ContextVar("what codes", default=None)


def _walked(module: nn.Module) -> _Coding:
    # walked once, and not by parameters() and buffers() too
    parts = list(module.modules())
    kept = (w for part in parts for w in (*part._parameters.values(), *part._buffers.values()))
    weights = [w for w in kept if w is not None]
    narrow = next((w.dtype for w in weights if w.is_floating_point() and w.dtype.itemsize < 4), None)
    if narrow is not None:
        raise ArgumentError(
            f"{type(module).__name__} codes in float32 or wider, it has weights in {narrow}: call .float() on it"
        )
    return _Coding(frozenset(parts), sorted({"cpu", "cuda"} | {weight.device.type for weight in weights}), parts)


def scan_backend(module: nn.Module) -> str:
    """Name of the scan backend that a module's blocks use where they are; "" if there is none, or more than one."""
    scans = [m for m in module.modules() if isinstance(m, SS2D)]
    names = {resolve(m.scan_backend, m.D.device, m.D.dtype, m.d_state).name for m in scans}
    return names.pop() if len(names) == 1 else ""
