"""The candidates for the scan's kernels beside those that stand: the same results, the same bits twice, how fast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import peak_bytes
from torch import Tensor

from on_gpu.candidates import backward, forward
from on_gpu.knobs import Change, constants, difference_from, scan_inputs, shown
from on_gpu.parts import Clock, Save, each
from on_gpu.plan import Plan, Size
from on_gpu.timing import Run, event_seconds
from ssmctx.scan.triton import launch

Results = tuple[Tensor, ...]

CANDIDATES: dict[str, tuple[Change, ...]] = {
    "forward": (
        {},
        {"_FORWARD_REGISTERS": 96, "_PROGRAMS": 2688},
        {"_STAGES": 4},
        {"_GROUP": 2, "_STAGES": 4},
        {"_APART": 0},
        {"_APART": 1 << 26},
    ),
    "backward": (
        {},
        {"_BACKWARD_REGISTERS": 168},
        {"_BACKWARD_CHUNK": 32},
        {"_BACKWARD_CHUNK": 128},
        {"_BACKWARD_REGISTERS": 168, "_BACKWARD_CHUNK": 32},
        {"_PROGRAMS": 1056},
        {"_PROGRAMS": 1 << 20},
        {"_ADJOINT_REGISTERS": 128},
        {"_KEEP": True},
    ),
}
"""Constants of the candidates' modules, tried beside those that they have."""


def compare(plan: Plan, save: Save, clock: Clock) -> None:
    """Both directions, at the sizes of the constants' search."""
    if reason := launch.unavailable():
        save("skipped", reason)
        return
    for size in plan.knobs:
        for direction in CANDIDATES:
            name = f"{direction}, {' x '.join(map(str, size))}"
            each([(name, partial(compared, plan, direction, size))], save, clock)


def compilations(plan: Plan) -> list[partial[object]]:
    """A first call of every candidate, which compiles its kernels; each for a process of its own."""
    return [
        partial(_first_call, plan, direction, size, changed)
        for size in plan.knobs
        for direction, changes in CANDIDATES.items()
        for changed in changes[: plan.tries]
    ]


def _first_call(plan: Plan, direction: str, size: Size, changed: Change) -> None:
    candidate, _ = _implementations(plan, direction, size)
    candidate(changed)
    if plan.device == "cuda":
        torch.cuda.synchronize()


def _implementations(plan: Plan, direction: str, size: Size) -> tuple[Callable[[Change], Results], Callable[[], Any]]:
    """The candidate, with constants to be changed, and what stands."""
    inputs = scan_inputs(plan, size)
    if direction == "forward":
        module, arguments = forward, (inputs,)
    else:
        module, arguments = backward, (torch.randn_like(inputs.u), torch.randn_like(inputs.h0), inputs)

    def candidate(changed: Change) -> Results:
        with constants(changed, module):
            return getattr(module, direction)(*arguments)

    return candidate, partial(getattr(launch, direction), *arguments)


def compared(plan: Plan, direction: str, size: Size) -> dict[str, Any]:
    """The candidate with each of its constants, beside what stands."""
    candidate, stands = _implementations(plan, direction, size)
    runs: dict[str, Callable[[], Results]] = {}
    for changed in CANDIDATES[direction][: plan.tries]:
        name = f"candidate, {shown(changed)}" if changed else "candidate"
        runs[name] = partial(candidate, changed)
    return _beside(stands, runs, plan)


def _keep(run: Callable[[], Results], made: list[Results]) -> Results:
    made.append(run())
    return made[-1]


def _beside(stands: Run, runs: dict[str, Callable[[], Results]], plan: Plan) -> dict[str, Any]:
    """Times, and the memory of the first candidate, of all that give the results of what stands, every time."""
    expected: Any = stands()
    missing = {}
    for name, run in runs.items():
        made: list[Results] = []
        if reason := difference_from(expected, partial(_keep, run, made)):
            missing[name] = reason
        elif not all(torch.equal(a, b) for a, b in zip(made[0], run(), strict=True)):
            missing[name] = "other bits the second time"
    timed: dict[str, Run] = {"as it stands": stands} | {name: run for name, run in runs.items() if name not in missing}
    return {
        "seconds": event_seconds(timed, plan.rounds, plan.repeat, plan.device),
        "peak_bytes": {name: peak_bytes(run, plan.device) for name, run in list(timed.items())[:2]},
        "not_timed_of": missing,
    }
