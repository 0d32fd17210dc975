"""How the benchmarks measure: alternating rounds, medians, peak memory, and what machine it was."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path

import torch

from ssmctx.memory import peak_memory


def machine() -> dict[str, object]:
    """What a result depends on: hardware, threads, versions, commit."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = {}
    for package in ("torch", "numba", "triton", "mambapy", "mamba-ssm"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "date": date.today().isoformat(),
    }


def _commit() -> str:
    """The commit, empty where there is no git or no repository: code may have been copied to a machine with a GPU."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


_PAUSE = 0.1


def seconds(runs: dict[str, Callable[[], object]], rounds: int, device: str, warm: bool = False) -> dict[str, float]:
    """Median time of each run, after one that is not timed unless all is `warm` already.

    The runs take turns, so that a slow moment of the machine hits them all, with a pause before each, so that none is
    timed beside threads that the one before left spinning.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(int(warm), rounds + 1):
        for name, run in runs.items():
            _synchronise(device)
            time.sleep(_PAUSE)
            start = time.perf_counter()
            run()
            _synchronise(device)
            if round_number > 0:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def resident_bytes(device: str) -> int:
    """Memory in use now: of tensors on CUDA, of the whole process elsewhere (0 where the system does not say)."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


def peak_bytes(run: Callable[[], object], device: str) -> int | None:
    """Memory that a run needs on top of what was in use before it; None where the system does not say."""
    with peak_memory(device) as peak:
        run()
    return peak[0]
