"""The one coding loop: every walk over a latent, to estimate, encode or decode it, is this generator."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmctx.context.base import ContextModel
from ssmctx.context.order import CodingOrder
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.stages import stage

__all__ = ["LatentScales", "Step", "coding_steps", "drive"]


@dataclass(frozen=True)
class LatentScales:
    """The scales of a whole latent, known before its first step; as numbers, or as rows of the coding tables.

    Attributes:
        scale: (batch, M, H, W), any real number; the standard deviation of the residual in quantisation steps.
        rows: (batch, M, H, W) int64, the table row of each element, where integers say it; else None.
    """

    scale: Tensor
    rows: Tensor | None = None

    def in_coding_order(self, order: CodingOrder) -> Tensor:
        """Rows, or scales where there are none, of one image, (M * H * W,), as the coder takes the elements."""
        of_each = (self.scale if self.rows is None else self.rows)[0].flatten(1)
        size = (self.scale.shape[2], self.scale.shape[3])
        steps = range(order.num_steps)
        indices = [order.indices(t, size, of_each.device) for t in steps]
        return torch.cat([order.select(t, of_each, 0).index_select(1, indices[t]).flatten() for t in steps])


@dataclass(frozen=True)
class Step:
    """What is coded at one step, and its distribution given what was coded before.

    Attributes:
        index: number of the step.
        order: the coding order that it belongs to.
        mean: (batch, m, H, W), for the m channels of the slice.
        scale: (batch, m, H, W), any real number; the standard deviation of the residual in quantisation steps.
        gain: (batch or 1, m, 1, 1), quantisation steps per unit of y; None for 1.
        ahead: the scales of the whole latent, where they are known before its first step; else None.
    """

    index: int
    order: CodingOrder
    mean: Tensor
    scale: Tensor
    gain: Tensor | None
    ahead: LatentScales | None = None

    @property
    def slice_index(self) -> int:
        """The slice that the step codes in."""
        return self.order.slice_index(self.index)

    @property
    def channels(self) -> slice | list[int]:
        """The channels of that slice, as an index into the latent's channels."""
        return self.order.channels(self.index)

    @property
    def positions(self) -> Tensor:
        """Boolean (H, W), the positions coded in each of these channels."""
        return self.order.positions(self.index, self._size, self.mean.device)

    @property
    def indices(self) -> Tensor:
        """The positions in row-major order, row * W + column, increasing, (P,) int64."""
        return self.order.indices(self.index, self._size, self.mean.device)

    @property
    def _size(self) -> tuple[int, int]:
        return self.mean.shape[2], self.mean.shape[3]

    def residual(self, y: Tensor) -> Tensor:
        """What is to be rounded of y (batch, M, H, W): (y - mean) * gain, (batch, m, H, W)."""
        return self.residual_of(self.order.select(self.index, y))

    def residual_of(self, own: Tensor) -> Tensor:
        """The same of the step's slice of y, (batch, m, H, W)."""
        residual = own - self.mean
        return residual if self.gain is None else residual * self.gain

    def value(self, q: Tensor) -> Tensor:
        """y_hat of residuals q (batch, m, H, W): q / gain + mean."""
        return (q if self.gain is None else q / self.gain) + self.mean

    def coded_with(self) -> Tensor:
        """Of each element that the step codes, in coding order, its table row where integers say it, else its scale."""
        rows = None if self.ahead is None else self.ahead.rows
        return self.gather(self.scale if rows is None else self.order.select(self.index, rows)).flatten()

    def gather(self, x: Tensor) -> Tensor:
        """What x (batch, m, H, W) holds at the step's positions, (batch, m, P)."""
        return x.flatten(2).index_select(2, self.indices)

    def scatter(self, values: Tensor) -> Tensor:
        """Values (batch, m, P) at the step's positions of a (batch, m, H, W), zero elsewhere."""
        flat = values.new_zeros(*values.shape[:2], self.mean[0, 0].numel())
        return flat.index_copy_(2, self.indices, values).view(*values.shape[:2], *self._size)

    def name(self) -> str:
        """The step in error messages."""
        channels = range(1 << 62)[self.channels] if isinstance(self.channels, slice) else self.channels
        return f"step {self.index}, channels {min(channels)} to {max(channels)}"


