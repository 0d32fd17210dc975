"""Training: Adam on lambda * distortion + rate, an auxiliary Adam for the quantiles of z."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from compressai.losses import RateDistortionLoss
from compressai.optimizers import net_aux_optimizer
from torch.utils.data import DataLoader, RandomSampler
from tqdm import tqdm

from mambaic.checkpoint import load_weights, read_checkpoint, save_checkpoint
from mambaic.codec import MambaIC
from mambaic.errors import TrainingError
from mambaic.images import RandomCrops


@dataclass
class TrainingPlan:
    """What to train, on what, for how long. Fields are the flags of `train`."""

    data: Path
    out: Path
    preset: str = "tiny"
    variant: str = "mambaic"
    lmbda: float = 0.0067
    epochs: int = 250
    steps: int | None = None
    minutes: float = math.inf
    batch_size: int = 8
    crop: int = 256
    lr: float = 1e-4
    aux_lr: float = 1e-3
    clip: float = 1.0
    seed: int = 0
    workers: int = 0
    checkpoint_minutes: float = 5.0
    resume: bool = False
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")


class Point(NamedTuple):
    """What one step measured: the loss, the rate in bits per pixel, the PSNR in dB."""

    loss: float
    bpp: float
    psnr: float


def train(plan: TrainingPlan) -> list[Point]:
    """Train a model and leave a checkpoint at `plan.out`.

    Ends after `plan.steps` steps (by default `plan.epochs` passes over the data) or `plan.minutes`, whichever is first.

    Raises:
        DataError: no usable pictures.
        CheckpointError: the checkpoint to resume from is missing or of another preset.
        TrainingError: the loss is not finite; the last checkpoint stays as it was.
    """
    torch.manual_seed(plan.seed)
    crops = RandomCrops(plan.data, plan.crop)
    note = f" ({crops.skipped} smaller than {plan.crop}x{plan.crop} left out)" if crops.skipped else ""
    tqdm.write(f"{len(crops)} pictures{note}, {plan.preset} {plan.variant}, lambda {plan.lmbda}, on {plan.device}")
    model = MambaIC(plan.preset, plan.variant).to(plan.device).train()
    adam = {"net": {"type": "Adam", "lr": plan.lr}, "aux": {"type": "Adam", "lr": plan.aux_lr}}
    optimizers = net_aux_optimizer(model, adam)
    history: list[Point] = []
    if plan.resume:
        history = _resume(plan, model, optimizers)
    total = plan.steps if plan.steps is not None else max(1, plan.epochs * len(crops) // plan.batch_size)
    left = max(0, total - len(history))
    sampler = RandomSampler(crops, num_samples=max(1, left * plan.batch_size))
    loader = DataLoader(crops, plan.batch_size, sampler=sampler, num_workers=plan.workers)
    loss_of = RateDistortionLoss(lmbda=plan.lmbda)
    end = saved = time.monotonic()
    end += 60 * plan.minutes
    with tqdm(total=total, initial=len(history), desc="train", unit="step", dynamic_ncols=True) as bar:
        for _, x in zip(range(left), loader, strict=False):
            history.append(_step(plan, model, optimizers, loss_of, x.to(plan.device)))
            bar.update()
            bar.set_postfix({key: f"{value:.3f}" for key, value in _recent(history)._asdict().items()})
            now = time.monotonic()
            if now > end:
                break
            if now > saved + 60 * plan.checkpoint_minutes:
                _save(plan, model, optimizers, history)
                saved = now
    _save(plan, model, optimizers, history)
    return history


def _step(plan: TrainingPlan, model: MambaIC, optimizers: dict, loss_of: Any, x: torch.Tensor) -> Point:
    out = loss_of(model(x), x)
    if not math.isfinite(out["loss"].item()):
        raise TrainingError(
            f"the loss became {out['loss'].item()}: lower --lr (now {plan.lr}) or --clip (now {plan.clip}) "
            f"and continue from the last checkpoint with --resume"
        )
    optimizers["net"].zero_grad(set_to_none=True)
    out["loss"].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
    optimizers["net"].step()
    optimizers["aux"].zero_grad(set_to_none=True)
    model.aux_loss().backward()
    optimizers["aux"].step()
    mse = max(out["mse_loss"].item(), 1e-10)
    return Point(out["loss"].item(), out["bpp_loss"].item(), -10 * math.log10(mse))


def _recent(history: list[Point], steps: int = 20) -> Point:
    return Point(*(fmean(column) for column in zip(*history[-steps:], strict=True)))


def _save(plan: TrainingPlan, model: MambaIC, optimizers: dict, history: list[Point]) -> None:
    state = {"history": torch.tensor(history), **{name: opt.state_dict() for name, opt in optimizers.items()}}
    state |= {"lmbda": plan.lmbda, "random": torch.get_rng_state()}
    state["quantiles"] = model.latent_codec.entropy_bottleneck.quantiles.detach().cpu()
    # a model to code with: its quantiles, which lag behind z's prior in training, are settled and its tables built
    export = copy.deepcopy(model)
    export.update(force=True, update_quantiles=True)
    save_checkpoint(plan.out, export, state)


def _resume(plan: TrainingPlan, model: MambaIC, optimizers: dict) -> list[Point]:
    content = read_checkpoint(plan.out)
    load_weights(model, content)
    state = content["training"]
    model.latent_codec.entropy_bottleneck.quantiles.data.copy_(state["quantiles"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    return [Point(*values) for values in state["history"].tolist()]
