"""The foundation blocks of the paper's comparisons: a VSS block, and what it is compared with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ssmctx.layers.checks import check_image, check_positive
from ssmctx.layers.drop_path import check_drop_path, drop_path
from ssmctx.layers.window_attention import WindowLocalAttention
from ssmctx.registry import blocks

__all__ = ["ConvBlock", "TransformerBlock", "foundation_block"]


def foundation_block(
    name: str, dim: int, d_state: int = 16, drop_path: float = 0.0, scan_backend: str = "auto", **options: Any
) -> nn.Module:
    """Make a block by name: (batch, dim, H, W) to the same.

    A block's signature says what it takes. `d_state` and `scan_backend` are settings of a whole codec, ignored by
    blocks without a scan; the block must accept every other option.

    Args:
        name: from `ssmctx.registry.blocks`.
        dim: channels.
        d_state: states of blocks that scan.
        drop_path: probability that training drops the branch of a sample.
        scan_backend: of blocks that scan.
        options: what else the block takes.

    Returns:
        The block, a module from (batch, dim, H, W) to the same.

    Raises:
        UnknownNameError: no such block.
        ArgumentError: the block does not accept an option, or does not accept a non-zero drop_path.

    Examples:
        >>> from ssmctx.layers.foundation import foundation_block
        >>> foundation_block("transformer", 8, window_size=4).attention.window_size
        4
    """
    if drop_path:
        options["drop_path"] = drop_path
    scans = blocks.taken(name, d_state=d_state, scan_backend=scan_backend)
    block: nn.Module = blocks.create(name, dim, **options, **scans)
    return block


class ConvBlock(nn.Module):
    r"""Residual block of two 3x3 convolutions, the CNN of the comparisons.

    $$ x + \mathrm{Conv}(\mathrm{GELU}(\mathrm{Conv}(x))) $$

    Args:
        dim: channels of the image (batch, dim, H, W), of any H and W of at least 1; the result has its shape.
        drop_path: probability that training drops the branch of a sample.

    Raises:
        ShapeError: x has another number of channels, or an empty side.
        ArgumentError: dim is below 1, or drop_path outside [0, 1).

    Source:
        MambaIC tables 3 and A2, which name no more than "CNN"; residual blocks as in most codecs since Cheng et al.,
        2020.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.foundation import ConvBlock
        >>> ConvBlock(8)(torch.randn(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(self, dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        check_positive("ConvBlock", dim=dim)
        check_drop_path("ConvBlock", drop_path)
        self.dim, self.drop_path = dim, drop_path
        self.branch = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.GELU(), nn.Conv2d(dim, dim, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, (batch, dim, H, W)."""
        check_image("ConvBlock", x, self.dim)
        return x + drop_path(self.branch(x), self.drop_path, self.training)


class TransformerBlock(nn.Module):
    r"""Window attention and a two-layer perceptron, each behind a LayerNorm and with a residual.

    $$ x' = \mathrm{WLA}(x), \quad x' + W_2\,\mathrm{GELU}(W_1\,\mathrm{LN}(x')) $$

    Args:
        dim: channels of the image (batch, dim, H, W), of any H and W of at least 1; the result has its shape.
        window_size: side of a window, in positions.
        num_heads: number of heads; None: the fewest whose width is at most 32 channels.
        shift: moves the window grid by half a window.
        expand: width of the perceptron in units of dim.
        drop_path: probability that training drops both branches of a sample.

    Raises:
        ShapeError: x has another number of channels, or an empty side.
        ArgumentError: a size below 1, dim no multiple of num_heads, or drop_path outside [0, 1).

    Source:
        Swin (Liu et al., 2021); the transformer of MambaIC's tables 3 and A2, which name no more than that. A shifted
        grid whose border windows are padded and masked is the same sum as rolling the image and masking what wrapped
        round.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.foundation import TransformerBlock
        >>> TransformerBlock(8)(torch.randn(1, 8, 5, 17)).shape
        torch.Size([1, 8, 5, 17])
    """

    def __init__(
        self,
        dim: int,
        window_size: int = 8,
        num_heads: int | None = None,
        shift: bool = False,
        expand: int = 2,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("TransformerBlock", dim=dim, expand=expand)
        check_drop_path("TransformerBlock", drop_path)
        self.drop_path = drop_path
        self.attention = WindowLocalAttention(dim, window_size, num_heads, shift)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, expand * dim), nn.GELU(), nn.Linear(expand * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, (batch, dim, H, W)."""
        y = self.attention(x)
        y = y + self.mlp(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x + drop_path(y - x, self.drop_path, True) if self.training and self.drop_path else y
