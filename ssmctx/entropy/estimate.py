"""What coding an element costs at most: tables give no symbol fewer than one count of 65536, and escape what is far."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssmctx.distributions.tables import CodingTables

__all__ = ["floor_at_tables"]

_COUNT_BITS, _GROUP_BITS = 4, 4  # of an escape: how many groups of bits follow, and each of them


def floor_at_tables(p: Tensor, q: Tensor, rows: Tensor, tables: CodingTables) -> Tensor:
    """Likelihoods, no smaller than what the coder makes of them.

    A symbol of its row has at least one count of 65536; one outside costs the row's escape and the groups of bits that
    follow it.

    Args:
        p: likelihoods, of any shape.
        q: the symbols, whole numbers of p's shape.
        rows: the table row of each, int64, of p's shape.
        tables: that code them.

    Returns:
        The likelihoods, of p's shape.

    Examples:
        >>> import torch
        >>> from ssmctx.distributions.tables import CodingTables
        >>> from ssmctx.entropy.estimate import floor_at_tables
        >>> tables = CodingTables.from_lists([[0, 16384, 49152, 65535, 65536]], [5], [-1])
        >>> q = torch.tensor([0.0, 1.0, 2.0, 300.0])
        >>> floor_at_tables(torch.full((4,), 1e-9), q, torch.zeros(4, dtype=torch.long), tables).log2().tolist()
        [-16.0, -16.0, -20.0, -32.0]
    """
    symbol, rows = q.detach().long(), rows.detach()
    lengths, offsets = (torch.from_numpy(x.copy()).to(p.device)[rows] for x in (tables.lengths, tables.offsets))
    below, above = offsets - symbol, symbol - (offsets + lengths - 3)  # how far outside, counted from 1
    value = torch.where(below > 0, 2 * below - 1, 2 * (above - 1)).clamp(min=0)
    groups = sum((value >= 1 << _GROUP_BITS * i).to(p.dtype) for i in range(5))
    escape_bits = _COUNT_BITS + _GROUP_BITS * groups
    outside = (below > 0) | (above > 0)
    escapes = np.take_along_axis(tables.cdfs, tables.lengths[:, None].astype(np.int64) - 2, axis=1)[:, 0]
    escape = torch.from_numpy(16 - np.log2(65536 - escapes)).to(p)[rows]
    floor = torch.exp2(-torch.where(outside, escape + escape_bits, 16))
    return torch.maximum(p, floor.to(p.dtype))
