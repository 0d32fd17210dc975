"""Where a training stands: its step, its time, its history."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mambaic.errors import TrainingError
from mambaic.training.engine import Measured, Point
from mambaic.training.plan import TrainingPlan

SKIP_WINDOW = 100  # steps over which batches that are not finite are counted against the limit


@dataclass
class Run:
    """Steps and seconds done, of `total` and 60 `minutes`; the points of all steps; the steps that were skipped."""

    total: int
    minutes: float = math.inf
    step: int = 0
    seconds: float = 0.0
    skipped: list[int] = field(default_factory=list)
    history: array = field(default_factory=lambda: array("d"))

    @property
    def progress(self) -> float:
        """Part of the run that is done, 0 to 1, by steps or by the clock, whichever ends it first."""
        return min(1.0, max(self.step / self.total, self.seconds / (60 * self.minutes)))

    @property
    def points(self) -> list[Point]:
        """What every step that was not skipped measured."""
        return [Point(*values) for values in np.array(self.history).reshape(-1, 3).tolist()]

    def add(self, measured: Measured) -> None:
        """Count a step, taken or skipped."""
        if measured.finite:
            self.history.extend(measured.point)
        else:
            self.skipped.append(self.step)
        self.step += 1

    def check(self, plan: TrainingPlan, last: Measured) -> None:
        """End a run of which too many batches are not finite.

        Raises:
            TrainingError: more than the plan's `max_skipped` of the last 100.
        """
        lately = sum(step >= self.step - SKIP_WINDOW for step in self.skipped)
        if lately > plan.max_skipped:
            raise TrainingError(
                f"{lately} of the last {min(self.step, SKIP_WINDOW)} batches had a loss or gradient that is not finite "
                f"(now loss {last.point.loss:g}, gradient {last.norm:g}): lower --lr (now {plan.lr:g}) or --clip (now "
                f"{plan.clip:g}), use --warmup, or --precision no, and go on from the last checkpoint with --resume"
            )

    def state(self) -> dict[str, Any]:
        """What `load` needs."""
        history = torch.from_numpy(np.array(self.history).reshape(-1, 3))
        return {"step": self.step, "seconds": self.seconds, "skipped": self.skipped, "history": history}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.step, self.seconds, self.skipped = state["step"], state["seconds"], list(state["skipped"])
        self.history = array("d", state["history"].flatten().numpy())
