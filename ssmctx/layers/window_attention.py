"""Multi-head self-attention inside windows (the WLA of MambaIC)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_picture, check_positive

__all__ = ["WindowLocalAttention"]

_HEAD_WIDTH = 32


class WindowLocalAttention(nn.Module):
    r"""Window partition, self-attention with relative position bias, window reverse, residual.

    $$ x + W_o\,\mathrm{softmax}\!\left(q k^\top / \sqrt{c_{head}} + b_{\Delta}\right) v, \qquad
    (q, k, v) = W\,\mathrm{LN}(x) $$

    inside each window; b is a table per head, indexed by the (row, column) offset from key to query. Windows at the
    border are padded and the
    padding is masked out, so that a picture of any size attends to its own positions only.

    Args:
        dim: channels of the picture.
        window_size: side of a window, in positions.
        num_heads: heads; None makes them as wide as possible up to 32 channels.
        shift: moves the window grid by half a window to the upper left.

    Shape:
        (batch, dim, H, W) to the same, any H and W of at least 1.

    Raises:
        ShapeError: x has another number of channels, or an empty side.
        ArgumentError: dim is no multiple of num_heads, or a size is below 1.

    Source:
        MambaIC section 3.2, equation 13, figure 3b. The LayerNorm is ours: the paper names none.

    Example:
        >>> WindowLocalAttention(64)(torch.randn(1, 64, 13, 1)).shape
        torch.Size([1, 64, 13, 1])
    """

    def __init__(self, dim: int, window_size: int = 8, num_heads: int | None = None, shift: bool = False) -> None:
        super().__init__()
        check_positive("WindowLocalAttention", dim=dim, window_size=window_size)
        if num_heads is None:
            num_heads = dim // max(width for width in range(1, _HEAD_WIDTH + 1) if dim % width == 0)
        check_positive("WindowLocalAttention", num_heads=num_heads)
        if dim % num_heads:
            raise ArgumentError(
                f"WindowLocalAttention: dim must be a multiple of num_heads, got dim={dim}, num_heads={num_heads}"
            )
        self.dim, self.window_size, self.num_heads, self.shift = dim, window_size, num_heads, shift
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        span = 2 * window_size - 1
        self.position_bias = nn.Parameter(torch.empty(num_heads, span, span))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        row, column = torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing="ij")
        place = row.flatten() * span + column.flatten()
        self.register_buffer("_offset", place[:, None] - place + (window_size - 1) * (span + 1), persistent=False)
        self._offset: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to x, (batch, dim, H, W)."""
        check_picture("WindowLocalAttention", x, self.dim)
        height, width = x.shape[-2:]
        size = self.window_size
        before = size // 2 if self.shift else 0
        pad = (before, -(width + before) % size, before, -(height + before) % size)
        tokens = self.norm(x.permute(0, 2, 3, 1))
        split = "b (i r) (j c) d -> b (i j) (r c) d"
        windows = rearrange(F.pad(tokens, (0, 0, *pad)), split, r=size, c=size)
        mask = None
        if any(pad):
            real = F.pad(torch.ones(1, height, width, 1, device=x.device), (0, 0, *pad))
            mask = rearrange(real, split, r=size, c=size)[..., 0] == 0
        rows = (height + pad[2] + pad[3]) // size
        y = rearrange(self._attend(windows, mask), "b (i j) (r c) d -> b d (i r) (j c)", i=rows, r=size, c=size)
        return x + y[..., before : before + height, before : before + width]

    def _attend(self, windows: Tensor, padded: Tensor | None) -> Tensor:
        """Attention in (batch, windows, positions, dim); `padded` (1, windows, positions) marks keys to ignore."""
        q, k, v = rearrange(self.qkv(windows), "b w n (three h d) -> three b w h n d", three=3, h=self.num_heads)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.position_bias.flatten(1)[:, self._offset]
        if padded is not None:
            # every window holds at least one real position, so no row of the softmax is empty
            logits = logits.masked_fill(padded[:, :, None, None, :], float("-inf"))
        y: Tensor = self.proj(rearrange(logits.softmax(-1) @ v, "b w h n d -> b w n (h d)"))
        return y
