"""The scan as an operator of torch: autograd, fake tensors for compile and export, autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ssmctx.errors import BackendUnavailableError
from ssmctx.scan.backend import Backend, load, resolve
from ssmctx.scan.checks import check_shapes, under_transforms
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
    """What the backend's functions take; kernels read and write where the shapes say, so these are checked here."""
    *tensors, directions, softplus, _, dt_weight = arguments
    u, dt_raw, A, B, C, D, dt_bias, h0 = tensors
    (batch, height, width, channels), count, states = u.shape, len(directions.split()), A.shape[-1]
    steps = channels if dt_weight is None else dt_weight.shape[-1]
    expected = {
        "dt_raw": (dt_raw, (batch, height, width, count, steps)),
        "A": (A, (count, channels, states)),
        "B": (B, (batch, height, width, count, states)),
        "C": (C, (batch, height, width, count, states)),
        "D": (D, (count, channels)),
        "dt_bias": (dt_bias, (count, channels)),
        "h0": (h0, (batch, count, channels, states)),
    }
    if dt_weight is not None:
        expected["dt_weight"] = dt_weight, (count, channels, steps)
    check_shapes(expected, u, "the scan operator's ")
    if dt_weight is not None and backend.low_rank:
        return _contiguous(tensors, directions, softplus), dt_weight.contiguous()
    return (_multiplied(arguments),)


def _contiguous(tensors: Sequence[Tensor], directions: str, softplus: bool) -> ScanInputs:
    return ScanInputs._make([*(x.contiguous() for x in tensors), tuple(directions.split()), softplus])


def _multiplied(arguments: Sequence[Any]) -> ScanInputs:
    """With whole step sizes."""
    u, dt_raw, *tensors, directions, softplus, _, dt_weight = arguments
    if dt_weight is not None:
        dt_raw = torch.einsum("bhwkr,kdr->bhwkd", dt_raw.contiguous(), dt_weight)
    return _contiguous([u, dt_raw, *tensors], directions, softplus)


def _torch_code(arguments: Sequence[Any]) -> Callable[[ScanInputs], tuple[Tensor, Tensor]] | None:
    """Torch code to call instead of the operator: a backend's without gradients of its own, and what transforms need.

    Raises:
        BackendUnavailableError: a transform of `torch.func` is running, and the named backend cannot go through it.
    """
    _, _, A, *_, name, _ = arguments
    if name == "auto" and not under_transforms() and not isinstance(A.shape[-1], int):
        return None  # of a trace, whose sizes are no integers to choose by
    backend = load("torch") if name == "auto" and under_transforms() else _backend(arguments)
    if backend.backward is None:
        return backend.forward
    if not under_transforms():
        return None
    if backend.differentiable is None:
        raise BackendUnavailableError(
            f"scan backend {name!r} cannot be used under the transforms of torch.func (grad, vmap, ...); "
            "choose 'auto' or 'torch'"
        )
    return backend.differentiable


def _run(*arguments: Any) -> tuple[Tensor, Tensor]:
    backend = _backend(arguments)
    return backend.forward(*_inputs(backend, arguments))


@torch.library.custom_op("ssmctx::scan", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)")
def _scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _run(*arguments)


@torch.library.custom_op(
    "ssmctx::scan_backward",
    mutates_args=(),
    schema=f"(Tensor dv, Tensor dlast, {_ARGUMENTS}) -> ({', '.join(['Tensor'] * _TENSORS)})",
)
def _scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    return _run_backward(*arguments)


