"""The channel-spatial context model of MambaIC, in the layout of the paper's table A1, and with parts left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssmctx.context.base import ContextModel
from ssmctx.context.head import ParameterHead, checkerboard_indices
from ssmctx.context.order import CodingOrder, even_slices
from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_positive
from ssmctx.layers.foundation import foundation_block

__all__ = ["ChannelSpatialContext"]


class ChannelSpatialContext(ContextModel):
    r"""Predicts each slice from earlier slices, its anchors and the hyperprior.

    $$ \phi_{ch} = \mathrm{Conv}(\mathrm{VSS}(\hat y_{<k})), \quad
    \phi_{sp} = \mathrm{Conv}(\mathrm{VSS}(\hat y_k^{anchors})), \quad
    (\mu, \sigma) = \mathrm{head}(\mathrm{WLA}([\phi_{sp}, \phi_{ch}, \mathrm{side}])) $$

    The first slice has a learned constant for the channel feature, anchors have zero for the spatial one; one set of
    weights serves both passes of a slice. What is not coded yet never enters: slices by indexing, non-anchors by
    selection, so even a NaN there changes nothing.

    Args:
        M: channels of the latent.
        num_slices: slices K, of equal width m = M / K, unless `slices` says otherwise.
        window_size: side of the attention windows, in latent positions; None leaves the attention out.
        d_state: states of VSS blocks.
        scan_backend: of VSS blocks, a name from `ssmctx.registry.scan_backends`, or "auto".
        slices: width of each slice, with the sum M; they may differ.
        spatial: whether a slice is coded in two passes, the second with the spatial feature; otherwise in one.
        block: what the features are made with, a name from `ssmctx.registry.blocks`.

    Shape:
        forward(step, y_hat, side): y_hat (batch, M, H, W), side (batch, 2M, H, W) to mean and scale, each (batch, m, H,
        W), m the width of the step's slice.

    Raises:
        ArgumentError: M is no multiple of num_slices, slices do not add up to M, or a size is below 1.
        ShapeError: y_hat or side has a shape that does not fit.
        UnknownNameError: an unknown block.

    Source:
        MambaIC section 3.2, equations 12-14, table A1; parts left out as in its tables 2, 3, 4 and A2. The head, two
        1x1 convolutions around a GELU, is ours: the paper gives its output only.

    Examples:
        >>> import torch
        >>> from ssmctx import ChannelSpatialContext
        >>> context = ChannelSpatialContext(M=20, num_slices=5)
        >>> mean, scale = context(3, torch.zeros(1, 20, 6, 4), torch.zeros(1, 40, 6, 4))
        >>> mean.shape
        torch.Size([1, 4, 6, 4])
    """

    def __init__(
        self,
        M: int = 320,
        num_slices: int = 5,
        window_size: int | None = 8,
        d_state: int = 16,
        scan_backend: str = "auto",
        slices: Sequence[int] | None = None,
        spatial: bool = True,
        block: str = "vss",
    ) -> None:
        check_positive("ChannelSpatialContext", M=M, num_slices=num_slices)
        if slices is None:
            slices = even_slices("ChannelSpatialContext", M, num_slices)
        elif sum(slices) != M:
            raise ArgumentError(f"ChannelSpatialContext: slices must add up to M={M}, got {list(slices)}")
        super().__init__(CodingOrder(slices, passes=2 if spatial else 1))

        def feature(channels: int, m: int) -> nn.Module:
            made = foundation_block(block, channels, d_state=d_state, scan_backend=scan_backend)
            return nn.Sequential(made, nn.Conv2d(channels, 2 * m, 3, padding=1))

        def head(m: int) -> ParameterHead:
            return ParameterHead((4 if spatial else 2) * m + 2 * M, m, window_size)

        self.first_channel = nn.Parameter(torch.zeros(2 * slices[0]))
        self.channel = nn.ModuleList(feature(sum(slices[:k]), m) for k, m in enumerate(slices) if k)
        self.spatial = nn.ModuleList(feature(m, m) for m in slices if spatial)
        self.head = nn.ModuleList(map(head, slices))

    def forward(
        self, step: int, y_hat: Tensor, side: Tensor, memo: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`; see `ContextModel.forward`."""
        self.check_inputs(y_hat, side)
        k = self.order.slice_index(step)
        head = cast(ParameterHead, self.head[k])
        grid = head.grid(y_hat.shape[2], y_hat.shape[3])
        memo = {} if memo is None else memo
        if "side" not in memo:
            memo.update(side=grid.split(side), padded=grid.padded(side.device))
        if memo.get("slice") != k:
            memo.update(slice=k, channel=grid.split(self._channel_feature(k, y_hat)))
        features, indices = [memo["channel"], memo["side"]], None
        if self.spatial:
            features.insert(0, grid.split(self._spatial_feature(step, y_hat)))
            indices = checkerboard_indices(grid.size, 0 if self.order.is_anchor(step) else 1, y_hat.device)
        mean, scale = head(features, grid, memo["padded"], indices).chunk(2, dim=1)
        return mean, scale

    def _channel_feature(self, k: int, y_hat: Tensor) -> Tensor:
        if k == 0:
            batch, _, height, width = y_hat.shape
            return self.first_channel[:, None, None].expand(batch, -1, height, width)
        feature: Tensor = self.channel[k - 1](y_hat[:, : sum(self.order.slices[:k])])
        return feature

    def _spatial_feature(self, step: int, y_hat: Tensor) -> Tensor:
        anchors = self.coded_anchors(step, y_hat)
        if self.order.is_anchor(step):
            return torch.cat([anchors, anchors], dim=1)
        feature: Tensor = self.spatial[self.order.slice_index(step)](anchors)
        return feature
