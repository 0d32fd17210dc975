"""Ctrl-C and SIGTERM as a wish to stop, which training grants between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """While entered, SIGINT and SIGTERM are noted in `signal`; only a second Ctrl-C interrupts at once.

    A launcher passes on as SIGTERM what its processes have had as SIGINT: that must not stop them from saving.
    """

    signal = 0

    def __enter__(self) -> StopRequest:
        main = threading.current_thread() is threading.main_thread()  # Python lets no other thread handle signals
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM) if main}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
