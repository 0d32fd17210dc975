"""Context models of CompressAI as ssmctx's contexts: their modules, their order, called as their codecs call them.

Registered when imported, as "compressai-elic", "compressai-channel-groups" and "compressai-checkerboard".
"""

from __future__ import annotations

from typing import Any

import torch
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    GaussianConditionalLatentCodec,
)
from compressai.layers import CheckerboardMaskedConv2d, sequential_channel_ramp
from compressai.models.utils import conv
from torch import Tensor, nn

from ssmctx import CodingOrder, ContextModel, registry
from ssmctx.context.variants import elic_slices


class CompressAIContext(ContextModel):
    """CompressAI's `ChannelGroupsLatentCodec` over `CheckerboardLatentCodec`, or one of the two.

    Args:
        order: one pass a slice, or a checkerboard.
        codec: of as many groups as the order has slices.
    """

    def __init__(self, order: CodingOrder, codec: ChannelGroupsLatentCodec) -> None:
        super().__init__(order)
        self.codec = codec

    def forward(self, step: int, y_hat: Tensor, side: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`."""
        k = self.order.slice_index(step)
        parameters = self.codec._get_ctx_params(k, side, list(torch.split(y_hat, self.order.slices, dim=1)))
        codec = self.codec.latent_codec[f"y{k}"]
        if isinstance(codec, CheckerboardLatentCodec):
            anchors = self.coded_anchors(step, y_hat)
            context = codec.context_prediction(anchors)
            context = torch.zeros_like(context) if self.order.is_anchor(step) else context
            parameters = codec.entropy_parameters(codec.merge(context, parameters))
            scale, mean = codec.latent_codec["y"]._chunk(parameters)
        else:
            scale, mean = codec._chunk(codec.entropy_parameters(parameters))
        return mean, scale


def _channel_context(before: int, m: int) -> nn.Module:
    """The channel context of `compressai.models.sensetime.Elic2022Official`."""
    return nn.Sequential(
        conv(before, 224, kernel_size=5, stride=1),
        nn.ReLU(inplace=True),
        conv(224, 128, kernel_size=5, stride=1),
        nn.ReLU(inplace=True),
        conv(128, 2 * m, kernel_size=5, stride=1),
    )


def _parameters(inputs: int, m: int) -> nn.Module:
    return sequential_channel_ramp(  # type: ignore[no-any-return]
        inputs,
        2 * m,
        min_ch=2 * m,
        num_layers=3,
        interp="linear",
        make_layer=nn.Conv2d,
        make_act=lambda: nn.ReLU(inplace=True),
        kernel_size=1,
        stride=1,
        padding=0,
    )


def _grouped(M: int, slices: list[int], checkerboard: bool) -> CompressAIContext:
    def group(k: int, m: int) -> nn.Module:
        channel = 2 * m if k else 0
        if not checkerboard:
            return GaussianConditionalLatentCodec(entropy_parameters=_parameters(2 * M + channel, m), quantizer="ste")
        return CheckerboardLatentCodec(
            latent_codec={"y": GaussianConditionalLatentCodec(quantizer="ste")},
            context_prediction=CheckerboardMaskedConv2d(m, 2 * m, kernel_size=5, stride=1, padding=2),
            entropy_parameters=_parameters(2 * m + channel + 2 * M, m),
        )

    codec = ChannelGroupsLatentCodec(
        groups=slices,
        channel_context={f"y{k}": _channel_context(sum(slices[:k]), m) for k, m in enumerate(slices) if k},
        latent_codec={f"y{k}": group(k, m) for k, m in enumerate(slices)},
    )
    order = CodingOrder.checkerboard(slices) if checkerboard else CodingOrder.one_pass(slices)
    return CompressAIContext(order, codec)


def elic(M: int = 320) -> CompressAIContext:
    """ELIC (He et al., 2022): uneven channel groups, each a checkerboard."""
    return _grouped(M, elic_slices(M), checkerboard=True)


def channel_groups(M: int = 320) -> CompressAIContext:
    """Channel groups alone (Minnen and Singh, 2020), five of equal width."""
    return _grouped(M, [M // 5] * 5, checkerboard=False)


def checkerboard(M: int = 320) -> CompressAIContext:
    """The checkerboard alone (He et al., 2021)."""
    return _grouped(M, [M], checkerboard=True)


registry.contexts.register("compressai-elic", elic)
registry.contexts.register("compressai-channel-groups", channel_groups)
registry.contexts.register("compressai-checkerboard", checkerboard)
