"""What a scan backend is, which ones can run here, and which one "auto" stands for."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssmctx.errors import ArgumentError, BackendUnavailableError
from ssmctx.registry import scan_backends

__all__ = ["Backend", "backends", "load", "resolve"]


@dataclass(frozen=True)
class Backend:
    """A scan backend. Register a function without arguments that makes it in `ssmctx.registry.scan_backends`.

    `forward(inputs)`, with a `ScanInputs`, returns v (batch, H, W, d) and the last states (batch, K, d, N);
    `backward(dv, dlast, inputs)` the gradients of the eight tensors in the order u, dt_raw, A, B, C, D, dt_bias, h0. A
    backend without `backward` is torch code that autograd differentiates. With `low_rank` both also take dt_weight
    (K, d, rank) as a last argument; then dt_raw is the low-rank form (batch, H, W, K, rank) of step sizes, and dt_raw,
    B and C are the parts, side by side, of one contiguous tensor (batch, H, W, K, rank + 2N), whose gradient stands in
    the place of dt_raw's, with None in those of B's and C's; dt_weight's gradient is a ninth.

    Attributes:
        name: as registered.
        unavailable: says why the backend cannot run here, or None.
        forward: the scan.
        backward: its gradients, or None.
        devices: device types that it runs on; None for all.
        dtypes: floating types that it computes in; None for all of float32 and wider.
        max_states: largest number N of states; None for any.
        low_rank: whether it multiplies low-rank step sizes out itself, so that they never exist whole.
        forward_keeping: `forward` with a third tensor for `backward`, which takes it as the keyword `kept`, or None in
            its place, and gives the same gradients; None where backward finds everything by itself.
        priority: "auto" takes the highest one that can take the scan, of equals the first by name, and never one of 0.
            "torch" has 1, the kernels "cpu" and "triton" have 10.
        auto_devices: device types that the priority holds for; None for all that it runs on.
        differentiable: the same as `forward` in torch code that autograd differentiates any number of times and the
            transforms of `torch.func` go through; None where `forward` is that (without `backward`) or there is none.
            The exception is "mamba_ssm", whose `forward` asks whether h0 is zero: that waits for the GPU and fails
            under vmap.

    Examples:
        >>> from ssmctx import registry
        >>> backend = registry.scan_backends.create("torch")
        >>> backend.name, backend.unavailable()
        ('torch', None)
    """

    name: str
    unavailable: Callable[[], str | None]
    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor | None, ...]] | None = None
    devices: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    max_states: int | None = None
    low_rank: bool = False
    forward_keeping: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
    priority: int = 0
    auto_devices: tuple[str, ...] | None = None
    differentiable: Callable[..., tuple[Tensor, Tensor]] | None = None

    def refuses(self, device: torch.device, dtype: torch.dtype, states: int) -> str | None:
        """Why it cannot take such a scan; None when it can."""
        if reason := self.unavailable():
            return reason
        if self.devices is not None and device.type not in self.devices:
            return f"it runs on {' and '.join(self.devices)}, the tensors are on {device.type}"
        if self.dtypes is not None and dtype not in self.dtypes:
            return f"it computes in {' and '.join(map(str, self.dtypes))}, the tensors are {dtype}"
        if self.max_states is not None and states > self.max_states:
            return f"it takes up to {self.max_states} states, A has {states}"
        return None


@functools.cache
def load(name: str) -> Backend:
    """The backend of a name.

    Raises:
        UnknownNameError: no such backend.
    """
    backend = scan_backends.create(name)
    if not isinstance(backend, Backend):
        raise ArgumentError(f"scan backend {name!r} must be made by a function that returns a Backend, got {backend!r}")
    return backend


def resolve(name: str, device: torch.device, dtype: torch.dtype, states: int) -> Backend:
    """The backend for a scan: the named one, or for "auto" the one of highest priority that can take it.

    Raises:
        UnknownNameError: no such backend.
        BackendUnavailableError: the named backend cannot take this scan; the message says why.
    """
    if name != "auto":
        backend = load(name)
        if reason := backend.refuses(device, dtype, states):
            raise BackendUnavailableError(
                f"scan backend {name!r} cannot be used: {reason}. Choose another backend or 'auto'"
            )
        return backend
    return _first(device, dtype, states, scan_backends.names())


@functools.cache
def _first(device: torch.device, dtype: torch.dtype, states: int, names: tuple[str, ...]) -> Backend:
    log = logging.getLogger("ssmctx")
    for backend in _candidates(device.type, names):
        reason = _answer(backend.refuses, device, dtype, states)
        if reason is None:
            log.info("scan on %s in %s: backend %r", device, dtype, backend.name)
            return backend
        # without its kernel a GPU scans a hundred times slower: that deserves a warning, the rest does not
        level = logging.WARNING if device.type == "cuda" else logging.INFO
        log.log(level, "scan on %s in %s: not backend %r, %s", device, dtype, backend.name, reason)
    raise BackendUnavailableError(f"no scan backend can be used on {device} in {dtype}")


def _answer(ask: Callable[..., str | None], *arguments: Any) -> str | None:
    """What a backend says against itself; what it raises instead, for it may be another package's."""
    try:
        return ask(*arguments)
    except Exception as error:
        return f"it failed: {error!r}"


def _candidates(device: str, names: tuple[str, ...]) -> list[Backend]:
    """The backends that "auto" may take on a type of device, the first choice first."""
    candidates = []
    for name in names:
        try:
            backend = load(name)
        except Exception as error:  # another package's: it must not stop those that never asked for it
            logging.getLogger("ssmctx").warning("scan backend %r cannot be loaded: %r", name, error)
            continue
        wanted = backend.auto_devices or backend.devices
        if backend.priority > 0 and (wanted is None or device in wanted):
            candidates.append(backend)
    return sorted(candidates, key=lambda backend: (-backend.priority, backend.name))


def backends() -> None:
    """Print a table of the scan backends: name, whether it can run here, and why not.

    Examples:
        >>> from ssmctx import backends
        >>> backends()  # doctest: +ELLIPSIS
        name       available  why not
        cpu        yes
        ...
    """
    print(f"{'name':10} available  why not")
    for name in scan_backends.names():
        reason = _why_not(name)
        print(f"{name:10} {'no' if reason else 'yes':9}  {reason or ''}".rstrip())


def _why_not(name: str) -> str | None:
    try:
        backend = load(name)
    except Exception as error:  # another package's
        return f"it cannot be loaded: {error!r}"
    return _answer(backend.unavailable)
