"""What the context model looks at: how much a step's prediction at one position depends on each coded position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mambaic.codec import MambaIC
from ssmctx import WindowLocalAttention
from ssmctx.entropy import coding_numerics
from ssmctx.errors import ArgumentError


@dataclass(frozen=True)
class ReceptiveField:
    """Gradient magnitudes over the latent, (H, W) each.

    Attributes:
        mean: of the predicted means.
        scale: of the predicted scales.
        window: rows and columns of the attention window around the position, or None without attention.
    """

    mean: Tensor
    scale: Tensor
    window: tuple[slice, slice] | None


def receptive_field(
    model: MambaIC, x: Tensor, step: int, position: tuple[int, int], attention: bool = True
) -> ReceptiveField:
    r"""Effective receptive field of one coding step at one latent position.

    $$ g_{ij} = \Big(\sum_{c, c'} (\partial \mu_{c, row, column} / \partial \hat y_{c', i, j})^2\Big)^{1/2} $$

    and the same for the scale, where y_hat is what the coding loop shows the context at that step. It is exactly zero
    where nothing is coded yet.

    Args:
        model: the codec.
        x: image (1, 3, H, W) in [0, 1].
        step: coding step.
        position: (row, column) of the latent.
        attention: False takes the window attention out, with all other weights as they are.

    Raises:
        ArgumentError: the position lies outside the latent, is not coded by the step, or the step reads no latent.

    Source:
        MambaIC figures 7, A1 and A2 show attention maps; these are gradients, after Luo et al., 2016.
    """
    context = model.latent_codec.context
    y_hat, side = _shown(model, x, step)
    height, width = y_hat.shape[2:]
    row, column = position
    if not (0 <= row < height and 0 <= column < width):
        raise ArgumentError(f"position {position} lies outside the latent of {height} x {width} cells")
    if not context.order.positions(step, (height, width))[row, column]:
        raise ArgumentError(
            f"step {step} does not code position {position}: choose a neighbour, or the slice's other step"
        )
    y_hat = y_hat.requires_grad_()
    with coding_numerics(context), _attention(context, attention), torch.enable_grad():
        predicted = context(step, y_hat, side)
        fields = [_sensitivity(out[0, :, row, column], y_hat) for out in predicted]
    if all(field is None for field in fields):
        raise ArgumentError(
            f"step {step} reads nothing of the latent: choose a later slice, or non-anchors, of a context model"
        )
    mean, scale = (torch.zeros(height, width) if field is None else field for field in fields)
    sizes = [m.window_size for m in context.modules() if isinstance(m, WindowLocalAttention)]
    if not attention or not sizes:
        return ReceptiveField(mean, scale, None)
    rows, columns = (slice(i - i % sizes[0], i - i % sizes[0] + sizes[0]) for i in position)
    return ReceptiveField(mean, scale, (rows, columns))


def share_within(field: Tensor, window: tuple[slice, slice]) -> float:
    """Share of all gradient magnitude that lies inside a window."""
    return float(field[window].sum() / field.sum().clamp_min(1e-30))


@torch.no_grad()
def _shown(model: MambaIC, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """y_hat and side as the coding loop shows them to the context at a step."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def note(_: Any, arguments: tuple[Any, ...]) -> None:
        index, y_hat, side = arguments[:3]
        seen[index] = y_hat.clone(), side.clone()

    order = model.latent_codec.context.order
    if not 0 <= step < order.num_steps:
        raise ArgumentError(f"step must lie in 0..{order.num_steps - 1}, got {step}")
    handle = model.latent_codec.context.register_forward_pre_hook(note)
    try:
        model(x)
    finally:
        handle.remove()
    return seen[step]


@contextmanager
def _attention(context: nn.Module, present: bool) -> Iterator[None]:
    """Window attention is a residual branch: without it a module hands on what it got."""
    modules = [] if present else list(context.modules())
    removed = [
        (module, name, child)
        for module in modules
        for name, child in module.named_children()
        if isinstance(child, WindowLocalAttention)
    ]
    for module, name, _ in removed:
        setattr(module, name, nn.Identity())
    try:
        yield
    finally:
        for module, name, child in removed:
            setattr(module, name, child)


def _sensitivity(outputs: Tensor, y_hat: Tensor) -> Tensor | None:
    """Norm of the Jacobian of some outputs at every position; None where they do not depend on y_hat."""
    if not outputs.requires_grad:
        return None
    squares = torch.zeros(y_hat.shape[2:])
    for value in outputs:
        (gradient,) = torch.autograd.grad(value, y_hat, retain_graph=True, allow_unused=True)
        if gradient is None:
            return None
        squares += gradient[0].square().sum(0).cpu()
    return squares.sqrt()
