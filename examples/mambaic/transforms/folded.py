"""Transforms of the preset `base`: folded images, a linear path beside a convolutional one.

Images are folded, 4 x 4 pixels to 48 channels, so that nothing is computed at full resolution. A linear transform of
16 x 16 pixels leads straight to the latent and back; it starts as a cosine transform, so that training begins with an
image. Beside it run dense convolutions at 1/4, 1/8 and 1/16 of the sides, which start near zero. The linear path
computes in float32 under autocast, too: bfloat16 would round a bright pixel by a whole grey level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.layers.deconvolution import Deconv2d

_FOLD = 4  # pixels, along each side, that become channels
_FOLDED = 3 * _FOLD**2
_GREY = 0.5  # of an image's middle, where both paths start
_SMALL, _BRANCH = 0.01, 0.2  # of a variance-preserving start: the ends of the convolutional paths, and of their blocks

Blocks = Callable[[int], Sequence[nn.Module]]


class ResidualBlock(nn.Module):
    r"""$x + W_2\,\mathrm{ReLU}(W_1 x)$, a 3x3 convolution and a 1x1 one.

    Args:
        dim: channels of the image (batch, dim, H, W); the result has its shape.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.spread = _start(nn.Conv2d(dim, dim, 3, padding=1), 2**0.5)
        self.mix = _start(nn.Conv2d(dim, dim, 1), _BRANCH)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, (batch, dim, H, W)."""
        update: Tensor = self.mix(F.relu(self.spread(x)))
        return x + update


class FoldedAnalysis(nn.Module):
    """g_a: x (batch, 3, H, W) to y (batch, M, H / 16, W / 16).

    Args:
        widths: channels at 1/4, 1/8 and 1/16.
        M: channels of y.
        blocks: makes the blocks at each of them, given 0, 1 or 2.
    """

    def __init__(self, widths: Sequence[int], M: int, blocks: Blocks) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.linear = nn.Conv2d(_FOLDED, M, _FOLD, stride=_FOLD)
        self.layers = nn.Sequential(
            _start(nn.Conv2d(_FOLDED, fine, 3, padding=1), 2.0),
            *blocks(0),
            _start(nn.Conv2d(fine, middle, 2, stride=2)),
            *blocks(1),
            _start(nn.Conv2d(middle, coarse, 2, stride=2)),
            *blocks(2),
            _start(nn.Conv2d(coarse, M, 1), _SMALL),
        )

    def forward(self, x: Tensor) -> Tensor:
        """y of x."""
        folded = F.pixel_unshuffle(x - _GREY, _FOLD).contiguous(memory_format=torch.channels_last)
        bent = self.layers(folded)
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self.linear(folded) + bent.to(folded.dtype)
        return y.contiguous()


class FoldedSynthesis(nn.Module):
    """g_s: y_hat (batch, M, h, w) to x_hat (batch, 3, 16h, 16w); the mirror image of `FoldedAnalysis`.

    Args:
        widths: channels at 1/4, 1/8 and 1/16.
        M: channels of y.
        blocks: makes the blocks at each of them, given 0, 1 or 2.
    """

    def __init__(self, widths: Sequence[int], M: int, blocks: Blocks) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.linear = Deconv2d(M, _FOLDED, _FOLD, stride=_FOLD)
        self.layers = nn.Sequential(
            _start(nn.Conv2d(M, coarse, 1), 0.3),
            *blocks(2),
            _start(Deconv2d(coarse, middle, 2, stride=2)),
            *blocks(1),
            _start(Deconv2d(middle, fine, 2, stride=2)),
            *blocks(0),
            _start(nn.Conv2d(fine, _FOLDED, 3, padding=1), _SMALL),
        )

    def forward(self, y_hat: Tensor) -> Tensor:
        """x_hat of y_hat, not clamped."""
        y_hat = y_hat.contiguous(memory_format=torch.channels_last)
        bent = self.layers(y_hat)
        with torch.autocast(y_hat.device.type, enabled=False):
            folded = self.linear(y_hat) + bent.to(y_hat.dtype)
        return F.pixel_shuffle(folded, _FOLD) + _GREY


@torch.no_grad()
def start_as_cosines(g_a: FoldedAnalysis, g_s: FoldedSynthesis, cosines: Tensor, gain: float) -> None:
    """Make g_s(g_a(x)), but for what the convolutional paths add, a projection on orthonormal blocks.

    Args:
        g_a: the analysis.
        g_s: its synthesis.
        cosines: blocks (M, 3, 16, 16), as `mambaic.transforms.wavelets.cosine_blocks` gives them.
        gain: quantisation steps of y per unit of a coefficient.
    """
    folded = F.pixel_unshuffle(cosines, _FOLD)
    g_a.linear.weight.copy_(folded * gain)
    g_s.linear.weight.copy_(folded / gain)
    for layer in (g_a.linear, g_s.linear):
        nn.init.zeros_(layer.bias)


def _start(layer: nn.Conv2d | nn.ConvTranspose2d, gain: float = 1.0) -> nn.Module:
    """The layer, with weights that multiply the standard deviation of independent inputs by about `gain`."""
    taps = layer.weight[0, 0].numel()
    inputs = layer.in_channels * taps if isinstance(layer, nn.Conv2d) else layer.in_channels  # one tap a pixel
    nn.init.normal_(layer.weight, std=gain * inputs**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
