"""Work in a child process, so that a crash, a hang or excessive memory is a finding and not the end of the run.

A decoder written in C that reads past the end of a short stream takes the whole process with it. The child is a fork:
it has the codec as it is, without pickling. Where there is no fork, or where a GPU is in use, which a fork cannot
share, the work runs in this process, unguarded.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ssmctx.testing.broken import in_brief

__all__ = ["Outcome", "can_isolate", "run_each"]


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Attributes:
        value: what it returned.
        failure: how it ended instead, in words: by a signal, by its time, by its memory, or by an exception.
        seconds: it took.
        fatal: whether it ended its process, took too long or too much memory; an exception is not fatal.
    """

    value: Any
    failure: str | None
    seconds: float
    fatal: bool = False


def can_isolate() -> bool:
    """Whether `run_each` can run tasks in a child process: there is a fork, and no GPU in use."""
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return hasattr(os, "fork") and not in_use


def run_each(
    tasks: Sequence[Callable[[], object]], seconds: float = 60.0, memory_bytes: int = 2 << 30
) -> Iterator[Outcome]:
    """Run tasks one after the other in a child process; a task that ends it costs only itself.

    Args:
        tasks: functions without arguments; what they return must pickle.
        seconds: that each may take.
        memory_bytes: address space that the child may take beyond what this process has; no limit without /proc.

    Returns:
        An iterator over the outcomes, in the order of the tasks.

    Examples:
        >>> import os, time
        >>> from ssmctx.testing.isolation import run_each
        >>> [o.value or o.failure for o in run_each([lambda: "well", lambda: os.abort(), lambda: "again"])]
        ['well', 'the process was killed by SIGABRT', 'again']
        >>> [o.failure for o in run_each([lambda: time.sleep(60)], seconds=0.5)]
        ['did not finish within 0.5 s']
    """
    done = 0
    while done < len(tasks):
        if not can_isolate():
            yield _outcome(tasks[done])
            done += 1
            continue
        pid, pipe = _fork(tasks[done:], memory_bytes)
        try:
            with os.fdopen(pipe, "rb", buffering=0) as results:
                while done < len(tasks):
                    began = time.monotonic()
                    outcome = _receive(results, seconds)
                    late = outcome is None and time.monotonic() - began >= seconds
                    if late:
                        outcome = Outcome(None, f"did not finish within {seconds:g} s", seconds, fatal=True)
                    done += 1
                    if outcome is None:
                        ending, pid = _reap(pid), 0  # the pid may be reused from here on
                        yield Outcome(None, f"the process {ending}", time.monotonic() - began, fatal=True)
                        break
                    yield outcome
                    if late:  # the child still works on it: the next task needs another one
                        break
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
                _reap(pid)


def _fork(tasks: Sequence[Callable[[], object]], memory_bytes: int) -> tuple[int, int]:
    """The child that works through the tasks, and the pipe that its results come by."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
        pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        _settle(memory_bytes)
        for task in tasks:
            data = pickle.dumps(_outcome(task))
            _write_all(writing, len(data).to_bytes(8, "little") + data)
        status = 0
    finally:
        os._exit(status)  # without the parent's exit handlers: no test report, no flush, no hook


def _settle(memory_bytes: int) -> None:
    """Make a fresh fork fit for work: quiet, on one thread, within its memory."""
    faulthandler.disable()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    torch.set_num_threads(1)  # the threads that the parent's OpenMP made do not exist here
    statm = Path("/proc/self/statm")
    if statm.exists():
        import resource  # not on every system

        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        allowed = used + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (allowed if hard < 0 else min(allowed, hard), hard))


def _outcome(task: Callable[[], object]) -> Outcome:
    began = time.monotonic()
    value, failure, short = None, None, False
    try:
        value = task()
    except Exception as error:
        short = isinstance(error, MemoryError) or "allocate memory" in str(error)
        failure = f"it exceeded its memory limit ({in_brief(error)})" if short else in_brief(error)
    return Outcome(value, failure, time.monotonic() - began, fatal=short)


def _receive(results: BinaryIO, seconds: float) -> Outcome | None:
    """The next outcome; None when the child ended or the time did."""
    deadline = time.monotonic() + seconds
    data = b""
    wanted = 8
    while len(data) < wanted:
        ready, _, _ = select.select([results], [], [], max(0.0, deadline - time.monotonic()))
        part = results.read(wanted - len(data)) if ready else b""
        if not part:
            return None
        data += part
        if wanted == 8 and len(data) == 8:
            wanted += int.from_bytes(data, "little")
    outcome: Outcome = pickle.loads(data[8:])
    return outcome


def _reap(pid: int) -> str:
    """Wait for the child; how it ended, in words."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with code {os.WEXITSTATUS(status)}"


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
