"""The scan as an operator of torch: autograd, fake tensors for compile and export, autocast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from ssmctx.errors import ArgumentError, BackendUnavailableError
from ssmctx.scan.backend import Backend, load, resolve
from ssmctx.scan.checks import check_shapes, under_transforms
from ssmctx.scan.inputs import ScanInputs

__all__ = ["scan"]


_ARGUMENTS = (
    "Tensor u, Tensor dt_raw, Tensor A, Tensor? B, Tensor? C, Tensor D, Tensor dt_bias, Tensor h0, "
    "str directions, bool softplus, str backend, Tensor? dt_weight"
)
_TENSORS = 8
_GRADIENTS = _TENSORS + 1  # that of dt_weight last
_LARGE, _PARTS = 1 << 12, 64  # positions from which on the gradient of dt_weight is summed in so many parts


def _backend(arguments: Sequence[Any]) -> Backend:
    u, _, A, *_, name, _ = arguments
    return resolve(name, u.device, u.dtype, A.shape[-1])


def _check(arguments: Sequence[Any]) -> None:
    """Check shapes: kernels read and write where these say."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, _, _, dt_weight = arguments
    (batch, height, width, channels), count, states = u.shape, len(directions.split()), A.shape[-1]
    if (B is None) != (C is None) or (B is None) != (dt_weight is not None):
        raise ArgumentError("the scan operator takes either B and C, or dt_weight with B and C in dt_raw")
    expected = {
        "A": (A, (count, channels, states)),
        "D": (D, (count, channels)),
        "dt_bias": (dt_bias, (count, channels)),
        "h0": (h0, (batch, count, channels, states)),
    }
    pixels = batch, height, width, count
    if dt_weight is None:
        expected |= {"dt_raw": (dt_raw, (*pixels, channels)), "B": (B, (*pixels, states)), "C": (C, (*pixels, states))}
    else:
        rank = dt_weight.shape[-1]
        expected["dt_raw"] = dt_raw, (*pixels, rank + 2 * states)
        expected["dt_weight"] = dt_weight, (count, channels, rank)
    check_shapes(expected, u, "the scan operator's ")


