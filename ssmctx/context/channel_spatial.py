"""The channel-spatial context model of MambaIC, in the layout of the paper's table A1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.context.base import ContextModel
from ssmctx.context.order import CodingOrder
from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_positive
from ssmctx.layers.vss import VSSBlock
from ssmctx.layers.window_attention import WindowLocalAttention

__all__ = ["ChannelSpatialContext"]


class ChannelSpatialContext(ContextModel):
    r"""Predicts each slice from earlier slices, its anchors and the hyperprior.

    $$ \phi_{ch} = \mathrm{Conv}(\mathrm{VSS}(\hat y_{<k})), \quad
    \phi_{sp} = \mathrm{Conv}(\mathrm{VSS}(\hat y_k^{anchors})), \quad
    (\mu, \sigma) = \mathrm{head}(\mathrm{WLA}([\phi_{sp}, \phi_{ch}, \mathrm{side}])) $$

    The first slice has a learned constant for the channel feature, anchors have zero for the spatial one; one set of
    weights serves both passes of a
    slice. What is not coded yet never enters: slices by indexing, non-anchors by selection, so even a NaN there changes
    nothing.

    Args:
        M: channels of the latent.
        num_slices: slices K, of equal width m = M / K.
        window_size: side of the attention windows, in latent positions.
        d_state: states of the VSS blocks.
        scan_backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Shape:
        forward(step, y_hat, side): y_hat (batch, M, H, W), side (batch, 2M, H, W) to mean and scale, each (batch, m, H,
        W).

    Raises:
        ArgumentError: M is no multiple of num_slices, or a size is below 1.
        ShapeError: y_hat or side has a shape that does not fit.

    Source:
        MambaIC section 3.2, equations 12-14, table A1. The head, two 1x1 convolutions around a GELU, is ours: the paper
        gives its output only.

    Example:
        >>> context = ChannelSpatialContext(M=20, num_slices=5)
        >>> mean, scale = context(3, torch.zeros(1, 20, 6, 4), torch.zeros(1, 40, 6, 4))
        >>> mean.shape
        torch.Size([1, 4, 6, 4])
    """

    def __init__(
        self, M: int = 320, num_slices: int = 5, window_size: int = 8, d_state: int = 16, scan_backend: str = "auto"
    ) -> None:
        check_positive("ChannelSpatialContext", M=M, num_slices=num_slices, window_size=window_size)
        if M % num_slices:
            raise ArgumentError(
                f"ChannelSpatialContext: M must be a multiple of num_slices, got M={M}, num_slices={num_slices}"
            )
        m = M // num_slices
        super().__init__(CodingOrder([m] * num_slices))

        def feature(channels: int) -> nn.Module:
            vss = VSSBlock(channels, d_state=d_state, scan_backend=scan_backend)
            return nn.Sequential(vss, nn.Conv2d(channels, 2 * m, 3, padding=1))

        def head(channels: int) -> nn.Module:
            attention = WindowLocalAttention(channels, window_size)
            return nn.Sequential(attention, nn.Conv2d(channels, 4 * m, 1), nn.GELU(), nn.Conv2d(4 * m, 2 * m, 1))

        self.first_channel = nn.Parameter(torch.zeros(2 * m))
        self.channel = nn.ModuleList(feature(k * m) for k in range(1, num_slices))
        self.spatial = nn.ModuleList(feature(m) for _ in range(num_slices))
        self.head = nn.ModuleList(head(4 * m + 2 * M) for _ in range(num_slices))

    def forward(
        self, step: int, y_hat: Tensor, side: Tensor, memo: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`; see `ContextModel.forward`."""
        self.check_inputs(y_hat, side)
        k = self.order.slice_index(step)
        memo = {} if memo is None else memo
        if memo.get("slice") != k:
            memo.update(slice=k, channel=self._channel_feature(k, y_hat))
        channel = memo["channel"]
        if self.order.is_anchor(step):
            spatial = torch.zeros_like(channel)
        else:
            anchors = self.order.positions(step - 1, (y_hat.shape[2], y_hat.shape[3]), y_hat.device)
            spatial = self.spatial[k](y_hat[:, self.order.channels(step)].where(anchors, 0))
        mean, scale = self.head[k](torch.cat([spatial, channel, side], dim=1)).chunk(2, dim=1)
        return mean, scale

    def _channel_feature(self, k: int, y_hat: Tensor) -> Tensor:
        if k == 0:
            batch, _, height, width = y_hat.shape
            return self.first_channel[:, None, None].expand(batch, -1, height, width)
        feature: Tensor = self.channel[k - 1](y_hat[:, : self.order.channels(2 * k).start])
        return feature