def coding_steps(
    context: ContextModel, side: Tensor, gain: Tensor | None = None, ahead: LatentScales | None = None
) -> Generator[Step, Tensor, Tensor]:
    """Walk a latent in coding order.

    Yields each `Step` and takes back, by `send`, the quantised residuals q of its slice, (batch, m, H, W), of which
    only the step's own positions count.
    Sets y_hat = q / gain + mean there, and after the last step of a slice lets the context refine that slice. The
    context is only ever shown a y_hat that holds what was sent in before, zero elsewhere, so that it cannot look ahead.
    Where scales are known before the first step, be it from `context.scales`, each step takes its own from there.

    Args:
        context: the context model.
        side: side information (batch, 2M, H, W).
        gain: quantisation steps per unit of y, (batch or 1, M, 1, 1); None for 1.
        ahead: all scales, in quantisation steps, in place of the context's.

    Returns:
        The whole y_hat, (batch, M, H, W).

    Raises:
        ArgumentError: the context returns something else than mean and scale.
        ShapeError: mean, scale or a refined slice has another shape than the step's slice.
    """
    order = context.order
    batch, _, height, width = side.shape
    slices = [side.new_zeros(batch, channels, height, width) for channels in order.slices]
    y_hat = order.join(slices)
    with stage("context"):
        state = context.begin(side)
        if ahead is None and (scales := context.scales(side, state)) is not None:
            _check_shape(context, "scales", "tensor", y_hat.shape, scales)
            ahead = LatentScales(scales if gain is None else scales * gain)
    gains = [None] * len(slices) if gain is None else order.split(gain)
    scales_ahead = None if ahead is None else order.split(ahead.scale)
    for index in range(order.num_steps):
        k = order.slice_index(index)
        with stage("context", index):
            predicted = context(index, y_hat, side, state)
        mean, scale = _checked(context, index, slices[k].shape, predicted)
        if scales_ahead is not None:
            scale = scales_ahead[k]
        elif (own_gain := gains[k]) is not None:
            scale = scale * own_gain
        step = Step(index, order, mean, scale, gains[k], ahead)
        q = yield step
        slices[k] = torch.where(step.positions, step.value(q), slices[k])
        y_hat = order.join(slices)
        if order.ends_slice(index):
            with stage("context", index):
                refined = context.refine(index, y_hat, side, state)
            if refined is not None:
                _check_shape(context, f"step {index}, refine", "slice", slices[k].shape, refined)
                slices[k] = refined
                y_hat = order.join(slices)
    return y_hat


def drive(steps: Generator[Step, Tensor, Tensor], quantised: Callable[[Step], Tensor]) -> Tensor:
    """Run the coding loop to its end; `quantised` gives the residuals q of each step. Returns y_hat."""
    try:
        step = next(steps)
        while True:
            step = steps.send(quantised(step))
    except StopIteration as end:
        y_hat: Tensor = end.value
        return y_hat


def _checked(context: ContextModel, step: int, shape: torch.Size, predicted: object) -> tuple[Tensor, Tensor]:
    name = type(context).__name__
    if not isinstance(predicted, (tuple, list)) or len(predicted) != 2:
        came = f"{len(predicted)} values" if isinstance(predicted, (tuple, list)) else type(predicted).__name__
        raise ArgumentError(f"{name}: step {step} must return mean and scale, got {came}")
    for what, x in zip(("mean", "scale"), predicted, strict=True):
        _check_shape(context, f"step {step}", what, shape, x)
    mean, scale = predicted
    return mean, scale


def _check_shape(context: ContextModel, where: str, what: str, shape: torch.Size, x: object) -> None:
    if not isinstance(x, Tensor) or x.shape != shape:
        came = str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"{type(context).__name__}: {where} must return a {what} of shape {tuple(shape)}, got {came}")
