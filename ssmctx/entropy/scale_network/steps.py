"""The walk of a scale network over a latent: scales of each step, from the symbols of the steps before."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssmctx.entropy.gains import Gain
from ssmctx.entropy.steps import Step, drive

__all__ = ["ScaleState", "ScaleWalk", "StepScales", "known_scales", "scale_steps"]


@dataclass
class ScaleState:
    """What a `ScaleNetwork` knows before a coding step.

    Attributes:
        symbols: of z, (batch, hyper_channels, h, w), integers.
        gain: of the quality.
        size: height and width of y.
        frozen: use what `update` made, as coding must, not the weights of now.
        features: the carried feature map, (batch, H * W, width); None before the first step.
        taken: groups of steps that have been added to it.
    """

    symbols: Tensor
    gain: Gain
    size: tuple[int, int]
    frozen: bool = False
    features: Tensor | None = None
    taken: int = 0


@dataclass(frozen=True)
class StepScales:
    """What the elements of one step are coded with.

    Attributes:
        index: number of the step.
        values: (batch, m, P), for the m channels of the step's slice and its P positions in row-major order. Table
            rows, int32, where frozen integers give them; else standard deviations in quantisation steps.
    """

    index: int
    values: Tensor


def scale_steps(
    network: Any, symbols: Tensor, gain: Gain, size: Sequence[int], frozen: bool = False
) -> Generator[StepScales, Tensor, None]:
    """Walk a latent in coding order for its scales alone.

    Yields each `StepScales` and takes back, by `send`, the residuals q of the same elements, (batch, m, P), of any
    dtype. The network is only ever shown what was sent in before.

    Args:
        network: a `ScaleNetwork`.
        symbols: of z, (batch, hyper_channels, h, w), integers.
        gain: of the quality.
        size: height and width of y.
        frozen: use what `update` made, as coding must.
    """
    order, height, width = network.order, *size
    state = ScaleState(symbols, gain, (height, width), frozen)
    residuals = [symbols.new_zeros(len(symbols), channels, height * width) for channels in order.slices]
    for step in range(order.num_steps):
        k = order.slice_index(step)
        q = yield network(step, [x.view(*x.shape[:2], height, width) for x in residuals], state)
        indices = order.indices(step, (height, width), q.device)
        # in place, for a decoder's sake, where no gradient needs what was before
        put = residuals[k].index_copy if q.requires_grad or residuals[k].requires_grad else residuals[k].index_copy_
        residuals[k] = put(2, indices, q.to(symbols))


class ScaleWalk:
    """`scale_steps` of an encoder, step by step with the context.

    Args:
        network: a `ScaleNetwork`; None leaves all scales to the context.
        symbols: of z.
        gain: of the quality.
        size: height and width of y.

    Attributes:
        now: scales of the next step; None without a network.
    """

    def __init__(self, network: Any, symbols: Tensor, gain: Gain, size: Sequence[int]) -> None:
        self._network = network
        self._steps = None if network is None else scale_steps(network, symbols, gain, size, frozen=True)
        self.now = None if self._steps is None else next(self._steps)

    def scale(self, step: Step) -> Tensor:
        """The scale that a step is coded with, (batch, m, H, W)."""
        if self.now is None:
            return step.scale
        values = self.now.values
        scales = values if values.is_floating_point() else self._network.grid.tensor(step.scale)[values]
        return step.scatter(scales.to(step.scale))

    def advance(self, step: Step, q: Tensor) -> None:
        """Go on after the residuals q of a step, (batch, m, H, W)."""
        if self._steps is not None:
            with suppress(StopIteration):  # after the last step
                self.now = self._steps.send(step.gather(q))


def known_scales(
    network: Any, symbols: Tensor, gain: Gain, residuals: Mapping[int, Tensor], whole: bool
) -> dict[int, Tensor]:
    """The scales of a latent whose residuals are known.

    Args:
        network: a `ScaleNetwork`.
        symbols: of z, (batch, hyper_channels, h, w), integers.
        gain: of the quality.
        residuals: by slices, (batch, m, H, W).
        whole: round the residuals, without a gradient.

    Returns:
        Scales by slices, (batch, m, H, W).
    """
    order, (height, width) = network.order, residuals[0].shape[2:]
    scales = {k: torch.ones_like(residual).flatten(2) for k, residual in residuals.items()}

    def known(own: StepScales) -> Tensor:
        k = order.slice_index(own.index)
        indices = order.indices(own.index, (height, width), symbols.device)
        scales[k] = scales[k].index_copy(2, indices, own.values)
        q = residuals[k].flatten(2).index_select(2, indices)
        return torch.round(q.detach()) if whole else q

    drive(scale_steps(network, symbols, gain, (height, width)), known)
    return {k: scale.view_as(residuals[k]) for k, scale in scales.items()}
