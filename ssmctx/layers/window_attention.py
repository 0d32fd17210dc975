"""Multi-head self-attention inside windows (the WLA of MambaIC)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_picture, check_positive
from ssmctx.layers.windows import WindowGrid

__all__ = ["WindowLocalAttention"]

_HEAD_WIDTH = 32


class WindowLocalAttention(nn.Module):
    r"""Window partition, self-attention with relative position bias, window reverse, residual.

    $$ x + W_o\,\mathrm{softmax}\!\left(q k^\top / \sqrt{c_{head}} + b_{\Delta}\right) v, \qquad
    (q, k, v) = W\,\mathrm{LN}(x) $$

    inside each window; b is a table per head, indexed by the (row, column) offset from key to query. Windows at the
    border are padded and the padding is masked out, so that a picture of any size attends to its own positions only.

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

    Examples:
        >>> import torch
        >>> from ssmctx import WindowLocalAttention
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
        before = self.window_size // 2 if self.shift else 0
        grid = WindowGrid(x.shape[2], x.shape[3], self.window_size, before)
        return grid.join(self.attend(grid.split(x), grid.padded(x.device)))

    def attend(self, windows: Tensor, padded: Tensor | None, places: Tensor | None = None) -> Tensor:
        """The attention at some places of each window; see `ssmctx.layers.windows`.

        Args:
            windows: tokens of each window.
            padded: the places that are no positions of the picture, and get no attention; None where there is none.
            places: the places to compute; None for all.

        Shape:
            windows (batch, windows, window_size^2, dim), padded (windows, window_size^2), places (n,) to (batch,
            windows, n, dim).
        """
        tokens, bias = self.norm(windows), self.position_bias.flatten(1)[:, self._offset]
        queries = tokens
        if places is not None:
            windows, queries, bias = (x.index_select(-2, places) for x in (windows, tokens, bias))
        (to_q, to_kv), (b_q, b_kv) = (
            torch.split(p, [self.dim, 2 * self.dim]) for p in (self.qkv.weight, self.qkv.bias)
        )
        q = rearrange(F.linear(queries, to_q, b_q), "b w n (h d) -> b w h n d", h=self.num_heads)
        k, v = rearrange(F.linear(tokens, to_kv, b_kv), "b w n (two h d) -> two b w h n d", two=2, h=self.num_heads)
        # not torch's fused attention: which kernel that takes, and so what it rounds, depends on the gradient mode
        logits = (q * q.shape[-1] ** -0.5) @ k.mT + bias
        if padded is not None:
            # every window holds at least one real position, so no row of the softmax is empty
            logits = logits.masked_fill(padded[:, None, None, :], float("-inf"))
        y: Tensor = self.proj(rearrange(logits.softmax(-1) @ v, "b w h n d -> b w n (h d)"))
        return windows + y
