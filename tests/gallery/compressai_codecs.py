"""CompressAI's own latent codecs and models in small widths, with scales spread out as in a trained model."""

from __future__ import annotations

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    GaussianConditionalLatentCodec,
    HyperLatentCodec,
    HyperpriorLatentCodec,
)
from compressai.layers import CheckerboardMaskedConv2d
from compressai.models import Cheng2020AnchorCheckerboard, Elic2022Official
from torch import nn

from gallery.sound import M
from ssmctx import VSSBlock

GROUPS = (2, 4)


def hyperprior(y=None) -> HyperpriorLatentCodec:
    """Mean and scale hyperprior, or another codec of y beside the same hyperprior."""
    torch.manual_seed(0)
    h_a = nn.Conv2d(M, 4, 5, stride=4, padding=2)
    h_s = nn.ConvTranspose2d(4, 2 * M, 4, stride=4)
    if y is None:
        y = GaussianConditionalLatentCodec(quantizer="ste")
        spread(h_s, M)
    hyper = HyperLatentCodec(entropy_bottleneck=EntropyBottleneck(4), h_a=h_a, h_s=h_s, quantizer="ste")
    return fitted(HyperpriorLatentCodec({"y": y, "hyper": hyper}))


def checkerboard(pointwise: bool = True) -> HyperpriorLatentCodec:
    """CheckerboardLatentCodec, with 1x1 convolutions as its documentation asks, or with a VSS block before them."""
    torch.manual_seed(0)
    return hyperprior(_checkerboard(M, 2 * M, pointwise))


def channel_groups() -> HyperpriorLatentCodec:
    """ChannelGroupsLatentCodec of two checkerboards."""
    torch.manual_seed(0)
    first, second = GROUPS
    y = ChannelGroupsLatentCodec(
        {"y0": _checkerboard(first, 2 * M), "y1": _checkerboard(second, 2 * M + 2 * second)},
        {"y1": nn.Conv2d(first, 2 * second, 5, padding=2)},
        groups=list(GROUPS),
    )
    return hyperprior(y)


def elic() -> nn.Module:
    """The latent codec of Elic2022Official(N=16, M=20, groups 2, 2, 4, 4, 8)."""
    torch.manual_seed(0)
    model = Elic2022Official(N=16, M=20, groups=[2, 2, 4, 4, 8])
    return fitted(_spread_all(model)).latent_codec


def elic_model() -> nn.Module:
    """Elic2022Official itself, in the same widths."""
    torch.manual_seed(0)
    return fitted(_spread_all(Elic2022Official(N=16, M=20, groups=[2, 2, 4, 4, 8])))


def cheng() -> nn.Module:
    """Cheng2020AnchorCheckerboard(N=12), a whole model."""
    torch.manual_seed(0)
    return fitted(_spread_all(Cheng2020AnchorCheckerboard(N=12)))


def cheng_latent_codec() -> nn.Module:
    """The latent codec of Cheng2020AnchorCheckerboard(N=12)."""
    return cheng().latent_codec


def spread(net: nn.Module, channels: int) -> None:
    """Scales around 4, which is what latents of standard deviation 4 ask for."""
    last = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))][-1]
    with torch.no_grad():
        last.bias[:channels] += 4


def fitted(codec: nn.Module) -> nn.Module:
    """With quantiles where the auxiliary loss takes them in training."""
    for m in codec.modules():
        if isinstance(m, EntropyBottleneck):
            m._update_quantiles()
    return codec


def _checkerboard(channels: int, side: int, pointwise: bool = True) -> CheckerboardLatentCodec:
    width = 2 * channels + side
    net = nn.Sequential(
        nn.Identity() if pointwise else VSSBlock(width, d_state=2),
        nn.Conv2d(width, 16, 1),
        nn.GELU(),
        nn.Conv2d(16, 2 * channels, 1),
    )
    spread(net, channels)
    return CheckerboardLatentCodec(
        latent_codec={"y": GaussianConditionalLatentCodec(quantizer="ste")},
        entropy_parameters=net,
        context_prediction=CheckerboardMaskedConv2d(channels, 2 * channels, kernel_size=5, padding=2),
    )


def _spread_all(model: nn.Module) -> nn.Module:
    for m in model.modules():
        if isinstance(m, CheckerboardLatentCodec):
            spread(m.entropy_parameters, m.context_prediction.in_channels)
    return model
