"""Ablations: several variants trained alike over several seeds, and compared (the paper's tables 2, 3, 4 and A2)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from tqdm import tqdm

from mambaic.codec import MambaIC, find_variant
from mambaic.errors import CurveError
from mambaic.evaluation.bdrate import bd_rate
from mambaic.evaluation.curves import Curve, read_curve, write_curve
from mambaic.evaluation.evaluate import evaluate
from mambaic.evaluation.tables import markdown
from mambaic.training.train import TrainingPlan, train
from ssmctx import profile
from ssmctx.errors import ArgumentError
from ssmctx.files import write_whole

TABLES = {
    "2": ("context-none", "context-channel", "context-no-wla", "mambaic"),
    "3": ("all-cnn", "all-transformer", "mambaic"),
    "4": ("mambavc", "context-window-4", "mambaic", "context-window-16"),
    "A2": ("main-cnn", "main-transformer", "hyper-cnn", "hyper-transformer", "context-cnn", "context-transformer")
    + ("mambaic",),
}
_PROFILE_SIDE = 256


@dataclass(frozen=True)
class AblationPlan:
    """What to compare, and how to train it.

    Attributes:
        data: folder of images to train on.
        test_data: folder of images to evaluate on.
        out: folder for checkpoints and results; a call with the same plan continues an earlier one.
        variants: as `mambaic.codec.find_variant` takes them; rows of the table.
        anchor: the variant that BD-rates refer to.
        lambdas: one for each point of a curve; 4 or more give BD-rates.
        seeds: each trains every variant and lambda once.
        steps: optimiser steps of each run; or
        minutes: wall-clock of each run.
    """

    data: Path
    test_data: Path
    out: Path
    variants: Sequence[str] = TABLES["2"]
    anchor: str = "mambaic"
    lambdas: Sequence[float] = (0.0067,)
    seeds: Sequence[int] = (0, 1, 2)
    steps: int | None = None
    minutes: float | None = None
    preset: str = "tiny"
    batch_size: int = 8
    crop: int = 256
    lr: float = 1e-4
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in self.variants:
            find_variant(name)
        if self.anchor not in self.variants:
            raise ArgumentError(f"the anchor {self.anchor!r} is none of the variants: {', '.join(self.variants)}")
        if (self.steps is None) == (self.minutes is None):
            raise ArgumentError("an ablation needs equal steps or equal minutes: give exactly one of the two")
        for name, values in (("variants", self.variants), ("lambdas", self.lambdas), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ArgumentError(f"{name} must name at least one, each once, got {list(values)}")


class Trained(NamedTuple):
    """A trained and evaluated variant of one seed: its curve over the lambdas, its RD loss at each, its steps."""

    curve: Curve
    losses: list[float]
    steps: float


def ablate(plan: AblationPlan) -> str:
    """Train and evaluate everything that the plan names; returns the table, in Markdown.

    Raises:
        ArgumentError: `plan.out` holds runs of another plan.
        DataError: a folder has no usable images.
        TrainingError: a run fails.
    """
    _check_settings(plan)
    todo = [(seed, variant) for seed in plan.seeds for variant in plan.variants]
    runs: dict[tuple[int, str], Trained] = {}
    for seed, variant in tqdm(todo, desc="ablate", unit="curve", dynamic_ncols=True):
        runs[seed, variant] = _run(plan, seed, variant)
    return _table(plan, runs)


def _run(plan: AblationPlan, seed: int, variant: str) -> Trained:
    """Train and evaluate one variant with one seed, or read what an earlier call left."""
    file = plan.out / f"{variant}-seed{seed}.json"
    if not file.is_file():
        checkpoints, steps = [], []
        for lmbda in plan.lambdas:
            checkpoint = plan.out / f"{variant}-seed{seed}-lambda{lmbda:g}.pt"
            steps.append(len(train(_training(plan, seed, variant, lmbda, checkpoint))))
            checkpoints.append(checkpoint)
        content = evaluate(checkpoints, plan.test_data, name=variant, device=plan.device)
        content["meta"]["steps"] = fmean(steps)
        write_curve(file, content)
    curve = read_curve(file)
    return Trained(curve, _rd_losses(curve), curve.meta["steps"])


def _check_settings(plan: AblationPlan) -> None:
    """Keep what makes runs comparable in a file among them; refuse to add others to them."""
    which = {k: v for k, v in asdict(plan).items() if k not in ("out", "variants", "anchor", "seeds")}
    settings = json.dumps(which, indent=1, default=str)
    file = plan.out / "plan.json"
    if not file.is_file():
        write_whole(file, settings.encode())
    elif file.read_text() != settings:
        raise ArgumentError(f"{file} holds other settings than these: choose another --out, or remove that folder")


def _training(plan: AblationPlan, seed: int, variant: str, lmbda: float, checkpoint: Path) -> TrainingPlan:
    training = TrainingPlan(
        data=plan.data,
        out=checkpoint,
        preset=plan.preset,
        variant=variant,
        lmbda=lmbda,
        steps=plan.steps,
        seed=seed,
        crop=plan.crop,
        batch_size=plan.batch_size,
        lr=plan.lr,
        cpu=plan.device == "cpu",
        resume=True,
    )
    if plan.minutes is not None:
        training.minutes, training.epochs = plan.minutes, 10**6  # the clock ends it
    return training


def _rd_losses(curve: Curve) -> list[float]:
    r"""Mean over images of $\lambda\, 255^2\, \mathrm{MSE} + \mathrm{bpp}$ at each point, from files and pixels."""
    return [
        fmean(lmbda * 255**2 * 10 ** (-image["psnr-rgb"][i] / 10) + image["bpp"][i] for image in curve.images.values())
        for i, lmbda in enumerate(curve.meta["lambdas"])
    ]


def _table(plan: AblationPlan, runs: dict[tuple[int, str], Trained]) -> str:
    rows = []
    for variant in plan.variants:
        mine = [runs[seed, variant] for seed in plan.seeds]
        *parts, whole = profile(MambaIC(plan.preset, variant), (_PROFILE_SIDE, _PROFILE_SIDE))
        context = next(part for part in parts if part.name == "context")
        rows.append(
            [
                variant,
                _spread([fmean(run.losses) for run in mine], ".4f"),
                _spread(_bd_rates(plan, variant, runs), "+.2f"),
                f"{whole.parameters / 1e6:.3f}",
                f"{context.parameters / 1e6:.3f}",
                f"{whole.multiply_adds / _PROFILE_SIDE**2 / 1e3:.2f}",
                _spread([run.steps for run in mine], ".0f"),
                _spread([1e3 * (run.curve.mean("encoding_time") or 0) for run in mine], ".1f"),
                _spread([1e3 * (run.curve.mean("decoding_time") or 0) for run in mine], ".1f"),
            ]
        )
    header = ["variant", "RD loss", f"BD-rate vs {plan.anchor} (%)", "M parameters", "of the context"]
    return markdown([*header, "kMAC/pixel", "steps", "encode ms", "decode ms"], rows)


def _bd_rates(plan: AblationPlan, variant: str, runs: dict[tuple[int, str], Trained]) -> list[float]:
    """BD-rate of each seed against the anchor of the same seed; none where the curves do not allow one."""
    try:
        return [bd_rate(runs[seed, variant].curve, runs[seed, plan.anchor].curve).percent for seed in plan.seeds]
    except CurveError:
        return []


def _spread(values: Sequence[float], form: str) -> str:
    """Mean and, of several, the standard deviation."""
    if not values or not all(map(math.isfinite, values)):
        return "-"
    mean = f"{fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):{form.lstrip('+')}}"
