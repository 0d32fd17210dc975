"""Memory of a training on a CPU: what a step frees stays in the process for the next one."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to give no freed memory back to the system, for the rest of the process.

    Every step allocates the same tensors. The large ones would come from the system anew, and be filled with zeros a
    page at a time: up to a third of a step on a CPU. Peak memory is up to a third higher, as free memory is fragmented.

    Returns:
        Whether this was glibc, and did so.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # macOS, Windows, musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
