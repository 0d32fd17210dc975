"""The learning rate over a run: a pure function of where the run stands, so that nothing of it need be saved."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCHEDULES = ("constant", "milestones", "cosine")
_COSINE_END = 0.01  # of the full rate


def rate_factor(schedule: str, step: int, progress: float, warmup: int = 0, milestones: Sequence[float] = ()) -> float:
    """What the learning rate is multiplied by.

    A linear rise over the first `warmup` steps, times: 1 ("constant"); a tenth for every milestone passed
    ("milestones"); half a cosine from 1 to 0.01 ("cosine").

    Args:
        schedule: one of `SCHEDULES`.
        step: steps done so far.
        progress: part of the run that is done, 0 to 1.
        warmup: steps of the rise.
        milestones: parts of the run.

    Examples:
        >>> from mambaic.training.schedule import rate_factor
        >>> [rate_factor("cosine", 100, p) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.505, 0.01]
        >>> rate_factor("milestones", 100, 0.85, milestones=(0.8, 0.95))
        0.1
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if schedule == "milestones":
        return rise * 0.1 ** sum(progress >= milestone for milestone in milestones)
    if schedule == "cosine":
        return rise * (_COSINE_END + (1 - _COSINE_END) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)
    return rise
