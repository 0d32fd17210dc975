"""The scan as an operator of torch: autograd, fake tensors for compile and export, autocast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmctx.errors import BackendUnavailableError
from ssmctx.scan.backend import Backend, resolve
from ssmctx.scan.inputs import ScanInputs

__all__ = ["scan"]


_ARGUMENTS = (
    "Tensor u, Tensor dt_raw, Tensor A, Tensor B, Tensor C, Tensor D, Tensor dt_bias, Tensor h0, "
    "str directions, bool softplus, str backend"
)
_TENSORS = 8


def _backend(arguments: Sequence[Any]) -> Backend:
    u, _, A, *_, name = arguments
    return resolve(name, u.device, u.dtype, A.shape[-1])


def _inputs(arguments: Sequence[Any]) -> ScanInputs:
    *tensors, directions, softplus, _ = arguments
    return ScanInputs._make([*(x.contiguous() for x in tensors), tuple(directions.split()), softplus])


@torch.library.custom_op("ssmctx::scan", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)")
def _scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _backend(arguments).forward(_inputs(arguments))


@torch.library.custom_op(
    "ssmctx::scan_backward",
    mutates_args=(),
    schema=f"(Tensor dv, Tensor dlast, {_ARGUMENTS}) -> ({', '.join(['Tensor'] * _TENSORS)})",
)
def _scan_backward(dv: Tensor, dlast: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return _backward_of(_backend(arguments))(dv.contiguous(), dlast.contiguous(), _inputs(arguments))


def _backward_of(backend: Backend) -> Callable[[Tensor, Tensor, ScanInputs], tuple[Tensor, ...]]:
    if backend.backward is None:  # only compiled code comes here with one: `scan` calls it directly
        raise BackendUnavailableError(
            f"scan backend {backend.name!r} is differentiated by autograd, which torch.compile cannot do here; "
            "choose 'auto'"
        )
    return backend.backward


@_scan.register_fake
def _(u: Tensor, *rest: Any) -> Any:
    h0 = rest[_TENSORS - 2]
    return u.new_empty(u.shape), h0.new_empty(h0.shape)


@_scan_backward.register_fake
def _(dv: Tensor, dlast: Tensor, *arguments: Any) -> Any:
    return tuple(x.new_empty(x.shape) for x in arguments[:_TENSORS])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _backward_of(_backend(inputs))
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.options = inputs[_TENSORS:]


def _gradients(ctx: Any, dv: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
    u, *_, h0 = ctx.saved_tensors
    dv = torch.zeros_like(u) if dv is None else dv
    dlast = torch.zeros_like(h0) if dlast is None else dlast
    return *_scan_backward(dv, dlast, *ctx.saved_tensors, *ctx.options), None, None, None


_scan.register_autograd(_gradients, setup_context=_keep)
for _device in ("cpu", "cuda"):
    _scan.register_autocast(_device, torch.float32)


def scan(
    u: Tensor,
    dt_raw: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    h0: Tensor | None,
    directions: tuple[str, ...],
    softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """v (batch, H, W, d) and the last states (batch, K, d, N), in float32 or wider; shapes are not checked."""
    work = torch.promote_types(u.dtype, torch.float32)
    if h0 is None:
        h0 = u.new_zeros(len(u), *A.shape)
    tensors = [x.to(work) for x in (u, dt_raw, A, B, C, D, dt_bias, h0)]
    if backend != "auto" and not torch.compiler.is_compiling():
        chosen = resolve(backend, u.device, work, A.shape[-1])
        if chosen.backward is None:
            with torch.autocast(u.device.type, enabled=False):
                return chosen.forward(ScanInputs._make([*tensors, directions, softplus]))
    v, last = _scan(*tensors, " ".join(directions), softplus, backend)
    return v, last
