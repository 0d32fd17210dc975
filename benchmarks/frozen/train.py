"""One training: a context model on frozen latents, the same batches whatever the context; it goes on where it ended."""

from __future__ import annotations

import io
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from frozen.latents import Latents
from frozen.model import FrozenModel
from ssmctx import ContextModel, registry
from ssmctx.distributions import resolve_distribution
from ssmctx.errors import ArgumentError, CheckpointError
from ssmctx.files import write_whole

FORMAT = "ssmctx-frozen-run-1"
_WARM_UP, _LAST, _NORM = 200, 0.02, 1.0
_SAVE_EVERY = 120.0  # seconds


@dataclass(frozen=True)
class Plan:
    """Settings of one training run, with its budget in `steps` or CPU `minutes`, one of them 0.

    Attributes:
        context: name in `ssmctx.registry.contexts`, with keywords as in "carried-state:dim=64"; the keyword "scales" is
            that of `MambaICEntropyModel`.
        distribution: name in `ssmctx.registry.distributions`.
        seed: of the weights and of the batches.
        steps: how many, or 0.
        minutes: of CPU time of this process, or 0.
        batch: latents a step.
        crop: side of the crops, in latent positions.
        rate: highest learning rate of Adam.
    """

    context: str
    distribution: str
    seed: int
    steps: int
    minutes: float
    batch: int
    crop: int
    rate: float

    @property
    def name(self) -> str:
        """The plan as a file name."""
        budget = f"{self.steps}steps" if self.steps else f"{self.minutes:g}min"
        context = self.context.replace(":", "-").replace(",", "-").replace("=", "")
        return f"{context}_{self.distribution}_{budget}_lr{self.rate:g}_seed{self.seed}"


def make_context(spec: str, latents: Latents) -> ContextModel:
    """The context of a plan; one that takes `spread` is told that of the channels."""
    name, _, keywords = spec.partition(":")
    given: dict[str, Any] = {}
    for part in filter(None, keywords.split(",")):
        key, _, value = part.partition("=")
        given[key] = int(value) if value.isdigit() else None if value == "none" else value
    if "spread" in registry.contexts.takes(name):
        given.setdefault("spread", latents.spread.tolist())
    context = registry.contexts.create(name, latents.M, **given)
    if context.order.num_channels != latents.M:
        raise ArgumentError(f"{spec} is made for {context.order.num_channels} channels, the latents have {latents.M}")
    return context


def make_model(plan: Plan, latents: Latents) -> FrozenModel:
    """The untrained model of a plan."""
    torch.manual_seed(plan.seed)
    name, colon, keywords = plan.context.partition(":")
    parts = keywords.split(",")
    scales = next((part.removeprefix("scales=") for part in parts if part.startswith("scales=")), None)
    own = ",".join(part for part in parts if not part.startswith("scales="))
    context = make_context(f"{name}{colon}{own}", latents)
    return FrozenModel(context, resolve_distribution(plan.distribution), scales)


def train(plan: Plan, latents: Latents, path: Path) -> FrozenModel:
    """The trained model of a plan. `path` holds its state, and is read where it exists."""
    model = make_model(plan, latents)
    main = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    adam = torch.optim.Adam(main, lr=plan.rate, fused=True)
    quantiles = torch.optim.Adam([model.entropy_bottleneck.quantiles], lr=1e-3, fused=True)
    step, used, curve = 0, 0.0, []
    if path.exists():
        state = read_run(path, plan, latents)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        quantiles.load_state_dict(state["quantiles"])
        step, used, curve = state["step"], state["seconds"], state["curve"]
    began, saved, recent = time.process_time() - used, time.monotonic(), []
    model.train()

    def done() -> float:
        return step / plan.steps if plan.steps else (time.process_time() - began) / (60 * plan.minutes)

    def save() -> None:
        buffer = io.BytesIO()
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "quantiles": quantiles.state_dict()}
        numbers = {"step": step, "seconds": time.process_time() - began, "curve": curve}
        torch.save({"format": FORMAT, "plan": asdict(plan), "codec": latents.codec, **state, **numbers}, buffer)
        write_whole(path, buffer.getvalue())

    with tqdm(total=100, initial=int(100 * done()), desc=plan.name, bar_format="{l_bar}{bar}| {postfix}") as bar:
        while done() < 1:
            for group in adam.param_groups:
                group["lr"] = plan.rate * min((step + 1) / _WARM_UP, _decayed(done()))
            y = crops(latents, plan, step)
            torch.manual_seed(plan.seed * 1_000_003 + step)  # of the noise on z
            bits_y, bits_z = model(y)
            loss = (bits_y + bits_z) / (y[:, 0].numel() * 256)
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(main, _NORM)
            adam.step()
            quantiles.zero_grad()
            model.entropy_bottleneck.loss().backward()
            quantiles.step()
            step += 1
            recent.append(loss.item())
            if not math.isfinite(recent[-1]):
                raise ArgumentError(f"{plan.name}: the loss is {recent[-1]} at step {step}; lower --rate")
            if step % 100 == 0:
                curve.append([step, sum(recent) / len(recent)])
                recent = []
                bar.n = int(100 * min(1, done()))
                bar.set_postfix_str(f"step {step}, {curve[-1][1]:.4f} bpp")
            if time.monotonic() - saved > _SAVE_EVERY:
                save()
                saved = time.monotonic()
    save()
    return model


def crops(latents: Latents, plan: Plan, step: int) -> Tensor:
    """The batch of a step, (batch, M, crop, crop) float32: a function of the plan's seed and the step alone."""
    random = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    batch = []
    for _ in range(plan.batch):
        y = latents.train[int(torch.randint(len(latents.train), (), generator=random))]
        corner = [int(torch.randint(max(1, side - plan.crop + 1), (), generator=random)) for side in y.shape[1:]]
        batch.append(y[:, corner[0] : corner[0] + plan.crop, corner[1] : corner[1] + plan.crop])
    return torch.stack(batch).float()


def read_run(path: Path, plan: Plan, latents: Latents) -> dict[str, Any]:
    """The state of a training.

    Raises:
        CheckpointError: the file is damaged, or of another plan or other latents.
    """
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # torch.load fails in as many ways as files can be foreign
        raise CheckpointError(f"{path} is damaged ({error}): delete it to train again") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a run of this benchmark ({FORMAT}): give another --out")
    if state["plan"] != asdict(plan) or state["codec"] != latents.codec:
        raise CheckpointError(
            f"{path} is a training of {state['plan']} on {state['codec']}, not of {asdict(plan)} on {latents.codec}: "
            "give another --out"
        )
    return state


def _decayed(part: float) -> float:
    """Cosine from 1 to a last small rate."""
    return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
