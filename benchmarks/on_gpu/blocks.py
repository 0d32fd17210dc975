"""SS2D and the VSS block around it, and ways to compute the deconvolutions of g_s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measure import peak_bytes
from torch import Tensor, nn

from on_gpu.parts import Clock, Save, each
from on_gpu.plan import Deconvolution, Plan, Size
from on_gpu.timing import event_seconds
from ssmctx import VSSBlock
from ssmctx.entropy import coding_numerics
from ssmctx.layers.deconvolution import Deconv2d


def measure_blocks(plan: Plan, save: Save, clock: Clock) -> None:
    """All sizes."""
    items = [(" x ".join(map(str, size)), lambda size=size: measure_block(plan, size)) for size in plan.blocks]
    items += [(_named(size), lambda size=size: measure_deconvolution(plan, size)) for size in plan.deconvolutions]
    each(items, save, clock)


def _named(size: Deconvolution) -> str:
    inputs, outputs, kernel, height, width = size
    return f"{kernel} x {kernel} deconvolution, {inputs} x {height} x {width} to {outputs} channels"


def measure_deconvolution(plan: Plan, size: Deconvolution) -> dict[str, Any]:
    """Seconds and peak memory of torch's and the library's, as coding runs them and as training does, and of the four
    phases as one convolution, whose channels a pixel shuffle spreads."""
    inputs, outputs, kernel, height, width = size
    layers = {
        "ConvTranspose2d": nn.ConvTranspose2d(inputs, outputs, kernel, 2, kernel // 2, 1),
        "Deconv2d": Deconv2d(inputs, outputs, kernel, 2, kernel // 2, 1),
        "a convolution of phases": nn.Sequential(
            nn.ZeroPad2d((kernel // 4, 1, kernel // 4, 1)),
            nn.Conv2d(inputs, 4 * outputs, kernel // 2 + 1),
            nn.PixelShuffle(2),
        ),
    }
    x = torch.randn(1, inputs, height, width, device=plan.device).to(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], object]] = {}
    for name, layer in layers.items():
        layer.to(plan.device)
        runs[f"{name}, coding"] = lambda layer=layer: _coded(layer, x)
        runs[f"{name}, free kernels"] = lambda layer=layer: _called(layer, x)
    times = event_seconds(runs, plan.rounds, plan.repeat, plan.device)
    return {name: {"seconds": times[name], "peak_bytes": peak_bytes(run, plan.device)} for name, run in runs.items()}


@torch.no_grad()
def _called(layer: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = layer(x)
    return y


def _coded(layer: nn.Module, x: Tensor) -> Tensor:
    with coding_numerics(layer):
        return _called(layer, x)


def measure_block(plan: Plan, size: Size) -> dict[str, Any]:
    """Seconds and peak memory, forward and both ways, of a VSS block and of its SS2D alone."""
    dim, height, width = size
    torch.manual_seed(0)
    block = VSSBlock(dim, d_state=plan.states).to(plan.device)
    x = torch.randn(1, dim, height, width, device=plan.device, requires_grad=True)
    u = torch.randn(1, height, width, 2 * dim, device=plan.device, requires_grad=True)
    runs = {
        **_runs("SS2D", block.scan, u),
        **_runs("VSS block", block, x),
    }
    times = event_seconds(runs, plan.rounds, plan.repeat, plan.device)
    return {name: {"seconds": times[name], "peak_bytes": peak_bytes(run, plan.device)} for name, run in runs.items()}


def _runs(name: str, module: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    weights = list(module.parameters())

    def forward() -> object:
        with torch.no_grad():
            return module(x)

    def both() -> object:
        out = module(x)
        return torch.autograd.grad(out, [x, *weights], torch.ones_like(out))

    return {name: forward, f"{name}, with backward": both}
