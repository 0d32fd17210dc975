"""Running the parts of a benchmark: each in its own process, with a share of the time, results kept as they come.

A kernel that faults takes the process's CUDA context with it, and one that hangs takes the process. So neither may
cost more than its own part, and what a part had saved by then stays.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Save = Callable[[str, Any], None]
_SLACK = 2.0  # seconds that a part has to end by itself before it is ended


@dataclass(frozen=True)
class Clock:
    """When a part has to end.

    Attributes:
        end: on `time.monotonic`.
    """

    end: float

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        name: in the results.
        share: of the time, relative to the shares of the parts after it; what a part leaves goes to those.
        run: does it; takes a function that saves a result under a name, and the clock.
    """

    name: str
    share: float
    run: Callable[[Save, Clock], None]


def each(items: Iterable[tuple[str, Callable[[], Any]]], save: Save, clock: Clock) -> None:
    """Save the result of each item; one that fails says why and is passed over, like those that time is up for."""
    for name, run in items:
        if clock.left() < 0:
            save(name, {"not_timed": "no time was left"})
            continue
        try:
            save(name, run())
        except (Exception, SystemExit) as error:  # benchmarks leave by SystemExit where results are wrong
            traceback.print_exc()
            save(name, {"not_timed": said(error)})


def said(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]


def run_parts(parts: list[Part], end: float, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run parts in order until `end`, on `time.monotonic`.

    Args:
        parts: the most important first.
        end: no part goes on after it.
        keep: is given all results whenever there are new ones.

    Returns:
        By the name of the part: its "state" (done, failed, out of time), "seconds", a "reason" unless it is done, and
        what it saved, "results".
    """
    report: dict[str, Any] = {}
    for i, part in enumerate(parts):
        left = end - time.monotonic()
        limit = left * part.share / sum(later.share for later in parts[i:])
        entry: dict[str, Any] = {"state": "running", "seconds": 0.0, "results": {}}
        report[part.name] = entry
        print(f"\n== {part.name}: up to {max(limit, 0):.0f} s", flush=True)
        began = time.monotonic()
        for name, value in _running(part, began + limit, entry):
            entry["results"][name] = value
            keep(report)
        entry["seconds"] = round(time.monotonic() - began, 1)
        print(f"== {part.name}: {entry['state']} after {entry['seconds']} s {entry.get('reason', '')}", flush=True)
        keep(report)
    return report


def _running(part: Part, end: float, entry: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """What a part saves; afterwards its entry has a state."""
    context = multiprocessing.get_context("fork")  # which has torch loaded already; this process never touches CUDA
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(part, Clock(end - _SLACK), theirs))
    process.start()
    theirs.close()
    state, reason = "out of time", "its share of the time ended; results saved before are kept"
    try:
        while ours.poll(max(0.0, end - time.monotonic())):
            try:
                kind, *rest = ours.recv()
            except EOFError:
                process.join(_SLACK)
                state, reason = "failed", f"its process ended with exit code {process.exitcode}"
                break
            if kind == "end":
                state, reason = rest
                process.join(_SLACK)
                break
            yield rest[0], rest[1]
    finally:
        _end(process)
    entry["state"] = state
    if reason:
        entry["reason"] = reason


def _child(part: Part, clock: Clock, results: Connection) -> None:
    os.setpgid(0, 0)  # so that what it starts ends with it
    state, reason = "done", ""
    try:
        part.run(lambda name, value: results.send(("saved", name, value)), clock)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        state, reason = "failed", said(error)
    results.send(("end", state, reason))


def _end(process: Any) -> None:
    """End a part's process, if it has not ended, and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it is gone, or never came so far as to have a group
        process.kill()
    process.join()
