"""What to train: the plan, whose fields are the flags of `train`, and the lambdas of the quality indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambaic.images.measure import MS_SSIM_MIN_SIDE
from mambaic.training.optimisers import OPTIMISERS
from mambaic.training.schedule import SCHEDULES
from ssmctx.errors import ArgumentError

LAMBDAS = {
    "mse": (0.0025, 0.0035, 0.0067, 0.013, 0.025, 0.05),
    "ms-ssim": (2.40, 4.58, 8.73, 16.64, 31.73, 60.50),
}
"""Lambda of quality 1, 2, ... The paper's for MSE; for MS-SSIM, of which it names none, those of CompressAI's model
zoo (the table under "Training" in its documentation), whose loss lambda * (1 - MS-SSIM) + bpp is ours."""

LAMBDA_RANGES = {"mse": (0.001, 0.032), "ms-ssim": (1.2, 38.4)}
"""Lambda of the first and of the last quality of a codec with several: about 0.1 to 0.8 bits per pixel."""

PRECISIONS = ("no", "bf16", "fp16")


@dataclass
class TrainingPlan:
    """What to train, on what, for how long. Fields are the flags of `train`, explained there."""

    data: Path
    out: Path
    preset: str = "tiny"
    variant: str = "mambaic"
    lmbda: float = 0.0067
    lmbda_range: Sequence[float] | None = None
    metric: str = "mse"
    epochs: int = 250
    steps: int | None = None
    minutes: float = math.inf
    batch_size: int = 8
    crop: int = 256
    last_crop: int | None = None
    last_part: float = 0.2
    optimiser: str = "adam"
    lr: float = 1e-4
    aux_lr: float = 1e-3
    schedule: str = "constant"
    milestones: Sequence[float] = (0.8, 0.95)
    warmup: int = 0
    clip: float = 1.0
    ema: float | None = None
    half: bool = False
    seed: int = 0
    start: Path | None = None
    precision: str | None = None
    cpu: bool = False
    cuda_graphs: bool = False
    workers: int | None = None
    cache_mb: int = 1024
    checkpoint_minutes: float = 5.0
    resume: bool = False
    max_skipped: int = 10
    logdir: Path | None = None

    @property
    def lmbdas(self) -> Sequence[float]:
        """The lambdas of the first and of the last quality, for codecs that have several."""
        return LAMBDA_RANGES[self.metric] if self.lmbda_range is None else self.lmbda_range

    @property
    def crops(self) -> tuple[int, ...]:
        """The sides of crops, first and last."""
        return (self.crop,) if self.last_crop is None else (self.crop, self.last_crop)

    def check(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ArgumentError: a field has a value out of its range.
        """
        for field, known in (("metric", tuple(LAMBDAS)), ("schedule", SCHEDULES), ("optimiser", OPTIMISERS)):
            if getattr(self, field) not in known:
                raise ArgumentError(f"unknown {field} {getattr(self, field)!r}; known: {', '.join(known)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ArgumentError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")
        if self.metric == "ms-ssim" and self.crop < MS_SSIM_MIN_SIDE:
            raise ArgumentError(
                f"MS-SSIM uses five scales and needs crops of at least {MS_SSIM_MIN_SIDE} pixels, "
                f"got {self.crop}: raise --crop, or train with --metric mse"
            )
        if len(self.lmbdas) != 2 or not 0 < self.lmbdas[0] <= self.lmbdas[1]:
            raise ArgumentError(f"a range of lambdas has a smallest and a largest, got {list(self.lmbdas)}")
        if not 0 < self.last_part < 1:
            raise ArgumentError(f"the last part of the run must lie between 0 and 1, got {self.last_part}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ArgumentError(f"the decay of the weights' average must lie between 0 and 1, got {self.ema}")
        if any(not 0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ArgumentError(f"milestones are rising parts of the run between 0 and 1, got {list(self.milestones)}")


def lambda_of(quality: int, metric: str) -> float:
    """The lambda of a quality index, 1 the lowest.

    Raises:
        ArgumentError: there is no such quality.
    """
    if not 1 <= quality <= len(LAMBDAS[metric]):
        raise ArgumentError(f"quality must be 1 to {len(LAMBDAS[metric])}, got {quality}")
    return LAMBDAS[metric][quality - 1]
