"""From features to mean and scale, only where a coding step needs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssmctx.layers.pointwise import PointwiseConv2d
from ssmctx.layers.window_attention import WindowLocalAttention
from ssmctx.layers.windows import WindowGrid

__all__ = ["ParameterHead"]

_TILE = 8
_MOST_AT_ONCE = 1 << 22


class ProjectedAttention(nn.Module):
    r"""Window attention over projected channels, added to all of them: $x + W_{up}\,\mathrm{WLA}(W_{down}\,x)$.

    Args:
        channels: of the tokens.
        width: channels that attend.
        window_size: side of the windows.
    """

    def __init__(self, channels: int, width: int, window_size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        self.attention = WindowLocalAttention(width, window_size)

    def forward(self, x: Tensor, windows: bool, padded: Tensor | None, indices: Tensor | None) -> Tensor:
        """As `WindowLocalAttention.forward` of windows."""
        attended = self.attention(self.down(x), windows=windows, padded=padded, indices=indices)
        own = x if indices is None else x.index_select(2, indices[0])
        result: Tensor = own + self.up(attended)
        return result


class ParameterHead(nn.Sequential):
    r"""Window attention over all features, then two 1x1 convolutions, at the positions asked for.

    $$ W_2\,\mathrm{GELU}(W_1\,\mathrm{WLA}([f_1, f_2, \dots])) $$

    Every position is a key, but a query and a result only where asked. Works window by window, as `WindowGrid` cuts
    them, so many at a time that memory stays bounded whatever the image's size.

    Args:
        channels: of all features together.
        m: width of the slice; the result has 2m channels.
        window_size: side of the attention windows; None leaves the attention out.
        attention_width: channels that attend, after a projection; None for all of them.
    """

    def __init__(self, channels: int, m: int, window_size: int | None, attention_width: int | None = None) -> None:
        attention: nn.Module
        if window_size is None:
            attention = nn.Identity()
        elif attention_width is None:
            attention = WindowLocalAttention(channels, window_size)
        else:
            attention = ProjectedAttention(channels, attention_width, window_size)
        super().__init__(
            attention,
            PointwiseConv2d(channels, 4 * m),
            nn.GELU(),
            PointwiseConv2d(4 * m, 2 * m),
        )
        self.channels = channels
        self.window_size = _TILE if window_size is None else window_size
        self._attends = window_size is not None

    def forward(  # type: ignore[override]  # a Sequential for the names of its weights
        self, features: Sequence[Tensor], grid: WindowGrid, padded: Tensor | None, indices: Tensor | None
    ) -> Tensor:
        """Parameters of a slice.

        Args:
            features: each (batch, windows, window_size^2, channels of it), as `grid.split` cuts them, in the order of
                the weights.
            grid: the windows, of `window_size`.
            padded: boolean (batch, windows, window_size^2), what `grid.padded` gives for each image.
            indices: int64 (batch, n), the positions wanted of each window, as row * window_size + column, every row
                the same; None for all.

        Returns:
            The parameters (batch, 2m, H, W); other positions than those wanted are zero.
        """
        wanted = None if indices is None else indices[0]
        batch, windows = features[0].shape[:2]
        step = windows  # compiled at once, so that one graph holds for any number of windows
        if not torch.compiler.is_compiling():
            step = max(1, _MOST_AT_ONCE // (batch * self.channels * self.window_size**2))
        if windows <= step:
            return grid.join(self._at(torch.cat(list(features), dim=-1), padded, indices), wanted)
        parameters = []
        for first in range(0, windows, step):
            part = slice(first, first + step)
            tokens = torch.cat([feature[:, part] for feature in features], dim=-1)
            parameters.append(self._at(tokens, None if padded is None else padded[:, part], indices))
        return grid.join(torch.cat(parameters, dim=1), wanted)

    def _at(self, tokens: Tensor, padded: Tensor | None, indices: Tensor | None) -> Tensor:
        attention, *pointwise = self
        # isinstance would fail on a wrapped attention; Identity in its place disables it
        if self._attends and type(attention) is not nn.Identity:
            tokens = attention(tokens, windows=True, padded=padded, indices=indices)
        else:
            tokens = attention(tokens)
            tokens = tokens if indices is None else tokens.index_select(2, indices[0])
        x = tokens.permute(0, 3, 1, 2)
        for layer in pointwise:
            x = layer(x)
        return x.permute(0, 2, 3, 1)
