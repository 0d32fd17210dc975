"""Fast = slow: a scan backend computes what the float64 reference computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmctx.scan import reference
from ssmctx.scan.backend import Backend
from ssmctx.scan.inputs import ScanInputs
from ssmctx.scan.operator import scan
from ssmctx.testing.broken import LawBroken, attempt
from ssmctx.testing.cases import ScanCase

__all__ = ["assert_scan_equal", "poisoned_memory"]

_LAW = "fast = slow"
_BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-5}
_CAUSES = {
    "v": "a direction has another scan order, or a state is lost where two chunks meet",
    "last": "the state after the last position is not what is returned: one position too many or too few",
    "gradient": "the backward pass recomputes something else than the forward pass, or a term is missing",
    "nan": "memory is read before it is written: accumulate into zeros, and mask what lies beyond the end",
}


def assert_scan_equal(
    backend: str | Backend | Callable[[ScanInputs], tuple[Tensor, Tensor]],
    case: ScanCase,
    *,
    dtype: torch.dtype = torch.float32,
    bound: float | None = None,
) -> None:
    """Outputs, last states and all gradients of a scan equal the sequential float64 reference.

    Low-rank step sizes are multiplied out for a function, and for a `Backend` without `low_rank`. All fresh memory is
    filled with NaN, so that reading what was never written shows.

    Args:
        backend: a registered name, a `Backend`, or a function like a `Backend`'s forward that autograd differentiates.
        case: the arguments.
        dtype: to compute in.
        bound: largest error, relative to the largest magnitude of the tensor; by default 2e-5 in float32, 1e-12 in
            float64.

    Raises:
        LawBroken: a tensor differs by more; the message names it and its worst element.

    Source:
        Law 6 of the design.

    Examples:
        >>> from ssmctx.testing import ScanCase, assert_scan_equal
        >>> assert_scan_equal("torch", ScanCase(height=3, width=5, states=4))
    """
    truth = _outputs(_of_whole_steps(reference.forward), case, torch.float64)
    with poisoned_memory():
        found = attempt(_LAW, f"{_name(backend)} on {case}", _outputs, _callable(backend), case, dtype)
    bound = _BOUNDS.get(dtype, 1e-2) if bound is None else bound
    for name, expected in truth.items():
        actual = found[name]
        if actual.shape != expected.shape:
            raise LawBroken(_LAW, f"{name} has shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
        error = (actual.double() - expected).abs() / expected.abs().max().clamp(min=1e-30)
        if bool((error <= bound).all()):  # NaN fails too
            continue
        worst = error.nan_to_num(torch.inf, torch.inf).argmax()
        index = [int(i) for i in torch.unravel_index(worst, error.shape)]
        kind = "nan" if bool(actual.isnan().any()) else "gradient" if name.startswith("gradient") else name
        raise LawBroken(
            _LAW,
            f"{name} of {_name(backend)} is {actual[tuple(index)].item():.6g} at {index}, the reference has "
            f"{expected[tuple(index)].item():.6g}: relative error {error.flatten()[worst].item():.2e}, beyond "
            f"{bound:.0e} on {case}",
            _CAUSES[kind],
        )


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Temporarily fill the uninitialised memory of torch and numpy with NaN, or with huge numbers.

    Examples:
        >>> import torch
        >>> from ssmctx.testing import poisoned_memory
        >>> with poisoned_memory():
        ...     torch.empty(2)
        tensor([nan, nan])
    """

    def tensor(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def poisoned(*shape: Any, **options: Any) -> Tensor:
            made = make(*shape, **options)
            with torch.no_grad():
                floating = made.is_floating_point() or made.is_complex()
                return made.fill_(torch.nan if floating else 1 if made.dtype == torch.bool else 113)

        return poisoned

    def array(make: Callable[..., Any]) -> Callable[..., Any]:
        def poisoned(*shape: Any, **options: Any) -> Any:
            made = make(*shape, **options)
            made.fill(np.nan if made.dtype.kind in "fc" else 113)
            return made

        return poisoned

    patches: list[tuple[Any, str, Callable[..., Any]]] = [
        (torch.Tensor, "new_empty", tensor),
        (torch, "empty", tensor),
        (torch, "empty_like", tensor),
        (torch, "empty_strided", tensor),
        (np, "empty", array),
        (np, "empty_like", array),
    ]
    originals = [getattr(owner, name) for owner, name, _ in patches]
    for (owner, name, wrap), original in zip(patches, originals, strict=True):
        setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        for (owner, name, _), original in zip(patches, originals, strict=True):
            setattr(owner, name, original)


class _Differentiable(torch.autograd.Function):
    """A backend's own forward and backward as one function of autograd."""

    @staticmethod
    def forward(ctx: Any, backend: Backend, options: tuple[Any, ...], *tensors: Tensor | None) -> Any:
        ctx.backend, ctx.options = backend, options
        ctx.save_for_backward(*tensors)
        return backend.forward(*_arguments(tensors, options))

    @staticmethod
    def backward(ctx: Any, dv: Tensor, dlast: Tensor) -> Any:
        arguments = _arguments(ctx.saved_tensors, ctx.options)
        return None, None, *ctx.backend.backward(dv.contiguous(), dlast.contiguous(), *arguments)


_Scan = Callable[..., tuple[Tensor, Tensor]]
"""A function of `ScanInputs` and, if their step sizes are of low rank, their factor dt_weight."""


def _callable(backend: Any) -> _Scan:
    if isinstance(backend, str):

        def named(inputs: ScanInputs, dt_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
            tensors = _side_by_side(inputs, dt_weight)
            return scan(*tensors[:8], *inputs[8:], backend, dt_weight)  # type: ignore[arg-type, call-arg]

        return named
    if not isinstance(backend, Backend):
        return _of_whole_steps(backend)
    if backend.backward is None:
        return _of_whole_steps(backend.forward)

    def run(inputs: ScanInputs, dt_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, last = _Differentiable.apply(backend, inputs[8:], *_side_by_side(inputs, dt_weight))
        return v, last

    return run if backend.low_rank else _of_whole_steps(run)


def _of_whole_steps(run: Callable[[ScanInputs], tuple[Tensor, Tensor]]) -> _Scan:
    """Multiplies low-rank step sizes out for a scan that takes whole ones only."""

    def multiplied(inputs: ScanInputs, dt_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if dt_weight is not None:
            inputs = inputs._replace(dt_raw=torch.einsum("bhwkr,kdr->bhwkd", inputs.dt_raw, dt_weight))
        return run(inputs)

    return multiplied


def _side_by_side(inputs: ScanInputs, dt_weight: Tensor | None) -> list[Tensor | None]:
    """The eight tensors; with dt_weight nine, of which the second holds low-rank step sizes, B and C."""
    u, dt_raw, A, B, C, *others = inputs[:8]
    if dt_weight is None:
        return [u, dt_raw, A, B, C, *others]
    return [u, torch.cat([dt_raw, B, C], dim=-1), A, None, None, *others, dt_weight]


def _arguments(tensors: Sequence[Any], options: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a backend's functions take, of tensors as `_side_by_side` gives them."""
    if len(tensors) == 8:
        return (ScanInputs._make([*tensors, *options]),)
    u, together, A, _, _, *others, dt_weight = tensors
    parts = together.split([dt_weight.shape[-1], A.shape[-1], A.shape[-1]], dim=-1)
    return ScanInputs._make([u, parts[0], A, *parts[1:], *others, *options]), dt_weight


def _name(backend: Any) -> str:
    if isinstance(backend, str):
        return f"backend {backend!r}"
    return f"backend {backend.name!r}" if isinstance(backend, Backend) else getattr(backend, "__name__", "the scan")


def _outputs(run: _Scan, case: ScanCase, dtype: torch.dtype) -> dict[str, Tensor]:
    """Both outputs, and the gradients of a weighted sum of them."""
    tensors = {name: x.requires_grad_() for name, x in case.tensors(dtype).items()}
    values = list(tensors.values())
    v, last = run(ScanInputs._make([*values[:8], tuple(case.directions), case.softplus]), *values[8:])
    generator = torch.Generator().manual_seed(case.seed + 1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype) for x in (v, last)]
    total = (v * weights[0]).sum() + (last * weights[1]).sum()
    gradients = torch.autograd.grad(total, list(tensors.values()))
    named = {f"gradient of {name}": x for name, x in zip(tensors, gradients, strict=True)}
    return {"v": v.detach(), "last": last.detach(), **named}
