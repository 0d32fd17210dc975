"""Coding tables for integers whose mean is not an integer: one row for each scale and each fraction of the mean."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from ssmctx.distributions import Distribution
from ssmctx.distributions.quantise import quantise_closely
from ssmctx.distributions.tables import CodingTables

FRACTIONS = 32
"""Fractions of a step that means are rounded to."""

_WIDEST = 1500


@functools.cache
def shifted_tables(distribution: Distribution) -> CodingTables:
    """Row i * FRACTIONS + j: scale i of the distribution's grid, mean (j - FRACTIONS / 2) / FRACTIONS."""
    rows, offsets = [], []
    for scale in distribution.grid.values():
        for j in range(FRACTIONS):
            mean = (j - FRACTIONS // 2) / FRACTIONS
            reach = min(_WIDEST, int(np.ceil(12 * scale)) + 1)
            symbols = torch.arange(-reach, reach + 1, dtype=torch.float64)
            mass = distribution.likelihood(symbols - mean, torch.tensor(scale, dtype=torch.float64)).numpy()
            likely = np.flatnonzero(mass > 2.0**-17)
            first, last = likely[0], likely[-1] + 1
            inside = mass[first:last]
            rows.append(quantise_closely(np.append(inside, max(0.0, 1 - inside.sum()))))
            offsets.append(int(first) - reach)
    return CodingTables.from_lists(rows, [len(row) for row in rows], offsets)


def symbols_and_rows(y: Tensor, mean: Tensor, scale: Tensor, distribution: Distribution) -> tuple[Tensor, Tensor]:
    """What the coder takes for integers y: their distance from the rounded mean, and the table rows.

    Args:
        y: integers, any shape.
        mean: of the same shape.
        scale: of the same shape.
        distribution: what they are coded with.

    Returns:
        symbols and rows, both int64, of y's shape.
    """
    steps = torch.round(mean * FRACTIONS).long() + FRACTIONS // 2
    whole = steps.div(FRACTIONS, rounding_mode="floor")
    return y.long() - whole, distribution.rows(scale) * FRACTIONS + steps - whole * FRACTIONS
