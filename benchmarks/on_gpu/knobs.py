"""Constants of the Triton launches, tried one at a time, then those that won together: which to set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from on_gpu.parts import Clock, Save, each
from on_gpu.plan import Plan, Size
from on_gpu.timing import event_seconds
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.inputs import ScanInputs
from ssmctx.scan.triton import launch

Change = dict[str, object]
"""Constants of `ssmctx.scan.triton.launch` and their values."""

CANDIDATES: dict[str, tuple[Change, ...]] = {
    "forward": (
        {"_STAGES": 4},
        {"_GROUP": 2, "_STAGES": 4},
        {"_FORWARD_PROGRAMS": 4096},
        {"_FORWARD_TILE": 512},
    ),
    "backward": (
        {"_BACKWARD_CHUNKS": (64, 64)},
        {"_BACKWARD_CHUNKS": (128, 256)},
        {"_BACKWARD_PROGRAMS": 1056},
        {"_ADJOINT_REGISTERS": 255},
        {"_BACKWARD_TILE": 256},
    ),
}

_GAIN = 0.97  # of the time that a change has to stay below to be worth setting: less is noise
_BOUND = 1e-4


@contextmanager
def constants(changed: Change) -> Iterator[None]:
    """Launch kernels with other constants inside a `with` block."""
    before = {name: getattr(launch, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(launch, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(launch, name, value)


def search(plan: Plan, save: Save, clock: Clock) -> None:
    """Time every candidate in turns with what stands, forward and backward apart."""
    if reason := launch.unavailable():
        save("skipped", reason)
        return
    for size in plan.knobs:
        inputs = scan_inputs(plan, size)
        for direction, run in (("forward", launch.forward), ("backward", backward_of(inputs))):
            name = f"{direction}, {size[0]} x {size[1]} x {size[2]}"
            tries = CANDIDATES[direction][: plan.tries]
            each([(name, lambda r=run, i=inputs, t=tries: compared(lambda: r(i), t, plan))], save, clock)


def compared(run: Callable[[], Any], candidates: Sequence[Change], plan: Plan) -> dict[str, Any]:
    """Times of all candidates that give the same results, and the constants to set."""
    expected = run()
    runs: dict[str, Callable[[], object]] = {"as it stands": run}
    changes: dict[str, Change] = {"as it stands": {}}
    missing = {}
    for changed in candidates:
        name = shown(changed)
        if reason := difference_from(expected, _with(run, changed)):
            missing[name] = reason
            continue
        runs[name], changes[name] = _with(run, changed), changed
    times = event_seconds(runs, plan.rounds, plan.repeat, plan.device)
    together: Change = {}
    for name in sorted(times, key=lambda name: times[name], reverse=True):  # the fastest last, so that it prevails
        if times[name] < _GAIN * times["as it stands"]:
            together |= changes[name]
    best = min(times, key=lambda name: times[name])
    if together and together not in changes.values() and not difference_from(expected, _with(run, together)):
        name = shown(together)
        both = {key: runs[key] for key in ("as it stands", best)} | {name: _with(run, together)}
        changes[name] = together
        times |= event_seconds(both, plan.rounds, plan.repeat, plan.device)
        best = min(both, key=lambda name: times[name])
    to_set = changes[best] if times[best] < _GAIN * times["as it stands"] else {}
    for name, value in to_set.items():
        print(f"set {name} = {value}  # {times[best] / times['as it stands']:.2f} of the time")
    return {"seconds": times, "not_timed_of": missing, "set": to_set}


def scan_inputs(plan: Plan, size: Size) -> ScanInputs:
    """An image's scan in four directions as the kernels take it."""
    from scan import image_inputs

    u, *rest = (x.detach() for x in image_inputs(*size, plan.states, plan.device))
    h0 = u.new_zeros(len(u), *rest[1].shape)
    return ScanInputs(u, *rest, h0, DIRECTIONS, True)


def backward_of(inputs: ScanInputs) -> Callable[[ScanInputs], tuple[Tensor, ...]]:
    """The backward pass for a gradient of ones."""
    dv, dlast = torch.ones_like(inputs.u), torch.zeros_like(inputs.h0)
    return lambda inputs: launch.backward(dv, dlast, inputs)


def shown(changed: Change) -> str:
    """A change in words."""
    return ", ".join(f"{name} = {value}" for name, value in changed.items())


def _with(run: Callable[[], Any], changed: Change) -> Callable[[], Any]:
    def call() -> Any:
        with constants(changed):
            return run()

    return call


def difference_from(expected: Sequence[Tensor], run: Callable[[], Any]) -> str | None:
    """Why a run is not timed; None if it gives the expected results."""
    try:
        actual = run()
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    for a, e in zip(actual, expected, strict=True):
        error = float((a - e).abs().max() / e.abs().max().clamp(min=1e-30))
        if not error < _BOUND:
            return f"other results: relative error {error:.1e}"
    return None
