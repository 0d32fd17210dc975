"""The one coding loop: every walk over a latent, to estimate, encode or decode it, is this generator."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ssmctx.context.base import ContextModel
from ssmctx.context.order import CodingOrder
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.stages import stage

__all__ = ["Step", "coding_steps", "drive", "in_coding_order"]

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Step:
    """What is coded at one step, and its distribution given what was coded before.

    Attributes:
        index: number of the step.
        order: the coding order that it belongs to.
        mean: (batch, m, H, W), for the m channels of the slice.
        scale: (batch, m, H, W), any real number; the standard deviation of the residual in quantisation steps.
        gain: (batch or 1, m, 1, 1), quantisation steps per unit of y; None for 1.
        ahead: the scales of the whole latent, (batch, M, H, W), where a context knows them before its first step.
    """

    index: int
    order: CodingOrder
    mean: Tensor
    scale: Tensor
    gain: Tensor | None
    ahead: Tensor | None = None

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


def in_coding_order(x: Tensor, order: CodingOrder) -> Tensor:
    """What x (1, M, H, W) holds of one image, (M * H * W,), as the coder takes the elements."""
    steps, size = range(order.num_steps), (x.shape[2], x.shape[3])
    indices = [order.indices(t, size, x.device) for t in steps]
    return torch.cat([order.select(t, x).flatten(2).index_select(2, indices[t]).flatten() for t in steps])


def coding_steps(context: ContextModel, side: Tensor, gain: Tensor | None = None) -> Generator[Step, Tensor, Tensor]:
    """Walk a latent in coding order.

    Yields each `Step` and takes back, by `send`, the quantised residuals q of its slice, (batch, m, H, W), of which
    only the step's own positions count.
    Sets y_hat = q / gain + mean there, and after the last step of a slice lets the context refine that slice. The
    context is only ever shown a y_hat that holds what was sent in before, zero elsewhere, so that it cannot look ahead.
    Where `context.scales` gives all scales before the first step, each step takes its own from there.

    Args:
        context: the context model.
        side: side information (batch, 2M, H, W).
        gain: quantisation steps per unit of y, (batch or 1, M, 1, 1); None for 1.

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
        ahead = context.scales(side, state)
        if ahead is not None:
            _check_shape(context, "scales", "tensor", y_hat.shape, ahead)
            ahead = ahead if gain is None else ahead * gain
    gains = [None] * len(slices) if gain is None else order.split(gain)
    scales_ahead = None if ahead is None else order.split(ahead)
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


def drive(steps: Generator[S, Tensor, R], quantised: Callable[[S], Tensor]) -> R:
    """Run a coding loop to its end.

    Args:
        steps: the loop, such as `coding_steps` gives.
        quantised: what is sent back for each step: its residuals q.

    Returns:
        What the loop returns; y_hat of `coding_steps`.

    Examples:
        >>> import torch
        >>> from ssmctx import ChannelSpatialContext
        >>> from ssmctx.entropy.steps import coding_steps, drive
        >>> context, y = ChannelSpatialContext(M=10), torch.randn(1, 10, 4, 6)
        >>> with torch.no_grad():
        ...     y_hat = drive(coding_steps(context, torch.zeros(1, 20, 4, 6)), lambda step: step.residual(y).round())
        >>> bool(((y_hat - y).abs() <= 0.5001).all())
        True
    """
    try:
        step = next(steps)
        while True:
            step = steps.send(quantised(step))
    except StopIteration as end:
        result: R = end.value
        return result


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
