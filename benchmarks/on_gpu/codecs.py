"""The whole codec, bytes to pixels and back, stage by stage, and what its coding asks of the device."""

from __future__ import annotations

from typing import Any

from codec import image, measure, realistic

from on_gpu.launches import launches
from on_gpu.parts import Clock, Save, each
from on_gpu.plan import Plan

_ROUNDS = 3


def measure_codecs(plan: Plan, save: Save, clock: Clock) -> None:
    """The paper's layout at all sizes; then the launches of the smallest image."""
    each(((f"{w}x{h}", lambda size=(w, h): measured(plan, size)) for w, h in plan.images), save, clock)
    each([("launches", lambda: counted(plan, min(plan.images)))], save, clock)


def measured(plan: Plan, size: tuple[int, int]) -> dict[str, Any]:
    """As `benchmarks/codec.py` measures it."""
    return measure("paper", plan.preset, image(*size, None), min(_ROUNDS, plan.rounds), plan.device)


def counted(plan: Plan, size: tuple[int, int]) -> dict[str, Any]:
    """Operators, kernels and waits of encoding and decoding."""
    pixels = image(*size, None)
    model = realistic("paper", plan.preset, pixels, plan.device)
    data = model.encode(pixels)
    model.decode(data)
    return {
        "encode": launches(lambda: model.encode(pixels), plan.device),
        "decode": launches(lambda: model.decode(data), plan.device),
    }
