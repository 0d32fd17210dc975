"""Any context with its scales first: all of them from side information, before anything of y is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ssmctx.context.base import MOST_LOG_SCALE, ContextModel, scaled
from ssmctx.context.carried_state import CarriedStateContext

__all__ = ["ScaleFirst", "carried_state_scale_first"]


@dataclass
class ScaleFirstState:
    """What the coding steps of one latent share.

    Attributes:
        scales: of the whole latent.
        of_means: the state of the context that gives the means.
    """

    scales: Tensor
    of_means: Any


class ScaleFirst(ContextModel):
    r"""A context whose scales come from side information alone; the means are those of another context.

    $$ \log\sigma = \mathrm{side}_{M \ldots 2M} + f(\mathrm{side}), \quad
    \mu_t = \mathrm{context}_t(\hat y_{<t}, \mathrm{side}) $$

    All symbols of y are then decoded in one call, and the network never waits for the coder. Scales cannot learn from
    what was decoded, which costs rate. They are floating-point numbers still, so files hold a guard; those of
    `ssmctx.entropy.ScaleNetwork` are integers.

    Args:
        context: what gives the means; its scales are not used.
        network: f, from side information (batch, 2M, H, W) to corrections of log scales (batch, M, H, W); default two
            1x1 convolutions around a ReLU, which begin as zero.

    Source:
        Scales before means as in JPEG AI (ISO/IEC 6048-1) and DCVC-UF.

    Examples:
        >>> import torch
        >>> from ssmctx import ChannelSpatialContext
        >>> from ssmctx.context import ScaleFirst
        >>> context = ScaleFirst(ChannelSpatialContext(M=20, num_slices=5))
        >>> side = torch.randn(1, 40, 6, 4)
        >>> mean, scale = context(3, torch.zeros(1, 20, 6, 4), side)
        >>> mean.shape, torch.equal(scale, context.scales(side)[:, 4:8])
        (torch.Size([1, 4, 6, 4]), True)
    """

    def __init__(self, context: ContextModel, network: nn.Module | None = None) -> None:
        super().__init__(context.order)
        self.context = context
        self.network = _correction(context.order.num_channels) if network is None else network

    def begin(self, side: Tensor) -> ScaleFirstState:
        """All scales, and the other context's state; see `ContextModel.begin`."""
        return ScaleFirstState(self.scales(side), self.context.begin(side))

    def scales(self, side: Tensor, state: ScaleFirstState | None = None) -> Tensor:
        """The scales of the whole latent; see `ContextModel.scales`."""
        if state is not None:
            return state.scales
        log_scale: Tensor = side.chunk(2, dim=1)[1] + self.network(side)
        return log_scale.clamp(max=MOST_LOG_SCALE).exp()

    def forward(
        self, step: int, y_hat: Tensor, side: Tensor, state: ScaleFirstState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`; see `ContextModel.forward`."""
        self.check_inputs(y_hat, side)
        mean, _ = self.context(step, y_hat, side, None if state is None else state.of_means)
        return mean, self.order.select(step, self.scales(side, state))

    def refine(self, step: int, y_hat: Tensor, side: Tensor, state: ScaleFirstState | None = None) -> Tensor | None:
        """As the other context refines; see `ContextModel.refine`."""
        return self.context.refine(step, y_hat, side, None if state is None else state.of_means)


def carried_state_scale_first(
    M: int = 320, num_slices: int | None = None, dim: int = 128, spread: Sequence[float] | None = None
) -> ScaleFirst:
    """`CarriedStateContext` for the means, all scales first."""
    return ScaleFirst(CarriedStateContext(M, num_slices, dim, spread=spread))


def _correction(M: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2 * M, M, 1), nn.ReLU(), scaled(nn.Conv2d(M, M, 1), 0.0))
