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
    "str directions, bool softplus, str backend, Tensor? dt_weight"
)
_TENSORS = 8


def _backend(arguments: Sequence[Any]) -> Backend:
    u, _, A, *_, name, _ = arguments
    return resolve(name, u.device, u.dtype, A.shape[-1])


def _inputs(backend: Backend, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What the backend's functions take."""
    *tensors, directions, softplus, _, dt_weight = arguments
    inputs = ScanInputs._make([*(x.contiguous() for x in tensors), tuple(directions.split()), softplus])
    if dt_weight is None:
        return (inputs,)
    if backend.low_rank:
        return inputs, dt_weight.contiguous()
    return (inputs._replace(dt_raw=_multiplied_out(inputs.dt_raw, dt_weight)),)


def _multiplied_out(low: Tensor, dt_weight: Tensor) -> Tensor:
    return torch.einsum("bhwkr,kdr->bhwkd", low, dt_weight).contiguous()


@torch.library.custom_op("ssmctx::scan", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)")
def _scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    backend = _backend(arguments)
    return backend.forward(*_inputs(backend, arguments))


@torch.library.custom_op(
    "ssmctx::scan_backward",
    mutates_args=(),
    schema=f"(Tensor dv, Tensor dlast, {_ARGUMENTS}) -> ({', '.join(['Tensor'] * _TENSORS)})",
)
def _scan_backward(dv: Tensor, dlast: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    backend = _backend(arguments)
    return _backward_of(backend)(dv.contiguous(), dlast.contiguous(), *_inputs(backend, arguments))


def _backward_of(backend: Backend) -> Callable[..., tuple[Tensor, ...]]:
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
    u, dt_raw, A, *others = arguments[:_TENSORS]
    steps = dt_raw.new_empty(*dt_raw.shape[:-1], A.shape[1])
    return u.new_empty(u.shape), steps, *(x.new_empty(x.shape) for x in (A, *others))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _backward_of(_backend(inputs))
    ctx.save_for_backward(*inputs[:_TENSORS], inputs[-1])
    ctx.options = inputs[_TENSORS:-1]


def _gradients(ctx: Any, dv: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, dt_weight = ctx.saved_tensors
    u, low, *_, h0 = tensors
    dv = torch.zeros_like(u) if dv is None else dv
    dlast = torch.zeros_like(h0) if dlast is None else dlast
    du, dsteps, *others = _scan_backward(dv, dlast, *tensors, *ctx.options, dt_weight)
    dlow, dweight = dsteps, None
    if dt_weight is not None:
        dlow = torch.einsum("bhwkd,kdr->bhwkr", dsteps, dt_weight)
        dweight = torch.einsum("bhwkd,bhwkr->kdr", dsteps, low)
    return du, dlow, *others, None, None, None, dweight


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
    dt_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """v (batch, H, W, d) and the last states (batch, K, d, N), in float32 or wider; shapes are not checked.

    With dt_weight (K, d, rank) the step sizes are its product with dt_raw, then (batch, H, W, K, rank).
    """
    work = torch.promote_types(u.dtype, torch.float32)
    if h0 is None:
        h0 = u.new_zeros(len(u), *A.shape)
    tensors = [x.to(work) for x in (u, dt_raw, A, B, C, D, dt_bias, h0)]
    dt_weight = None if dt_weight is None else dt_weight.to(work)
    if backend != "auto" and not torch.compiler.is_compiling():
        chosen = resolve(backend, u.device, work, A.shape[-1])
        if chosen.backward is None:
            arguments = [*tensors, " ".join(directions), softplus, backend, dt_weight]
            with torch.autocast(u.device.type, enabled=False):
                return chosen.forward(*_inputs(chosen, arguments))
    v, last = _scan(*tensors, " ".join(directions), softplus, backend, dt_weight)
    return v, last
