"""Time on the device, by events, and what its memory gives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

Run = Callable[[], object]


def event_seconds(runs: dict[str, Run], rounds: int, repeat: int, device: str) -> dict[str, float]:
    """Median seconds of a call of each run, in turns; where there are several rounds, after one that is not timed.

    On CUDA between two events on the device, `repeat` calls in a row: gaps in which it waits for launches count, the
    host's way back does not.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + (rounds > 1)):
        for name, run in runs.items():
            took = _between_events(run, repeat) if device == "cuda" else _on_the_clock(run, repeat)
            if round_number or rounds == 1:
                times[name].append(took / repeat)
    return {name: statistics.median(values) for name, values in times.items()}


def _between_events(run: Run, repeat: int) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(repeat):
        run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def _on_the_clock(run: Run, repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return time.perf_counter() - start


def graphed(run: Run) -> Run:
    """The run as a CUDA graph, which is launched at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what a first call allocates or compiles is not captured
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    source = torch.ones(1 << 28 if device == "cuda" else 1 << 16, device=device)
    target = torch.empty_like(source)
    took = event_seconds({"copy": lambda: target.copy_(source)}, 5, 3, device)["copy"]
    return 2 * source.nbytes / took
