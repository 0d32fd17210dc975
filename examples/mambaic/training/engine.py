"""One training step on any device, in any precision, on any number of processes: Hugging Face accelerate does the rest.

A batch is shared out among the processes and its gradients are averaged, so that the number of processes changes
nothing but the time. Noise and dropped paths are drawn afresh from (seed, step, process), so that no random state need
be saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradScalerKwargs
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mambaic.checkpoint import load_weights, round_to_half
from mambaic.codec import MambaIC
from mambaic.training.ema import moving_average
from mambaic.training.loss import rate_distortion
from mambaic.training.optimisers import optimisers
from mambaic.training.plan import TrainingPlan
from mambaic.training.recorded import RecordedTransforms
from ssmctx.errors import ArgumentError

_FIRST_SCALE = 2.0**12  # of fp16 losses; from 2^16 on, the first steps of every run would overflow
# h_a's last convolution must see more than one cell: PyTorch 2.14's bfloat16 weight gradient of a strided convolution
# over a single cell is memory that nobody filled
_BF16_CPU_CROP = 33


class Point(NamedTuple):
    """What one step measured: the loss, the rate in bits per pixel, the PSNR in dB."""

    loss: float
    bpp: float
    psnr: float


class Measured(NamedTuple):
    """A step: its point, the norm of its gradient, its images, and the means of what each process had to say."""

    point: Point
    norm: float
    images: tuple[Tensor, Tensor]
    said: list[float]

    @property
    def finite(self) -> bool:
        """Whether the step was taken."""
        return math.isfinite(self.point.loss) and math.isfinite(self.norm)


class Task(NamedTuple):
    """What a step trains: a quality for each image, None without, and its lambda and weight."""

    quality: list[float] | None
    lmbda: float | Tensor
    weight: float | Tensor


class Engine:
    """Model, optimisers and average of one training.

    Args:
        plan: what to train.

    Raises:
        ArgumentError: the plan does not fit the processes or the device.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        self.accelerator = accelerator = _accelerator(plan)
        if plan.batch_size % accelerator.num_processes:
            raise ArgumentError(
                f"a batch of {plan.batch_size} cannot be divided evenly among {accelerator.num_processes} "
                f"processes: choose --batch-size, the crops in a step of all of them together, as a multiple"
            )
        share, rank = plan.batch_size // accelerator.num_processes, accelerator.process_index
        self.part = slice(rank * share, (rank + 1) * share)
        torch.manual_seed(plan.seed)
        self.model = MambaIC(plan.preset, plan.variant).to(accelerator.device).train()
        if plan.lmbda_range is not None and self.model.qualities is None:
            raise ArgumentError(f"preset {plan.preset!r} has one rate: choose --lmbda, and leave out --lmbda-range")
        self.average = None if plan.ema is None else moving_average(self.model, plan.ema)
        net, self.aux = optimisers(self.model, plan.optimiser, plan.lr, plan.aux_lr)
        self.weights = [weight for group in net.param_groups for weight in group["params"]]
        # the quantiles have a loss of their own, which needs no data: every process moves them in the same way
        quantiles = [name for name, _ in self.model.named_parameters() if name.endswith(".quantiles")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, quantiles)
        self.forward, self.net = accelerator.prepare(self.model, net)
        self.recorded = _recorded(accelerator, self.model) if plan.cuda_graphs else None

    def step(self, crops: Tensor, number: int, factor: float, say: Callable[[], list[float]]) -> Measured:
        """Take a step, unless its loss or gradient is not finite.

        Args:
            crops: this process's part of the batch, (share, 3, H, W) uint8.
            number: of the step, counted from 0.
            factor: what the learning rate is multiplied by.
            say: gives numbers that are averaged over the processes.
        """
        x = crops.to(self.accelerator.device, non_blocking=True).float() / 255
        if self.recorded is not None:
            self.recorded.fit(x)
        torch.manual_seed(_noise_seed(self.plan.seed, number, self.accelerator.process_index))
        task = self._task(len(x), x.device)
        out = self.forward(x) if task.quality is None else self.forward(x, quality=task.quality)
        losses = rate_distortion(out, x, task.lmbda, self.plan.metric, task.weight)
        self.net.zero_grad(set_to_none=True)
        self.accelerator.backward(losses.objective)
        norm = self.accelerator.clip_grad_norm_(self.weights, self.plan.clip)
        mse = F.mse_loss(out["x_hat"].detach(), x)
        told = torch.tensor(say(), device=x.device)
        mine = torch.cat([torch.stack([losses.loss.detach(), losses.bpp.detach(), mse, norm]), told])
        loss, bpp, mse, norm, *said = self.accelerator.reduce(mine, "mean").tolist()
        psnr = -10 * math.log10(max(mse, 1e-10)) if math.isfinite(mse) else math.nan
        measured = Measured(Point(loss, bpp, psnr), norm, (x, out["x_hat"].detach()), said)
        if measured.finite:
            self._move(factor)
        elif self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # fp16: the next loss is scaled less
        return measured

    def _task(self, images: int, device: torch.device) -> Task:
        """Quality and lambda of each image: of a codec of one rate, the plan's; else spread evenly, at random places.

        The objective is weighted by lambda^-1/2, near the size of its inverse, so that all rates count alike.
        """
        qualities = self.model.qualities
        if qualities is None:
            return Task(None, self.plan.lmbda, 1.0)
        part = (torch.arange(images) + torch.rand(images)) / images
        low, high = (math.log(lmbda) for lmbda in self.plan.lmbdas)
        lmbda = (low + (high - low) * part).exp().to(device)
        return Task((part * (qualities - 1)).tolist(), lmbda, (lmbda / math.exp((low + high) / 2)) ** -0.5)

    def _move(self, factor: float) -> None:
        for group in self.net.param_groups:
            group["lr"] = self.plan.lr * factor
        self.net.step()
        self.aux.zero_grad(set_to_none=True)
        self.model.aux_loss().backward()
        self.aux.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def export(self) -> MambaIC:
        """A model to code with, of the average where there is one.

        Its quantiles, which lag behind z's prior in training, are settled and its tables built.
        """
        best = self.model if self.average is None else self.average.module
        model = MambaIC(self.plan.preset, self.plan.variant)
        model.load_state_dict({name: value.cpu() for name, value in best.state_dict().items()})
        if self.plan.half:
            round_to_half(model)
        model.update(force=True, update_quantiles=True)
        return model

    def state(self) -> dict[str, Any]:
        """The state that `load` resumes from exactly."""
        scaler = self.accelerator.scaler
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "net": self.net.state_dict(),
            "aux": self.aux.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def start(self, checkpoint: dict[str, Any]) -> None:
        """Begin with the weights of a checkpoint."""
        load_weights(self.model, checkpoint)
        if self.average is not None:
            self.average.module.load_state_dict(self.model.state_dict())

    def load(self, state: dict[str, Any]) -> None:
        """Resume from a `state`, of the same preset and variant."""
        self.model.load_state_dict(state["model"])
        self.net.load_state_dict(state["net"])
        self.aux.load_state_dict(state["aux"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        elif self.average is not None:  # averaging starts here
            self.average.module.load_state_dict(state["model"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def _accelerator(plan: TrainingPlan) -> Accelerator:
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False), GradScalerKwargs(init_scale=_FIRST_SCALE)]
    try:
        accelerator = Accelerator(mixed_precision=plan.precision, cpu=plan.cpu, kwargs_handlers=handlers)
    except ValueError as error:
        raise ArgumentError(f"cannot train in precision {plan.precision!r} here ({error}): choose another") from None
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # accelerate takes it for "no"
        raise ArgumentError("precision 'fp16' needs a GPU, and this trains on a CPU: choose bf16 or no")
    if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu" and plan.crop < _BF16_CPU_CROP:
        raise ArgumentError(f"bf16 on a CPU needs crops of at least {_BF16_CPU_CROP} pixels, got {plan.crop}")
    return accelerator


def _recorded(accelerator: Accelerator, model: MambaIC) -> RecordedTransforms:
    if accelerator.device.type != "cuda" or accelerator.num_processes > 1:
        where = f"{accelerator.num_processes} processes on {accelerator.device.type}"
        raise ArgumentError(f"--cuda-graphs needs one process on a CUDA GPU, got {where}: leave it out")
    return RecordedTransforms(model, accelerator.mixed_precision)


def _noise_seed(*indices: int) -> int:
    return int(np.random.SeedSequence(indices).generate_state(1, np.uint64)[0] >> np.uint64(1))
