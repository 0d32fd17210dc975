"""From features to mean and scale, only where a coding step needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.layers.window_attention import WindowLocalAttention
from ssmctx.layers.windows import WindowGrid

__all__ = ["ParameterHead"]

_TILE = 8
_MOST_AT_ONCE = 1 << 22


class ParameterHead(nn.Sequential):
    r"""Window attention over all features, then two 1x1 convolutions, at one colour of the checkerboard or everywhere.

    $$ W_2\,\mathrm{GELU}(W_1\,\mathrm{WLA}([f_1, f_2, \dots])) $$

    Every position is a key, but a query and a result only where asked. Works window by window, as `WindowGrid` cuts
    them, so many at a time that memory stays bounded whatever the picture's size.

    Args:
        channels: of all features together.
        m: width of the slice; the result has 2m channels.
        window_size: side of the attention windows; None leaves the attention out.
    """

    def __init__(self, channels: int, m: int, window_size: int | None) -> None:
        super().__init__(
            nn.Identity() if window_size is None else WindowLocalAttention(channels, window_size),
            nn.Conv2d(channels, 4 * m, 1),
            nn.GELU(),
            nn.Conv2d(4 * m, 2 * m, 1),
        )
        self.channels = channels
        self.window_size = _TILE if window_size is None else window_size

    def grid(self, height: int, width: int) -> WindowGrid:
        """The windows that features of this size have to be cut into."""
        return WindowGrid(height, width, self.window_size)

    def forward(  # type: ignore[override]  # a Sequential for the names of its weights
        self, features: Sequence[Tensor], grid: WindowGrid, padded: Tensor | None, indices: Tensor | None
    ) -> Tensor:
        """Parameters of a slice.

        Args:
            features: as `grid.split` cuts them, in the order of the weights.
            grid: of `self.grid`.
            padded: what `grid.padded` gives.
            indices: row-major indices (n,) of the positions of each window that are wanted; None for all.

        Shape:
            features (batch, windows, positions, channels of each) to (batch, 2m, H, W).

        Returns:
            The parameters; other positions than those wanted hold anything.
        """
        places = indices
        windows = features[0].shape[1]
        step = max(1, _MOST_AT_ONCE // (len(features[0]) * self.channels * self.window_size**2))
        found = []
        for first in range(0, windows, step):
            part = slice(first, first + step)
            tokens = torch.cat([feature[:, part] for feature in features], dim=-1)
            found.append(self._at(tokens, None if padded is None else padded[part], places))
        return grid.join(torch.cat(found, dim=1), places)

    def _at(self, tokens: Tensor, padded: Tensor | None, places: Tensor | None) -> Tensor:
        attention, first, activation, last = self
        if isinstance(attention, WindowLocalAttention):
            tokens = attention.attend(tokens, padded, places)
        elif places is not None:
            tokens = tokens.index_select(-2, places)
        return _pointwise(last, activation(_pointwise(first, tokens)))


def _pointwise(layer: Any, tokens: Tensor) -> Tensor:
    """A 1x1 convolution of tokens (..., channels)."""
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)