def _run_backward(dv: Tensor, dlast: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    backend = _backend(arguments)
    return _backward_of(backend)(dv.contiguous(), dlast.contiguous(), *_inputs(backend, arguments))


def _backward_of(backend: Backend) -> Callable[..., tuple[Tensor, ...]]:
    if backend.backward is None:  # only compiled and traced code comes here with one: `scan` calls it directly
        raise BackendUnavailableError(
            f"scan backend {backend.name!r} is differentiated by autograd, which compiled and traced code cannot do; "
            "choose 'torch'"
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
    u, dt_raw, *_, h0 = tensors
    dv = torch.zeros_like(u) if dv is None else dv
    dlast = torch.zeros_like(h0) if dlast is None else dlast
    arguments = (dv, dlast, *tensors, *ctx.options, dt_weight)
    run = _scan_backward if torch.is_grad_enabled() or not _plain(arguments) else _run_backward
    du, dsteps, *others = run(*arguments)
    dlow, dweight = dsteps, None
    if dt_weight is not None:
        dlow = torch.einsum("bhwkd,kdr->bhwkr", dsteps, dt_weight)
        dweight = torch.einsum("bhwkd,bhwkr->kdr", dsteps, dt_raw)
    return du, dlow, *others, None, None, None, dweight


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = 2 + _TENSORS
    ctx.save_for_backward(*inputs[:tensors], inputs[-1])
    ctx.options = inputs[tensors:-1]


def _second_gradients(ctx: Any, *weights: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of `_scan_backward`: those of the scan in torch code, differentiated by autograd once more."""
    name = ctx.options[-1]
    dv, dlast, *tensors, dt_weight = (None if x is None else x.detach().requires_grad_() for x in ctx.saved_tensors)
    backend = _backend([*tensors, *ctx.options, dt_weight])
    if backend.differentiable is None:
        raise BackendUnavailableError(
            f"scan backend {backend.name!r} has no second derivatives (requested as {name!r}); choose 'torch'"
        )
    if torch.is_grad_enabled():
        raise BackendUnavailableError(
            f"scan backend {backend.name!r} has no third derivatives; choose 'reference', or torch.func.grad"
        )
    leaves = [dv, dlast, *tensors, *([] if dt_weight is None else [dt_weight])]
    with torch.enable_grad():
        inputs = _multiplied([*tensors, *ctx.options, dt_weight])
        differentiated: Any = inputs[:_TENSORS]
        first = torch.autograd.grad(backend.differentiable(inputs), differentiated, (dv, dlast), create_graph=True)
        asked = [(x, weight) for x, weight in zip(first, weights, strict=True) if weight is not None]
        second = torch.autograd.grad([x for x, _ in asked], leaves, [w for _, w in asked], allow_unused=True)
    of_tensors = second[: 2 + _TENSORS]
    return *of_tensors, None, None, None, None if dt_weight is None else second[-1]


class _Differentiable(torch.autograd.Function):
    """The operator without torch's dispatcher."""

    forward = staticmethod(_run)
    setup_context = staticmethod(_keep)
    backward = staticmethod(_gradients)


def _plain(arguments: Iterable[Any]) -> bool:
    """Whether the dispatcher has nothing to do but autograd: no trace, no dispatch mode, no tensor subclass.

    The dispatcher of operators made in Python imports `torch._dynamo` when it first runs one, which takes as long as
    all the rest of a small image.
    """
    return (
        not torch._C._len_torch_dispatch_stack()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and all(
            type(x) in (Tensor, Parameter) and x.device.type in ("cpu", "cuda")
            for x in arguments
            if isinstance(x, Tensor)
        )
    )


_scan.register_autograd(_gradients, setup_context=_keep)
_scan_backward.register_autograd(_second_gradients, setup_context=_keep_all)
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
    """v (batch, H, W, d) and the last states (batch, K, d, N), in float32 or wider.

    With dt_weight (K, d, rank) the step sizes are its product with dt_raw, then (batch, H, W, K, rank). Shapes are
    checked only where a backend with its own gradients runs.
    """
    work = torch.promote_types(u.dtype, torch.float32)
    if h0 is None:
        h0 = u.new_zeros(u.shape[0], *A.shape)  # not len(u), which traces and exports keep as a constant
    tensors = [x.to(work) for x in (u, dt_raw, A, B, C, D, dt_bias, h0)]
    dt_weight = None if dt_weight is None else dt_weight.to(work)
    arguments = [*tensors, " ".join(directions), softplus, backend, dt_weight]
    if not torch.compiler.is_compiling():
        if run := _torch_code(arguments):
            with torch.autocast(u.device.type, enabled=False):
                return run(_multiplied(arguments))
        if _plain(arguments):
            with torch.autocast(u.device.type, enabled=False):
                results: tuple[Tensor, Tensor] = _Differentiable.apply(*arguments)
                return results
    v, last = _scan(*arguments)
    return v, last
