"""Process an image in bands of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["join_bands"]


def join_bands(bands: Iterable[Sequence[Tensor]], height: int) -> list[Tensor]:
    """Put bands of rows together, from the first row to the last.

    Without gradients each band is copied as soon as it is there, so that no more than one band exists twice; the values
    are the same.

    Args:
        bands: for each band the next rows (batch, rows, W, ...) of every tensor to join; tensors may differ in how many
            rows a band adds.
        height: of the whole.

    Returns:
        The tensors (batch, height, W, ...).

    Examples:
        >>> import torch
        >>> from ssmctx.layers.bands import join_bands
        >>> rows = torch.arange(6.).view(1, 3, 2)
        >>> join_bands([[rows[:, :1]], [rows[:, 1:]]], 3)[0].equal(rows)
        True
    """
    walk = iter(bands)
    parts = next(walk)
    if parts[0].shape[1] == height:
        return list(parts)
    if torch.is_grad_enabled():
        return [torch.cat(rows, dim=1) for rows in zip(*[parts, *walk], strict=True)]
    wholes = [x.new_empty(x.shape[0], height, *x.shape[2:]) for x in parts]
    starts = [0] * len(wholes)
    while parts:
        for i, rows in enumerate(parts):
            wholes[i][:, starts[i] : starts[i] + rows.shape[1]] = rows
            starts[i] += rows.shape[1]
        parts = next(walk, ())
    return wholes
