"""The four ways to walk over an image, as pixel numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["DIRECTIONS", "from_sequences", "scan_order", "to_sequences"]

DIRECTIONS = ("row", "column", "row-reversed", "column-reversed")
"""Names of the scan directions, in the order of SS2D's parameters."""


def scan_order(
    height: int, width: int, directions: Sequence[str] = DIRECTIONS, device: torch.device | str | None = None
) -> Tensor:
    """Pixel number (row * width + column) that each direction visits at each position.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        directions: from `DIRECTIONS`.
        device: of the result; None is torch's default device.

    Returns:
        int64 tensor (height * width, number of directions).

    Examples:
        >>> from ssmctx.scan.directions import scan_order
        >>> scan_order(2, 3, ["row", "column-reversed"]).T.tolist()
        [[0, 1, 2, 3, 4, 5], [5, 2, 4, 1, 3, 0]]
    """
    rows = torch.arange(height * width, device=device)
    columns = rows.view(height, width).t().flatten()
    orders = {"row": rows, "column": columns, "row-reversed": rows.flip(0), "column-reversed": columns.flip(0)}
    return torch.stack([orders[name] for name in directions], dim=1)


def to_sequences(x: Tensor, order: Tensor) -> Tensor:
    """Lay pixels out as time-major sequences, one per direction.

    Args:
        x: (batch, H, W, c), shared by the directions, or (batch, H, W, K, c), one map per direction.
        order: (L, K) of `scan_order`, L = H * W.

    Returns:
        (L, K, batch, c).
    """
    pixels = x.flatten(1, 2)
    if x.dim() == 4:
        return pixels.transpose(0, 1)[order]
    return torch.stack([pixels[:, order[:, k], k].transpose(0, 1) for k in range(order.shape[1])], dim=1)


def from_sequences(v: Tensor, order: Tensor, height: int, width: int) -> Tensor:
    """Put every sequence back on its pixels and add the directions; the adjoint of `to_sequences`.

    Args:
        v: (L, K, batch, c).
        order: (L, K) of `scan_order`.

    Returns:
        (batch, H, W, c).
    """
    total = v[:, 0][order[:, 0].argsort()]
    for k in range(1, order.shape[1]):
        total = total + v[:, k][order[:, k].argsort()]
    batch, channels = total.shape[1:]
    return total.transpose(0, 1).reshape(batch, height, width, channels)