def _inputs(backend: Backend, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What the backend's functions take, of arguments that are checked."""
    if arguments[-1] is None or not backend.low_rank:
        return (_multiplied(arguments),)
    arguments = [x.contiguous() if isinstance(x, Tensor) else x for x in arguments]
    u, _, A, _, _, *others, directions, softplus, _, dt_weight = arguments
    low_rank, B, C = _apart(arguments)
    return ScanInputs._make([u, low_rank, A, B, C, *others, tuple(directions.split()), softplus]), dt_weight


def _apart(arguments: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Step sizes, B and C; with dt_weight they are the parts of dt_raw, and step sizes are low-rank."""
    _, dt_raw, A, B, C, *_, dt_weight = arguments
    if dt_weight is None:
        return dt_raw, B, C
    states = A.shape[-1]
    low_rank, B, C = dt_raw.split_with_sizes([dt_weight.shape[-1], states, states], dim=-1)
    return low_rank, B, C


def _multiplied(arguments: Sequence[Any]) -> ScanInputs:
    """With whole step sizes."""
    u, _, A, _, _, *others, directions, softplus, _, dt_weight = arguments
    steps, B, C = _apart(arguments)
    if dt_weight is not None:
        if u.is_cuda and not torch.is_grad_enabled():
            steps = _whole_steps(steps, dt_weight)
        else:
            steps = torch.einsum("bhwkr,kdr->bhwkd", steps.contiguous(), dt_weight)
    tensors = [x.contiguous() for x in (u, steps, A, B, C, *others)]
    return ScanInputs._make([*tensors, tuple(directions.split()), softplus])


def _whole_steps(low_rank: Tensor, dt_weight: Tensor) -> Tensor:
    """(batch, H, W, K, d) as the kernels read it: einsum's result would have to be copied into that order."""
    steps = low_rank.new_empty(*low_rank.shape[:4], dt_weight.shape[1])
    by_direction = steps.flatten(0, 2).transpose(0, 1)
    torch.bmm(low_rank.flatten(0, 2).transpose(0, 1), dt_weight.mT, out=by_direction)
    return steps


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


@torch.library.custom_op("ssmctx::scan", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)")
def _scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    _check(arguments)
    backend = _backend(arguments)
    return backend.forward(*_inputs(backend, arguments))


@torch.library.custom_op(
    "ssmctx::scan_backward",
    mutates_args=(),
    schema=f"(Tensor dv, Tensor dlast, {_ARGUMENTS}) -> ({', '.join(['Tensor'] * _GRADIENTS)})",
)
def _scan_backward(dv: Tensor, dlast: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    _check(arguments)
    gradients = _run_backward(_backend(arguments), dv, dlast, arguments)
    return tuple(dv.new_empty(0) if x is None else x for x in gradients)


def _run_backward(
    backend: Backend, dv: Tensor, dlast: Tensor, arguments: Sequence[Any], kept: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """Gradients of the eight tensors and of dt_weight, None of those that are None."""
    options = {} if kept is None else {"kept": kept}
    found = _backward_of(backend)(dv.contiguous(), dlast.contiguous(), *_inputs(backend, arguments), **options)
    dt_weight = arguments[-1]
    if dt_weight is None:
        return *found, None
    if backend.low_rank:
        return found
    du, steps, dA, dB, dC, *others = cast(tuple[Tensor, ...], found)
    of_weight = _gradient_of_weight(steps, _apart(arguments)[0], _PARTS if steps.is_cuda else 1)
    of_low_rank = torch.einsum("bhwkd,kdr->bhwkr", steps, dt_weight)
    return du, torch.cat([of_low_rank, dB, dC], dim=-1), dA, None, None, *others, of_weight


def _gradient_of_weight(steps: Tensor, low_rank: Tensor, parts: int) -> Tensor:
    """That of dt_weight, (K, d, rank), from those of whole step sizes; large images in parts.

    On a GPU, a long sum for few results is a product of matrices that occupies few of its cores.
    """
    positions = steps.shape[:3].numel()
    parts = math.gcd(parts, positions)
    if parts == 1 or positions < _LARGE:
        return torch.einsum("bhwkd,bhwkr->kdr", steps, low_rank)
    steps, low_rank = (x.reshape(parts, positions // parts, *x.shape[3:]) for x in (steps, low_rank))
    of_directions = [torch.bmm(steps[:, :, k].mT, low_rank[:, :, k]).sum(0) for k in range(steps.shape[2])]
    return torch.stack(of_directions)


def _backward_of(backend: Backend) -> Callable[..., tuple[Tensor | None, ...]]:
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
    tensors = (*arguments[:_TENSORS], arguments[-1])
    return tuple(dv.new_empty(0 if x is None else x.shape) for x in tensors)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.backend = _backend(inputs)
    _backward_of(ctx.backend)
    ctx.save_for_backward(*inputs[:_TENSORS], inputs[-1], None)
    ctx.options = inputs[_TENSORS:-1]


def _gradients(ctx: Any, dv: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, dt_weight, kept = ctx.saved_tensors
    dv = torch.zeros_like(tensors[0]) if dv is None else dv
    dlast = torch.zeros_like(tensors[-1]) if dlast is None else dlast
    arguments = (*tensors, *ctx.options, dt_weight)
    if torch.is_grad_enabled() or not _plain((dv, dlast, *arguments)):
        found = _scan_backward(dv, dlast, *arguments)
        found = [None if x is None else of_x for x, of_x in zip((*tensors, dt_weight), found, strict=True)]
    else:
        found = _run_backward(ctx.backend, dv, dlast, arguments, kept)
    *found, of_weight = found
    return *found, None, None, None, of_weight


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = 2 + _TENSORS
    ctx.save_for_backward(*inputs[:tensors], inputs[-1])
    ctx.options = inputs[tensors:-1]


def _second_gradients(ctx: Any, *weights: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of `_scan_backward`: those of the scan in torch code, differentiated by autograd once more."""
    name = ctx.options[-1]
    saved = [None if x is None else x.detach().requires_grad_() for x in ctx.saved_tensors]
    dv, dlast, *tensors, dt_weight = saved
    arguments = [*tensors, *ctx.options, dt_weight]
    backend = _backend(arguments)
    if backend.differentiable is None:
        raise BackendUnavailableError(
            f"scan backend {backend.name!r} has no second derivatives (requested as {name!r}); choose 'torch'"
        )
    if torch.is_grad_enabled():
        raise BackendUnavailableError(
            f"scan backend {backend.name!r} has no third derivatives; choose 'reference', or torch.func.grad"
        )
    there = {i: x for i, x in enumerate(saved) if x is not None}
    leaves = list(there.values())
    with torch.enable_grad():
        outputs = backend.differentiable(_multiplied(arguments))
        first = torch.autograd.grad(outputs, leaves[2:], (dv, dlast), create_graph=True)
        of_outputs = zip(list(there)[2:], first, strict=True)
        asked = [(x, weights[i - 2]) for i, x in of_outputs if weights[i - 2] is not None]
        second = torch.autograd.grad([x for x, _ in asked], leaves, [w for _, w in asked], allow_unused=True)
    found = dict(zip(there, second, strict=True))
    *of_tensors, of_weight = (found.get(i) for i in range(len(saved)))
    return *of_tensors, None, None, None, of_weight


class _Differentiable(torch.autograd.Function):
    """The operator without torch's dispatcher; with what backward uses of forward, where there will be a backward."""

    @staticmethod
    def forward(ctx: Any, backend: Backend, differentiated: bool, *arguments: Any) -> tuple[Tensor, ...]:
        """v, the last states, and what the backend keeps."""
        # no setup_context: for that torch looks up this function's signature at every call
        _check(arguments)
        keeping = backend.forward_keeping if differentiated else None
        output: tuple[Tensor, ...] = (keeping or backend.forward)(*_inputs(backend, arguments))
        ctx.backend, ctx.options = backend, arguments[_TENSORS:-1]
        ctx.save_for_backward(*arguments[:_TENSORS], arguments[-1], output[2] if keeping else None)
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)  # there would be zeros for what the backend keeps
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """The gradients of the tensors."""
        return None, None, *_gradients(ctx, *gradients[:2])


def _plain(arguments: Iterable[Any]) -> bool:
    """Whether the dispatcher has nothing to do but autograd: no trace, no dispatch mode, no tensor subclass, no view
    that stands for its negative.

    The dispatcher of operators made in Python imports `torch._dynamo` when it first runs one, which takes as long as
    all the rest of a small image.
    """
    return (
        not torch._C._len_torch_dispatch_stack()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and all(
            type(x) in (Tensor, Parameter) and (x.is_cpu or x.is_cuda) and not x.is_neg()
            for x in arguments
            if isinstance(x, Tensor)
        )
    )


def _is_differentiated(arguments: Iterable[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in arguments)


_scan.register_autograd(_gradients, setup_context=_keep)
_scan_backward.register_autograd(_second_gradients, setup_context=_keep_all)
for _device in ("cpu", "cuda"):
    _scan.register_autocast(_device, torch.float32)


def scan(
    u: Tensor,
    dt_raw: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor,
    dt_bias: Tensor,
    h0: Tensor | None,
    directions: tuple[str, ...],
    softplus: bool,
    backend: str,
    dt_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """v (batch, H, W, d) and the last states (batch, K, d, N), in float32 or wider.

    With dt_weight (K, d, rank) step sizes are its product with low-rank ones. These, B and C then lie side by side in
    dt_raw (batch, H, W, K, rank + 2N), as one projection gives them, and B and C are None. Shapes are checked only
    where a backend with its own gradients runs.
    """
    work = torch.promote_types(u.dtype, torch.float32)
    if h0 is None:
        h0 = u.new_zeros(u.shape[0], *A.shape)  # not len(u), which traces and exports keep as a constant
    tensors = [None if x is None else x.to(work) for x in (u, dt_raw, A, B, C, D, dt_bias, h0, dt_weight)]
    arguments = [*tensors[:-1], " ".join(directions), softplus, backend, tensors[-1]]
    if not torch.compiler.is_compiling():
        if run := _torch_code(arguments):
            with _without_autocast(u.device.type):
                return run(_multiplied(arguments))
        if _plain(arguments):
            # contiguous here, so that backward has no copies to make again
            arguments = [x.contiguous() if isinstance(x, Tensor) else x for x in arguments]
            with _without_autocast(u.device.type):
                differentiated = _is_differentiated(arguments)
                v, last, *_ = _Differentiable.apply(_backend(arguments), differentiated, *arguments)
                return v, last
    v, last = _scan(*arguments)
    return v, last


def _without_autocast(device: str) -> AbstractContextManager[None]:
    """`torch.autocast` off; nothing where it is off, for that takes as long as an operator."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
