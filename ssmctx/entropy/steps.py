"""The one coding loop: every walk over a latent, to estimate, encode or decode it, is this generator."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssmctx.context.base import ContextModel

__all__ = ["Step", "coding_steps", "drive"]


@dataclass(frozen=True)
class Step:
    """What is coded at one step, and its distribution given what was coded before.

    Attributes:
        index: number of the step.
        channels: the slice of channels that the step codes in.
        positions: boolean (H, W), the positions coded in each of these channels.
        places: (P,), the same as row-major numbers: row * W + column, increasing.
        mean: (batch, m, H, W), for the m channels of the slice.
        scale: as `mean`, any real number.
    """

    index: int
    channels: slice
    positions: Tensor
    places: Tensor
    mean: Tensor
    scale: Tensor

    def gather(self, x: Tensor) -> Tensor:
        """What x (batch, m, H, W) holds at the step's positions, (batch, m, P)."""
        return x.flatten(2).index_select(2, self.places)

    def scatter(self, values: Tensor) -> Tensor:
        """Values (batch, m, P) at the step's positions of a (batch, m, H, W), zero elsewhere."""
        flat = values.new_zeros(*values.shape[:2], self.positions.numel())
        return flat.index_copy_(2, self.places, values).view(*values.shape[:2], *self.positions.shape)


def coding_steps(context: ContextModel, side: Tensor) -> Generator[Step, Tensor, Tensor]:
    """Walk a latent in coding order.

    Yields each `Step` and takes back, by `send`, the quantised residuals q of its slice, (batch, m, H, W), of which
    only the step's own positions count.
    Sets y_hat = q + mean there, and after the last step of a slice lets the context refine that slice. The context is
    only ever shown a y_hat that holds what was sent in before, zero elsewhere, so that it cannot look ahead.

    Args:
        context: the context model.
        side: side information (batch, 2M, H, W).

    Returns:
        The whole y_hat, (batch, M, H, W).
    """
    order = context.order
    batch, _, height, width = side.shape
    y_hat = side.new_zeros(batch, order.num_channels, height, width)
    memo: dict[str, Any] = {}
    for index in range(order.num_steps):
        channels = order.channels(index)
        positions = order.positions(index, (height, width))
        places = positions.flatten().nonzero().flatten()  # counted on the host, so that no GPU is waited for
        positions, places = positions.to(side.device), places.to(side.device)
        mean, scale = context(index, y_hat, side, memo)
        q = yield Step(index, channels, positions, places, mean, scale)
        coded = torch.where(positions, q + mean, y_hat[:, channels])
        y_hat = y_hat.slice_scatter(coded, 1, channels.start, channels.stop)
        if index + 1 == order.num_steps or order.channels(index + 1) != channels:
            refined = context.refine(index, y_hat, side, memo)
            if refined is not None:
                y_hat = y_hat.slice_scatter(refined, 1, channels.start, channels.stop)
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
