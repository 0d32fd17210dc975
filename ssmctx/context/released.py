"""The context model in the layout that MambaIC's authors released, which differs from the paper's table A1."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssmctx.context.base import ContextModel
from ssmctx.context.order import CodingOrder, even_slices
from ssmctx.layers.checkerboard import CheckerboardConv2d
from ssmctx.layers.checks import check_positive
from ssmctx.layers.gated_attention import GatedAttention
from ssmctx.layers.vss import VSSBlock

__all__ = ["ReleasedContext", "support_network"]


def support_network(channels: int, m: int) -> nn.Sequential:
    """Three 3x3 convolutions, channels -> 224 -> 128 -> m, with GELU between them."""
    return nn.Sequential(
        nn.Conv2d(channels, 224, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(224, 128, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(128, m, 3, padding=1),
    )


@dataclass
class ReleasedState:
    """What the steps of a slice share.

    Attributes:
        slice_index: the slice that it is of; -1 before the first.
        supports: the support of the mean, and all tensors that predict.
    """

    slice_index: int = -1
    supports: tuple[Tensor, list[Tensor]] = field(default=None)  # type: ignore[assignment]  # set with slice_index


class ReleasedContext(ContextModel):
    r"""Predicts each slice from earlier slices, its anchors and the hyperprior; then refines what is decoded.

    $$ s_\mu = \mathrm{GA}([\mathrm{means}, \hat y_{<k}]), \quad s_\sigma = \mathrm{GA}([\mathrm{scales}, \hat y_{<k}]),
    \quad \phi = [f_\mu(s_\mu), f_\sigma(s_\sigma), \mathrm{means}, \mathrm{scales}] $$

    $$ (p_\mu, p_\sigma) = \mathrm{Conv}(\mathrm{VSS}(\mathrm{VSS}([c(\hat y_k^{anchors}), \phi]))), \quad
    \mu = \mathrm{GA}(p_\mu), \quad \sigma = \mathrm{GA}(p_\sigma) $$

    $$ \hat y_k \leftarrow \hat y_k + \tfrac12 \tanh(r([s_\mu, \hat y_k])) $$

    with GA the gated attention, c a checkerboard-masked convolution (zero for anchors), and f and r three
    convolutions. The first slice has phi = [means, scales]. One set of weights serves both passes of a slice.

    Args:
        M: channels of the latent (batch, M, H, W), of any H and W of at least 1; side information has 2M, means before
            scales.
        num_slices: slices K, of equal width m = M / K; mean and scale of a step are (batch, m, H, W).
        d_state: states of the VSS blocks.
        scan_backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Raises:
        ArgumentError: M is no multiple of num_slices, or a size is below 1.
        ShapeError: y_hat or side has a shape that does not fit.

    Source:
        The published checkpoint of MambaIC, from a description. It also has weights that would predict mean and scale
        of the first slice and are not used; they are left out here.

    Examples:
        >>> import torch
        >>> from ssmctx.context.released import ReleasedContext
        >>> context = ReleasedContext(M=20, num_slices=5, d_state=2)
        >>> mean, scale = context(3, torch.zeros(1, 20, 6, 4), torch.zeros(1, 40, 6, 4))
        >>> mean.shape
        torch.Size([1, 4, 6, 4])
    """

    def __init__(self, M: int = 320, num_slices: int = 5, d_state: int = 16, scan_backend: str = "auto") -> None:
        check_positive("ReleasedContext", M=M, num_slices=num_slices, d_state=d_state)
        widths = even_slices("ReleasedContext", M, num_slices)
        super().__init__(CodingOrder.checkerboard(widths))
        m = widths[0]
        slices = range(num_slices)

        def joint(channels: int) -> nn.Sequential:
            vss = (VSSBlock(channels, d_state=d_state, scan_backend=scan_backend) for _ in range(2))
            return nn.Sequential(*vss, nn.Conv2d(channels, 2 * m, 3, padding=1))

        self.mean_support = nn.ModuleList(GatedAttention(M + k * m) for k in slices)
        self.scale_support = nn.ModuleList(GatedAttention(M + k * m) for k in slices[1:])
        self.mean = nn.ModuleList(support_network(M + k * m, m) for k in slices[1:])
        self.scale = nn.ModuleList(support_network(M + k * m, m) for k in slices[1:])
        self.anchors = nn.ModuleList(CheckerboardConv2d(m, 2 * m) for _ in slices)
        self.joint = nn.ModuleList(joint(2 * m + 2 * M + (2 * m if k else 0)) for k in slices)
        self.mean_head = nn.ModuleList(GatedAttention(m) for _ in slices)
        self.scale_head = nn.ModuleList(GatedAttention(m) for _ in slices)
        self.residual = nn.ModuleList(support_network(M + (k + 1) * m, m) for k in slices)

    def begin(self, side: Tensor) -> ReleasedState:
        """An empty state; see `ContextModel.begin`."""
        return ReleasedState()

    def forward(
        self, step: int, y_hat: Tensor, side: Tensor, state: ReleasedState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`; see `ContextModel.forward`."""
        self.check_inputs(y_hat, side)
        k = self.order.slice_index(step)
        _, support = self._supports(step, y_hat, side, state)
        anchors = self.coded_anchors(step, y_hat)
        spatial = torch.cat([anchors, anchors], dim=1) if self.order.is_anchor(step) else self.anchors[k](anchors)
        mean, scale = self.joint[k](torch.cat([spatial, *support], dim=1)).chunk(2, dim=1)
        return self.mean_head[k](mean), self.scale_head[k](scale)

    def refine(self, step: int, y_hat: Tensor, side: Tensor, state: ReleasedState | None = None) -> Tensor:
        """The slice of `step` with its predicted quantisation error added; see `ContextModel.refine`."""
        self.check_inputs(y_hat, side)
        k = self.order.slice_index(step)
        mean_support, _ = self._supports(step, y_hat, side, state)
        current = self.order.select(step, y_hat)
        return current + 0.5 * torch.tanh(self.residual[k](torch.cat([mean_support, current], dim=1)))

    def _supports(
        self, step: int, y_hat: Tensor, side: Tensor, state: ReleasedState | None
    ) -> tuple[Tensor, list[Tensor]]:
        """What both passes of a slice and its refinement share: the support of the mean, and all that predicts."""
        k = self.order.slice_index(step)
        if state is not None and state.slice_index == k:
            return state.supports
        means, scales = side.chunk(2, dim=1)
        earlier = self.order.select_earlier(step, y_hat)
        mean_support = self.mean_support[k](torch.cat([means, earlier], dim=1))
        support = [side]
        if k:
            scale_support = self.scale_support[k - 1](torch.cat([scales, earlier], dim=1))
            support = [self.mean[k - 1](mean_support), self.scale[k - 1](scale_support), side]
        if state is not None:
            state.slice_index, state.supports = k, (mean_support, support)
        return mean_support, support
