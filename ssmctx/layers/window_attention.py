"""Multi-head self-attention inside windows (the WLA of MambaIC)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmctx.constants import constant
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.layers.windows import WindowGrid

__all__ = ["WindowLocalAttention"]

_HEAD_WIDTH = 32


class WindowLocalAttention(nn.Module):
    r"""Window partition, self-attention with relative position bias, window reverse, residual.

    $$ x + W_o\,\mathrm{softmax}\!\left(q k^\top / \sqrt{c_{head}} + b_{\Delta}\right) v, \qquad
    (q, k, v) = W\,\mathrm{LN}(x) $$

    inside each window; b is a table per head, indexed by the (row, column) offset from key to query. Windows at the
    border are padded and the padding is masked out, so that an image of any size attends to its own positions only.

    Args:
        dim: channels of the image (batch, dim, H, W), of any H and W of at least 1; the result has its shape.
        window_size: side of a window, in positions.
        num_heads: number of heads; None: the fewest whose width is at most 32 channels.
        shift: moves the window grid by half a window to the upper left.

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

    def forward(
        self, x: Tensor, windows: bool = False, padded: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """Apply the attention to an image, or to windows that are cut already; see `ssmctx.layers.windows`.

        All tensors start with the batch, so that wrappers that share out a batch share these out alike.

        Args:
            x: the image (batch, dim, H, W), or with `windows` the tokens (batch, windows, window_size^2, dim).
            windows: whether x is cut into windows already; the other arguments are for windows only.
            padded: boolean (batch or 1, windows, window_size^2), tokens that lie outside the image and get no
                attention; None where there is none.
            indices: int64 (batch or 1, n), the tokens of each window to compute, every row the same; None for all.

        Returns:
            The image (batch, dim, H, W), or the tokens (batch, windows, n, dim).
        """
        if windows:
            if x.dim() != 4 or x.shape[2:] != (self.window_size**2, self.dim):
                raise ShapeError(
                    f"WindowLocalAttention expects windows (batch, windows, {self.window_size**2}, {self.dim}), "
                    f"got {tuple(x.shape)}"
                )
            return self._attend(x, padded, None if indices is None else indices[0])
        if padded is not None or indices is not None:
            raise ArgumentError("WindowLocalAttention takes padded and indices with windows=True only")
        check_image("WindowLocalAttention", x, self.dim)
        before = self.window_size // 2 if self.shift else 0
        grid = WindowGrid(x.shape[2], x.shape[3], self.window_size, before)
        outside = grid.padded(x.device)
        return grid.join(self._attend(grid.split(x), None if outside is None else outside[None], None))

    def _attend(self, windows: Tensor, padded: Tensor | None, indices: Tensor | None) -> Tensor:
        batch, count, size, dim = windows.shape
        heads, width = self.num_heads, dim // self.num_heads
        qkv = self.qkv(self.norm(windows)).view(batch, count, size, 3, heads, width)
        # one copy of all three, as products of matrices take them: (batch * windows * heads, n, width)
        qkv = qkv.permute(3, 0, 1, 4, 2, 5).reshape(3, batch * count * heads, size, width)
        q, k, v = qkv.unbind()
        if indices is not None:
            windows, q = windows.index_select(2, indices), q.index_select(1, indices)
        # not torch's fused attention: which kernel that takes, and so what it rounds, depends on the gradient mode
        logits = torch.bmm(q * width**-0.5, k.mT)
        logits = logits.view(batch, count, heads, windows.shape[2], size) + self._bias(indices)
        if padded is not None:
            # the exponential of this is 0 beside a real position, as that of -inf; exported graphs have windows without
            # one, of which -inf would make NaN
            logits = logits.masked_fill(padded[:, :, None, None, :], torch.finfo(logits.dtype).min)
        attended = torch.bmm(logits.softmax(-1).flatten(0, 2), v).view(*logits.shape[:4], width)
        y: Tensor = self.proj(attended.transpose(2, 3).flatten(3))
        return windows + y

    def _bias(self, indices: Tensor | None) -> Tensor:
        """The bias of every query and key, (heads, n, window_size^2)."""
        offsets = constant(_offsets, self.window_size, device=self.position_bias.device)
        offsets = offsets if indices is None else offsets.index_select(0, indices)
        # index_select, whose gradient is added up faster than that of an index
        return self.position_bias.flatten(1).index_select(1, offsets.flatten()).view(-1, *offsets.shape)


def _offsets(size: int, device: torch.device | str | None) -> Tensor:
    """Of each query and key in a window, where the bias stands in a flat table, (size^2, size^2)."""
    span = 2 * size - 1
    side = torch.arange(size, device=device)
    keys = (side[:, None] * span + side).flatten()
    return keys[:, None] - keys + (size - 1) * (span + 1)
