"""Gated attention: a trunk of residual units, gated by what two window blocks see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.layers.foundation import TransformerBlock

__all__ = ["GatedAttention", "ResidualUnit"]

_HEAD_WIDTH = 16


class ResidualUnit(nn.Module):
    r"""A bottleneck of half the width with a residual.

    $$ \mathrm{ReLU}(x + W_3\,\mathrm{ReLU}(W_2 * \mathrm{ReLU}(W_1\,x))) $$

    with 1x1, 3x3 and 1x1 kernels.

    Args:
        dim: channels of the image (batch, dim, H, W), at least 2; the result has its shape.

    Raises:
        ArgumentError: dim is below 2.

    Source:
        Cheng et al., 2020 (residual units of the attention module); as MambaIC's released layout has it.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.gated_attention import ResidualUnit
        >>> ResidualUnit(8)(torch.randn(1, 8, 3, 5)).shape
        torch.Size([1, 8, 3, 5])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive("ResidualUnit", dim=dim)
        if dim < 2:
            raise ArgumentError(f"ResidualUnit: dim must be at least 2, got {dim}")
        self.branch = nn.Sequential(
            nn.Conv2d(dim, dim // 2, 1),
            nn.ReLU(),
            nn.Conv2d(dim // 2, dim // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(dim // 2, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to x, (batch, dim, H, W)."""
        return torch.relu(x + self.branch(x))


class GatedAttention(nn.Module):
    r"""A trunk of residual units times a gate that sees windows, between two 1x1 convolutions.

    $$ t = W_{in}\,x, \quad
    W_{out}\left(\mathrm{trunk}(t) \odot \mathrm{sigmoid}(\mathrm{gate}(\mathrm{windows}(t))) + t\right) $$

    trunk is three residual units; gate three more and a 1x1 convolution; windows a plain and a half-shifted block of
    window attention.

    Args:
        dim: channels of the image (batch, dim, H, W), of any H and W of at least 1; the result has its shape.
        width: channels inside, a multiple of 16 (the width of a head).
        window_size: side of a window, in positions.

    Raises:
        ShapeError: x has another number of channels, or an empty side.
        ArgumentError: width is no multiple of 16, or a size is below 1.

    Source:
        Zou et al., 2022 (window attention module) after Cheng et al., 2020; as MambaIC's released layout has it.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.gated_attention import GatedAttention
        >>> GatedAttention(10, width=32)(torch.randn(1, 10, 5, 9)).shape
        torch.Size([1, 10, 5, 9])
    """

    def __init__(self, dim: int, width: int = 128, window_size: int = 8) -> None:
        super().__init__()
        check_positive("GatedAttention", dim=dim, width=width, window_size=window_size)
        if width % _HEAD_WIDTH:
            raise ArgumentError(f"GatedAttention: width must be a multiple of {_HEAD_WIDTH}, got {width}")
        heads = width // _HEAD_WIDTH
        self.dim = dim
        self.in_conv = nn.Conv2d(dim, width, 1)
        self.trunk = nn.Sequential(*(ResidualUnit(width) for _ in range(3)))
        self.windows = nn.Sequential(
            *(TransformerBlock(width, window_size, heads, shift, expand=4) for shift in (False, True))
        )
        self.gate = nn.Sequential(*(ResidualUnit(width) for _ in range(3)), nn.Conv2d(width, width, 1))
        self.out_conv = nn.Conv2d(width, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to x, (batch, dim, H, W)."""
        check_image("GatedAttention", x, self.dim)
        t = self.in_conv(x)
        y: Tensor = self.out_conv(self.trunk(t) * torch.sigmoid(self.gate(self.windows(t))) + t)
        return y
