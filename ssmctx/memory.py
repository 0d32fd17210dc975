"""How much memory a piece of work needs on top of what is in use."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["peak_memory"]


@contextmanager
def peak_memory(device: torch.device | str) -> Iterator[list[int | None]]:
    """Measure the work of a `with` block: afterwards the list holds its peak in bytes.

    The peak is None where the system does not report it.

    On CUDA it is what tensors take; elsewhere, on Linux, what the process has in memory.

    Examples:
        >>> import torch
        >>> from ssmctx.memory import peak_memory
        >>> with peak_memory("cpu") as peak:
        ...     _ = torch.ones(1 << 22)
        >>> peak[0] is None or peak[0] >= 0
        True
    """
    peak: list[int | None] = [None]
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    known = _forget_peak()
    resident = _status("VmRSS") if known else 0
    yield peak
    if known:
        peak[0] = max(0, _status("VmHWM") - resident)


def _forget_peak() -> bool:
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what was freed, so that it counts when it is used again
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
