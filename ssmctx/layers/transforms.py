"""The transforms g_a and g_s of MambaIC: four strided convolutions with blocks between them, and the mirror image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.layers.deconvolution import Deconv2d

__all__ = ["STRIDE", "analysis_transform", "pad_image", "synthesis_transform"]

STRIDE = 16
"""Image pixels per latent cell, along each side."""


class _ChannelsLast(nn.Sequential):
    """Layers that keep a pixel's channels together in memory, as scans want them and convolutions like them."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.contiguous(memory_format=torch.channels_last))  # type: ignore[no-untyped-call]
        return y


Blocks = Callable[[int], Sequence[nn.Module]]


def analysis_transform(width: int, M: int, blocks: Blocks) -> nn.Sequential:
    """g_a: x (batch, 3, H, W) to y (batch, M, H / 16, W / 16).

    Args:
        width: channels between the convolutions (2N in the paper).
        M: channels of y.
        blocks: makes the blocks after convolution 0, 1 and 2.

    Returns:
        g_a. Sides of y are H / 16 and W / 16 for multiples of 16, else rounded up.

    Source:
        MambaIC section 3.2 and appendix C.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.transforms import analysis_transform
        >>> analysis_transform(8, 5, lambda stage: [])(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 5, 2, 3])
    """

    def down(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)

    return _ChannelsLast(
        down(3, width, 5),
        *blocks(0),
        down(width, width),
        *blocks(1),
        down(width, width),
        *blocks(2),
        down(width, M),
    )


def synthesis_transform(width: int, M: int, blocks: Blocks) -> nn.Sequential:
    """g_s: y_hat (batch, M, h, w) to x_hat (batch, 3, 16h, 16w); the mirror image of `analysis_transform`.

    Args:
        width: channels between the deconvolutions.
        M: channels of y.
        blocks: makes the blocks of a stage of g_a, which stand here in reverse order.

    Returns:
        g_s.

    Source:
        MambaIC section 3.2 and appendix C.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.transforms import synthesis_transform
        >>> synthesis_transform(8, 5, lambda stage: [])(torch.zeros(1, 5, 2, 3)).shape
        torch.Size([1, 3, 32, 48])
    """

    def up(inputs: int, outputs: int, kernel: int = 3) -> Deconv2d:
        return Deconv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, output_padding=1)

    return _ChannelsLast(
        up(M, width),
        *reversed(blocks(2)),
        up(width, width),
        *reversed(blocks(1)),
        up(width, width),
        *reversed(blocks(0)),
        up(width, 3, 5),
    )


def pad_image(x: Tensor, stride: int = STRIDE) -> Tensor:
    """Repeat the last row and column of x (batch, 3, H, W) until both sides are multiples of a stride.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.transforms import pad_image
        >>> pad_image(torch.zeros(1, 3, 30, 33)).shape
        torch.Size([1, 3, 32, 48])
    """
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")
