"""What a run asks of the device: operators, kernels, copies, and how often the host waits, by stage of coding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from codec import part_name
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from ssmctx.stages import observe

_STAGE = "stage: "
_LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_BUSIEST, _NAME = 25, 100  # so many kernels are named, with so many characters
_READS = ("aten::_local_scalar_dense", "aten::nonzero")
"""Operators whose result the host needs, so that a GPU is waited for."""


class _Marks:
    """An observer that marks stages in the profile."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def begin(self, stage: str, index: int | None) -> None:
        """See `ssmctx.stages.Observer`."""
        self._open.append(record_function(_STAGE + part_name(stage, index)))
        self._open[-1].__enter__()

    def end(self, stage: str, index: int | None) -> None:
        """See `ssmctx.stages.Observer`."""
        self._open.pop().__exit__(None, None, None)


def launches(run: Callable[[], object], device: str) -> dict[str, Any]:
    """Counts of one call: operators that no operator called, kernels, launches, copies, waits; in all and by stage.

    "busy_us" is how long the device worked, "busiest" the kernels that it worked longest for. Work outside any stage
    counts as "rest". On a CPU there are operators only, and "reads": those of which the host reads a result, which
    would make it wait for a GPU.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler, observe(_Marks()):
        run()
        if device == "cuda":
            torch.cuda.synchronize()
    by_stage: dict[str, Counter[str]] = {}
    whole: Counter[str] = Counter()
    busy: Counter[str] = Counter()
    for event in profiler.events():
        if event.device_type != DeviceType.CPU:
            if not event.name.startswith(_STAGE):
                whole["copies_and_fills" if event.name.startswith(("Memcpy", "Memset")) else "kernels"] += 1
                busy[event.name[:_NAME]] += round(event.time_range.elapsed_us())
            continue
        for kind in _kinds(event):
            whole[kind] += 1
            by_stage.setdefault(_stage_of(event), Counter())[kind] += 1
    whole["busy_us"] = busy.total()
    stages = {name: dict(counts) for name, counts in by_stage.items()}
    return {**whole, "stages": stages, "busiest": dict(busy.most_common(_BUSIEST))}


def _kinds(event: Any) -> list[str]:
    """What a CPU-side event counts as."""
    kinds = []
    if _is_operator(event) and not any(_is_operator(parent) for parent in _parents(event)):
        kinds.append("operators")
    if event.name in _READS:
        kinds.append("reads")
    if event.name.startswith(_LAUNCHES):
        kinds.append("launches")
    if event.name in _WAITS:
        kinds.append("waits")
    return kinds


def _is_operator(event: Any) -> bool:
    return "::" in event.name and not event.name.startswith(_STAGE)


def _parents(event: Any) -> list[Any]:
    found = []
    while (event := event.cpu_parent) is not None:
        found.append(event)
    return found


def _stage_of(event: Any) -> str:
    names = (parent.name for parent in _parents(event))
    return next((name.removeprefix(_STAGE) for name in names if name.startswith(_STAGE)), "rest")
