"""SS2D and the VSS block around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measure import peak_bytes
from torch import Tensor, nn

from on_gpu.parts import Clock, Save, each
from on_gpu.plan import Plan, Size
from on_gpu.timing import event_seconds
from ssmctx import VSSBlock


def measure_blocks(plan: Plan, save: Save, clock: Clock) -> None:
    """All sizes."""
    items = ((" x ".join(map(str, size)), lambda size=size: measure_block(plan, size)) for size in plan.blocks)
    each(items, save, clock)


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
