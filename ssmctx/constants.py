"""A cache of small tensors that depend only on sizes, such as masks and indices."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["constant", "holding"]

_MOST_BYTES = 32 << 20
_LEAST_BYTES = 1 << 10  # of each, so that their number is bounded too

_lock = threading.Lock()
_kept: OrderedDict[Hashable, tuple[Tensor, int]] = OrderedDict()  # here, so that no module, copy or pickle holds them
_bytes = 0
_held: ContextVar[list[Tensor] | None] = ContextVar("constants that are held", default=None)


def constant(make: Callable[..., Tensor], *arguments: Hashable, device: torch.device | str | None = None) -> Tensor:
    """`make(*arguments, device)`, from a per-process LRU cache.

    The tensor is made on the CPU and copied once, so that later calls do not wait for the GPU. Callers with equal
    arguments get the same tensor and must not write to it; one that was written to is made anew.

    Args:
        make: a function of a module, whose result depends on its arguments alone.
        arguments: hashable; what is equal gets the same tensor.
        device: of the result; None is torch's default device.

    Examples:
        >>> import torch
        >>> from ssmctx.constants import constant
        >>> def squares(n, device):
        ...     return torch.arange(n, device=device) ** 2
        >>> constant(squares, 4).tolist(), constant(squares, 4) is constant(squares, 4)
        ([0, 1, 4, 9], True)
    """
    if _tracing():
        return make(*arguments, device)
    if device is None or ((device := torch.device(device)).type != "cpu" and device.index is None):
        device = torch.empty(0, device=device).device  # "cuda" follows the current device; cuda:0 does not
    key = (make, arguments, device)
    with _lock:
        tensor, version = _kept.get(key, (None, 0))
        if tensor is not None and tensor._version == version:
            _kept.move_to_end(key)
            return _hold(tensor)
    with torch.inference_mode(False):  # a later caller may need gradients
        tensor = make(*arguments, "cpu").to(device)
    _keep(key, tensor)
    return _hold(tensor)


@contextmanager
def holding() -> Iterator[list[Tensor]]:
    """Collect what `constant` gives inside a `with` block: memory that is read later on is kept with the list.

    Examples:
        >>> import torch
        >>> from ssmctx.constants import constant, holding
        >>> def squares(n, device):
        ...     return torch.arange(n, device=device) ** 2
        >>> with holding() as held:
        ...     kept = constant(squares, 4)
        >>> held[0] is kept
        True
    """
    held: list[Tensor] = []
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)


def _hold(tensor: Tensor) -> Tensor:
    held = _held.get()
    if held is not None:
        held.append(tensor)
    return tensor


def _keep(key: Hashable, tensor: Tensor) -> None:
    global _bytes
    with _lock:
        old = _kept.pop(key, None)
        _bytes += _cost(tensor) - (0 if old is None else _cost(old[0]))
        _kept[key] = tensor, tensor._version
        while _bytes > _MOST_BYTES:
            _, (dropped, _) = _kept.popitem(last=False)
            _bytes -= _cost(dropped)


def _cost(tensor: Tensor) -> int:
    return max(_LEAST_BYTES, tensor.nbytes)


def _tracing() -> bool:
    """Whether tensors that are made now are not real ones, or belong to a graph."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or bool(torch._C._len_torch_dispatch_stack())
        or bool(torch._C._are_functorch_transforms_active())
    )
