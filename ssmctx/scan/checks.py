"""Checks of shapes and values that a scan is given."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssmctx.errors import ArgumentError, NonFiniteError, ShapeError

__all__ = ["check_shapes", "check_values", "under_transforms"]


def under_transforms() -> bool:
    """Whether a transform of `torch.func` (grad, vmap, jvp, ...) is running."""
    return bool(torch._C._are_functorch_transforms_active())


def check_shapes(
    expected: Mapping[str, tuple[Tensor, tuple[int, ...]]], u: Tensor, owner: str = "", **counts: int
) -> None:
    """Check tensors by name against the shape that each must have; u and the counts are what the shapes follow from.

    Raises:
        ShapeError: a tensor has another shape.
    """
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            given = ", ".join([f"u {tuple(u.shape)}", *(f"{count} {what}" for what, count in counts.items())])
            raise ShapeError(f"{owner}{name} must be {shape} for {given}, got {tuple(tensor.shape)}")


def check_values(A: Tensor, u: Tensor, **others: Tensor) -> None:
    """Check that all tensors are real, on u's device and finite, and A negative.

    Values are not looked at while torch compiles or traces, and under the transforms of `torch.func`.

    Raises:
        ArgumentError: a tensor is on another device or of no floating type, or A has a value that is not negative.
        NonFiniteError: a tensor holds NaN or an infinity.
    """
    for name, x in {"u": u, "A": A, **others}.items():
        if not x.is_floating_point():
            raise ArgumentError(f"{name} must be of a real floating type, got {x.dtype} of shape {tuple(x.shape)}")
        if x.device != u.device:
            raise ArgumentError(f"{name} must be on u's device {u.device}, got {x.device} of shape {tuple(x.shape)}")
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or torch.compiler.is_compiling() or under_transforms():
        return
    for name, x in {"u": u, "A": A, **others}.items():
        if not bool(x.isfinite().all()):
            raise NonFiniteError(f"{name} must be finite, got NaN or an infinity in its {tuple(x.shape)}")
    if not bool((A < 0).all()):
        raise ArgumentError(f"A must be negative everywhere, got {A.max().item()} in its {tuple(A.shape)}")
