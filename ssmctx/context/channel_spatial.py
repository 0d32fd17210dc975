"""The channel-spatial context model of MambaIC, in the layout of the paper's table A1, and with parts left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ssmctx.context.base import ContextModel
from ssmctx.context.head import ParameterHead
from ssmctx.context.order import CodingOrder, check_order, even_slices
from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_positive
from ssmctx.layers.foundation import foundation_block
from ssmctx.layers.windows import WindowGrid
from ssmctx.registry import blocks

__all__ = ["ChannelSpatialContext"]

_SLICES = 5


@dataclass
class ChannelSpatialState:
    """What the coding steps of one latent share.

    Attributes:
        side: the side information, cut into windows.
        padded: which positions of the windows lie outside the latent, as `WindowGrid.padded` gives it.
        channel: of the slice at hand, the channel feature in windows, and the slice's index.
    """

    side: Tensor
    padded: Tensor | None
    channel: tuple[int, Tensor] | None = None


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
        order: any other coding order of M channels, instead of num_slices, slices and spatial.
        block: what the features are made with, a name from `ssmctx.registry.blocks`.
        attention_width: channels that attend, projected from all 2M + 4m features and back; None, the paper's, for all.

    Raises:
        ArgumentError: M is no multiple of num_slices, slices do not add up to M, the order has another number of
            channels or comes with what it replaces, a size is below 1, or there is a width but no attention.
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
        num_slices: int | None = None,
        window_size: int | None = 8,
        d_state: int = 16,
        scan_backend: str = "auto",
        slices: Sequence[int] | None = None,
        spatial: bool | None = None,
        block: str = "vss",
        order: CodingOrder | None = None,
        attention_width: int | None = None,
    ) -> None:
        check_positive("ChannelSpatialContext", M=M)
        if attention_width is not None:
            check_positive("ChannelSpatialContext", attention_width=attention_width)
            if window_size is None:
                raise ArgumentError("ChannelSpatialContext: attention_width needs attention: give a window_size, too")
        blocks.get(block)  # which a context of one slice and one pass would not ask for
        super().__init__(_order(M, num_slices, slices, spatial, order))
        slices, self._spatial = self.order.slices, self.order.passes > 1

        def feature(channels: int, m: int) -> nn.Module:
            network = foundation_block(block, channels, d_state=d_state, scan_backend=scan_backend)
            return nn.Sequential(network, nn.Conv2d(channels, 2 * m, 3, padding=1))

        def head(m: int) -> ParameterHead:
            return ParameterHead((4 if self._spatial else 2) * m + 2 * M, m, window_size, attention_width)

        self.first_channel = nn.Parameter(torch.zeros(2 * slices[0]))
        self.channel = nn.ModuleList(feature(sum(slices[:k]), m) for k, m in enumerate(slices) if k)
        self.spatial = nn.ModuleList(feature(m, m) for m in slices if self._spatial)
        self.head = nn.ModuleList(map(head, slices))
        self._window_size = cast(ParameterHead, self.head[0]).window_size

    def begin(self, side: Tensor) -> ChannelSpatialState:
        """The side information in windows; see `ContextModel.begin`."""
        grid = self._grid(side)
        # contiguous once, as the features that it is put beside at each step
        return ChannelSpatialState(grid.split(side).contiguous(), grid.padded(side.device))

    def forward(
        self, step: int, y_hat: Tensor, side: Tensor, state: ChannelSpatialState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`; see `ContextModel.forward`."""
        self.check_inputs(y_hat, side)
        k = self.order.slice_index(step)
        grid = self._grid(side)
        state = self.begin(side) if state is None else state
        if state.channel is None or state.channel[0] != k or self.order.passes_outer:
            state.channel = k, grid.split(self._channel_feature(step, y_hat))
        features = [state.channel[1], state.side]
        if self._spatial:
            features.insert(0, grid.split(self._spatial_feature(step, y_hat)))
        indices = self.order.window_indices(step, grid.size, y_hat.device)
        # one per image, because DataParallel splits every tensor along the batch
        padded, indices = (x if x is None else x.expand(y_hat.shape[0], *x.shape) for x in (state.padded, indices))
        mean, scale = self.head[k](features, grid, padded, indices).chunk(2, dim=1)
        return mean, scale

    def _grid(self, x: Tensor) -> WindowGrid:
        """The windows of all heads, for an x of this height and width."""
        return WindowGrid(x.shape[2], x.shape[3], self._window_size)

    def _channel_feature(self, step: int, y_hat: Tensor) -> Tensor:
        k = self.order.slice_index(step)
        if k == 0:
            batch, _, height, width = y_hat.shape
            return self.first_channel[:, None, None].expand(batch, -1, height, width)
        feature: Tensor = self.channel[k - 1](self.coded_slices(step, y_hat))
        return feature

    def _spatial_feature(self, step: int, y_hat: Tensor) -> Tensor:
        anchors = self.coded_anchors(step, y_hat)
        if self.order.is_anchor(step):
            return torch.cat([anchors, anchors], dim=1)
        feature: Tensor = self.spatial[self.order.slice_index(step)](anchors)
        return feature


def _order(
    M: int, num_slices: int | None, slices: Sequence[int] | None, spatial: bool | None, order: CodingOrder | None
) -> CodingOrder:
    """The coding order that the arguments of `ChannelSpatialContext` ask for."""
    name = "ChannelSpatialContext"
    if order is not None:
        return check_order(name, M, order, num_slices=num_slices, slices=slices, spatial=spatial)
    if slices is None:
        num_slices = _SLICES if num_slices is None else num_slices
        check_positive(name, num_slices=num_slices)
        slices = even_slices(name, M, num_slices)
    elif num_slices is not None:
        raise ArgumentError(f"{name}: slices replace num_slices: give one of them")
    elif sum(slices) != M:
        raise ArgumentError(f"{name}: slices must add up to M={M}, got {list(slices)}")
    return CodingOrder.one_pass(slices) if spatial is False else CodingOrder.checkerboard(slices)
