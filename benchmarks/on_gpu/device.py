"""What the device is, and the Triton kernels: their tests on it, and their compilation beforehand."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from on_gpu.knobs import CANDIDATES, Change, constants
from on_gpu.parts import Clock, Save
from on_gpu.plan import Plan
from on_gpu.timing import copy_bandwidth

ROOT = Path(__file__).resolve().parents[2]
_MOST_WORKERS = 12


def describe(plan: Plan, save: Save, clock: Clock) -> None:
    """The machine, and the bandwidth of its memory."""
    from measure import machine

    save("machine", machine())
    if plan.device == "cuda":
        about = torch.cuda.get_device_properties(0)
        save("memory_bytes", about.total_memory)
        save("multiprocessors", about.multi_processor_count)
        save("capability", [about.major, about.minor])
    save("copy_bytes_per_s", copy_bandwidth(plan.device))


def run_tests(plan: Plan, save: Save, clock: Clock) -> None:
    """The tests that need a device: the Triton kernels against a float64 loop, integer scales against the CPU's."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plan.tests]
    if plan.device == "cuda" and find_spec("xdist"):  # nearly all of the time is compilation
        command += ["-n", str(workers())]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, clock.left()))
    except subprocess.TimeoutExpired as late:
        save("output", _tail(late.stdout))
        raise
    save("output", _tail(done.stderr + done.stdout))
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    save("counts", counts)
    if done.returncode != 0:
        raise RuntimeError(f"pytest ended with exit code {done.returncode}: {counts}")


def compile_kernels(plan: Plan, save: Save, clock: Clock) -> None:
    """All kernels that the later parts launch, each size in a process of its own, into caches on disk."""
    if find_spec("triton") is None:  # whether there is a GPU cannot be asked before these processes are forked
        save("skipped", "triton is not installed")
        return
    from on_gpu.walk import host_kernels

    began = time.monotonic()
    changes = [changed for tries in CANDIDATES.values() for changed in tries[: plan.tries]]
    jobs: list[tuple[int, Change]] = [(channels, {}) for channels in plan.channels]
    jobs += [(channels, changed) for channels in sorted({size[0] for size in plan.knobs}) for changed in changes]
    runs: list[partial[object]] = [partial(host_kernels), *(partial(_launch, plan, *job) for job in jobs)]
    codes = in_processes(runs, workers(), clock)
    save(
        "failed", [f"{runs[i].func.__name__}{runs[i].args[1:]}: exit code {code}" for i, code in codes.items() if code]
    )
    save("kernels_of", len(runs))
    save("seconds", round(time.monotonic() - began, 1))


def workers() -> int:
    """Processes that compile at the same time."""
    return max(1, min(_MOST_WORKERS, len(os.sched_getaffinity(0))))


def in_processes(runs: Sequence[Callable[[], object]], together: int, clock: Clock) -> dict[int, int | None]:
    """Exit codes of runs, several at the same time; None of those that time is up for.

    A process takes one run after the other, for CUDA starts anew in each. A run that ends its process, as an exception
    does, gives that exit code, and another process goes on.
    """
    context = multiprocessing.get_context("fork")
    taken, ended = context.Value("i", 0), context.Array("i", len(runs))
    codes: dict[int, int | None] = {}

    def start() -> tuple[Any, Any]:
        at = context.Value("i", 0)
        process = context.Process(target=_take, args=(runs, taken, ended, at))
        process.start()
        return process, at

    going = [start() for _ in range(min(together, len(runs)))] if clock.left() > 0 else []
    while going and clock.left() > 0:
        for process, at in list(going):
            process.join(0.05)
            if process.exitcode is None:
                continue
            going.remove((process, at))
            if not ended[at.value]:
                codes[at.value] = process.exitcode
                going += [start()] if taken.value < len(runs) else []
    for process, _ in going:
        process.kill()
        process.join()
    return {i: codes.get(i, 0 if ended[i] else None) for i in range(len(runs))}


def _take(runs: Sequence[Callable[[], object]], taken: Any, ended: Any, at: Any) -> None:
    """Do runs until none is left, and tell which."""
    while True:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(runs):
            return
        at.value = number
        runs[number]()
        ended[number] = 1


def _launch(plan: Plan, channels: int, changed: Change) -> None:
    """Scans forward and backward of four pixels: kernels depend on channels, states, whether groups of steps are whole,
    and whether directions are launched apart, as of small images, but not on height and width."""
    from scan import image_inputs

    from ssmctx.scan.directions import DIRECTIONS
    from ssmctx.scan.operator import scan

    leaves = image_inputs(channels, 1, 4, plan.states, plan.device)
    for apart in ({}, {"_APART": 0}):
        with constants({**changed, **apart}):
            v, _ = scan(*leaves, None, DIRECTIONS, True, "triton")
            torch.autograd.grad(v.sum(), leaves)
    if plan.device == "cuda":
        torch.cuda.synchronize()


def _tail(text: str | bytes | None) -> str:
    text = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    return text[-4000:]
