"""Coding tables of a distribution, from its masses, by arithmetic that rounds the same way on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ssmctx.distributions.tables import CodingTables
from ssmctx.errors import ArgumentError

__all__ = ["Quantise", "build_tables"]

HalfMass = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Quantise = Callable[[NDArray[np.float64]], NDArray[np.int32]]

_FARTHEST = 1e6  # standard deviations; a distribution that has not ended there is invalid
_WIDEST = 4096  # symbols to each side of 0; a row of 65536 counts has no use for more
_ROUNDING = 1e-9


def build_tables(
    name: str, half_mass: HalfMass, scales: Sequence[float], escaped: float, quantise: Quantise
) -> CodingTables:
    """Tables of a symmetric distribution: row i codes integers of standard deviation `scales[i]`.

    Args:
        name: of the distribution, for messages.
        half_mass: P(0 < X < x) of the distribution with a standard deviation of 1.
        scales: standard deviations, one per row.
        escaped: mass that each row may leave to its escape.
        quantise: from a row's probabilities to its cumulative frequencies.

    Raises:
        ArgumentError: the masses are no probabilities, or do not sum to 1.
    """
    reach = _reach(name, half_mass, escaped)
    rows, offsets = [], []
    for scale in scales:
        symbols = min(math.ceil(reach * scale), _WIDEST)
        inner = _checked(name, half_mass, (np.arange(symbols + 1) + 0.5) / scale)
        half = np.diff(inner, prepend=0.0)
        half[0] = 2 * inner[0]
        rows.append(quantise(np.concatenate([half[:0:-1], half, [max(0.0, 1 - 2 * inner[-1])]])))
        offsets.append(-symbols)
    return CodingTables.from_lists(rows, [len(row) for row in rows], offsets)


def _reach(name: str, half_mass: HalfMass, escaped: float) -> float:
    """Standard deviations that hold all but `escaped` of the mass, by bisection."""

    def outside(x: float) -> float:
        return 1 - 2 * float(_checked(name, half_mass, np.array([0.0, x]))[1])

    low, high = 0.0, 1.0
    while outside(high) > escaped:
        low, high = high, 2 * high
        if high > _FARTHEST:
            raise ArgumentError(
                f"the masses of distribution {name!r} do not sum to 1: half_mass must come to 0.5, got "
                f"{(1 - outside(low)) / 2} at {low} standard deviations"
            )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle) > escaped else (low, middle)
    return high


def _checked(name: str, half_mass: HalfMass, x: NDArray[np.float64]) -> NDArray[np.float64]:
    mass = np.asarray(half_mass(x))
    if mass.dtype != np.float64 or mass.shape != x.shape:
        raise ArgumentError(
            f"half_mass of distribution {name!r} must return a float64 array of shape {x.shape}, "
            f"got {mass.dtype} of {mass.shape}"
        )
    if not (np.diff(mass, prepend=0.0) >= -_ROUNDING).all():  # a NaN fails this too
        raise ArgumentError(
            f"half_mass of distribution {name!r} must increase from 0, got {mass.min()} to {mass.max()}"
        )
    if mass[-1] > 0.5 + _ROUNDING:
        raise ArgumentError(
            f"the masses of distribution {name!r} do not sum to 1: half_mass must come to 0.5, got {mass[-1]}"
        )
    return mass
