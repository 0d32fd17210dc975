"""Windows of an image: cut it into them, put it together again, and which positions they hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

__all__ = ["WindowGrid"]


@dataclass(frozen=True)
class WindowGrid:
    """A grid of square windows over an image of some height and width; border windows are padded.

    Args:
        height: of the image, in positions.
        width: of the image.
        size: side of a window.
        before: positions by which the first windows stick out above and to the left, less than `size`.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.windows import WindowGrid
        >>> grid = WindowGrid(height=3, width=5, size=4)
        >>> tokens = grid.split(torch.rand(1, 6, 3, 5))
        >>> tokens.shape, grid.join(tokens).shape, int(grid.padded().sum())
        (torch.Size([1, 2, 16, 6]), torch.Size([1, 6, 3, 5]), 17)
    """

    height: int
    width: int
    size: int
    before: int = 0

    @property
    def _padding(self) -> tuple[int, int, int, int]:
        """Left, right, above, below."""
        right, below = (self.size - (side + self.before) % self.size for side in (self.width, self.height))
        # an exported graph pads by 1 to `size` positions and never by 0, so that it holds for every size: a side that
        # is a multiple of `size` gains windows of padding only
        if not _exporting():
            right, below = right % self.size, below % self.size
        return self.before, right, self.before, below

    def _is_padded(self) -> bool:
        return _exporting() or any(self._padding)

    def split(self, x: Tensor) -> Tensor:
        """x (batch, channels, H, W) to (batch, windows, size^2, channels), zero where padded."""
        x = x.permute(0, 2, 3, 1)
        if self._is_padded():
            x = F.pad(x, (0, 0, *self._padding))
        tokens: Tensor = rearrange(x, "b (i r) (j c) d -> b (i j) (r c) d", r=self.size, c=self.size)
        return tokens

    def join(self, tokens: Tensor, indices: Tensor | None = None) -> Tensor:
        """The inverse of `split`; `indices` (n,) are those of a window that tokens holds, the others become zero."""
        if indices is not None:
            whole = tokens.new_zeros(*tokens.shape[:2], self.size**2, tokens.shape[3])
            tokens = whole.index_copy(2, indices, tokens)
        left, right, above, below = self._padding
        rows, columns = (self.height + above + below) // self.size, (self.width + left + right) // self.size
        x = rearrange(tokens, "b (i j) (r c) d -> b d (i r) (j c)", i=rows, j=columns, r=self.size, c=self.size)
        if self._is_padded():
            # narrow, not a slice: whether that takes all depends on the size, and an exported graph would hold for one
            x = x.narrow(2, above, self.height).narrow(3, left, self.width)
        image: Tensor = x
        return image

    def padded(self, device: torch.device | str | None = None) -> Tensor | None:
        """Boolean (windows, size^2): the tokens that lie outside the image; None where there is none."""
        if not self._is_padded():
            return None
        real = F.pad(torch.ones(1, 1, self.height, self.width, device=device), self._padding)
        return rearrange(real, "1 1 (i r) (j c) -> (i j) (r c)", r=self.size, c=self.size) == 0


def _exporting() -> bool:
    """Whether torch.export traces; before torch 2.7 compiling counts as such."""
    return bool(getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)())
