"""The whole codec, bytes to pixels and back, stage by stage, and what its coding asks of the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from codec import image, measure, realistic

from on_gpu.launches import launches
from on_gpu.parts import Clock, Save, each
from on_gpu.plan import Plan
from ssmctx.entropy import cuda_graphs

GRAPHS = ", CUDA graphs"
_ROUNDS = 3

Block = Callable[[], AbstractContextManager[None]]


def measure_codecs(plan: Plan, save: Save, clock: Clock) -> None:
    """The paper's layout at all sizes, as it is and with CUDA graphs; then the launches of the smallest image."""
    for name, block in (("", nullcontext), (GRAPHS, cuda_graphs)):
        items = [(f"{w}x{h}{name}", partial(_within, block, measured, plan, (w, h))) for w, h in plan.images]
        each([*items, (f"launches{name}", partial(_within, block, counted, plan, min(plan.images)))], save, clock)


def _within(block: Block, run: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with block():
        return run(*arguments)


def measured(plan: Plan, size: tuple[int, int]) -> dict[str, Any]:
    """As `benchmarks/codec.py` measures it."""
    return measure("paper", plan.preset, image(*size, None), min(_ROUNDS, plan.rounds), plan.device)


def counted(plan: Plan, size: tuple[int, int]) -> dict[str, Any]:
    """Operators, kernels and waits of encoding and decoding."""
    pixels = image(*size, None)
    model = realistic("paper", plan.preset, pixels, plan.device)
    for _ in range(2):  # the second time CUDA graphs are recorded
        data = model.encode(pixels)
        model.decode(data)
    return {
        "encode": launches(lambda: model.encode(pixels), plan.device),
        "decode": launches(lambda: model.decode(data), plan.device),
    }
