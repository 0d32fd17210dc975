"""Sizes that the CPU scan's kernels and their callers share; here because the kernels load numba."""

from __future__ import annotations

__all__ = ["CHUNK", "LANES", "MAX_STATES", "TILE"]

MAX_STATES = 64
"""Largest N."""

LANES = 64
"""Channels in a block. It sets the order in which gradients of B and C are summed, so it is fixed."""

CHUNK = 32
"""Positions that are worked on at a time, and between which backward keeps a state."""

TILE = 4
"""States whose vectors stay in registers while a chunk is walked."""
