"""The scan of an image in four directions, cross-scan and merge included, beside its peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measure import peak_bytes
from scan import image_inputs
from torch import Tensor

from on_gpu.parts import Clock, Save, each, said
from on_gpu.plan import Plan, Size
from on_gpu.timing import Run, copy_bandwidth, event_seconds, graphed
from ssmctx.scan.backend import load
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.operator import scan

BACKENDS = ("triton", "mamba_ssm", "torch")


def measure_scans(plan: Plan, save: Save, clock: Clock) -> None:
    """All sizes, the most important first."""
    save("copy_bytes_per_s", copy_bandwidth(plan.device))
    each(((" x ".join(map(str, size)), lambda size=size: measure_scan(plan, size)) for size in plan.scans), save, clock)


def measure_scan(plan: Plan, size: Size) -> dict[str, Any]:
    """Seconds, bandwidth and memory of each backend, forward and both ways; those that fail say why.

    The bandwidth is forward's and counts what has to move at least: each input and the result once. The difference is
    that from the last backend that could be timed.
    """
    leaves = image_inputs(*size, plan.states, plan.device)
    u = leaves[0]

    def forward(name: str) -> Tensor:
        with torch.no_grad():
            return scan(*leaves, None, DIRECTIONS, True, name)[0]

    def both(name: str) -> Any:
        v = scan(*leaves, None, DIRECTIONS, True, name)[0]
        return torch.autograd.grad(v, leaves, dv)

    def first_call(name: str) -> tuple[int | None, int | None]:
        """Peak bytes, forward and both ways."""
        return (
            peak_bytes(lambda: values.update({name: forward(name)}), plan.device),
            peak_bytes(lambda: both(name), plan.device),
        )

    dv = torch.ones_like(u)
    rows: dict[str, dict[str, Any]] = {}
    values: dict[str, Tensor] = {}
    peaks: dict[str, tuple[int | None, int | None]] = {}
    for name in BACKENDS:
        reason = load(name).refuses(u.device, u.dtype, plan.states)
        if not reason and name == "torch" and u.numel() > plan.largest_for_torch:
            reason = "it keeps all states, too many at this size"
        if reason:
            rows[name] = {"left_out": reason}
            continue
        peaks[name], reason = tried(lambda name=name: first_call(name))
        rows[name] = {"not_timed": reason} if reason else {}
    names = [name for name in BACKENDS if not rows[name]]
    forwards: dict[str, Run] = {name: lambda name=name: forward(name) for name in names}
    boths: dict[str, Run] = {name: lambda name=name: both(name) for name in names}
    if plan.device == "cuda" and "triton" in names:
        replay, reason = tried(lambda: graphed(forwards["triton"]))
        rows["triton, CUDA graph"] = {"not_timed": reason} if reason else {}
        forwards |= {} if reason else {"triton, CUDA graph": replay}
    times = event_seconds(forwards, plan.rounds, plan.repeat, plan.device)
    times_both = event_seconds(boths, plan.rounds, plan.repeat, plan.device)
    moved = sum(x.nbytes for x in leaves) + u.nbytes
    last = values[names[-1]] if names else u
    for name in forwards:
        rows[name]["forward_s"] = times[name]
        rows[name]["bytes_per_s"] = moved / times[name]
        rows[name]["steps_per_s"] = len(DIRECTIONS) * u.numel() * plan.states / times[name]
    for name in names:
        rows[name]["forward_backward_s"] = times_both[name]
        rows[name]["peak_bytes"], rows[name]["peak_backward_bytes"] = peaks[name]
        rows[name]["difference"] = float((values[name] - last).abs().max() / last.abs().max())
    return rows


def tried(run: Callable[[], Any]) -> tuple[Any, str | None]:
    """What a first call gives, or why it fails."""
    try:
        return run(), None
    except Exception as error:  # too little memory, above all
        return None, said(error)
