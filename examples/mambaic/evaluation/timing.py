"""Where coding time goes: network, entropy coder, transfer between devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ssmctx.stages import StageTimes, observe

PARTS = ("network", "coder", "transfer")


class Stopwatch(StageTimes):
    """Seconds that were spent in coder and transfer since `start`."""

    def start(self) -> None:
        """Begin a lap."""
        self.seconds.clear()
        self._start = self.now()

    def lap(self) -> dict[str, float]:
        """Seconds since `start`: "total", and its parts; "network" is what neither coder nor transfer took."""
        total = self.now() - self._start
        coder, transfer = (self.seconds.get(part, 0.0) for part in ("coder", "transfer"))
        return {"total": total, "network": total - coder - transfer, "coder": coder, "transfer": transfer}


@contextmanager
def stopwatch(codec: nn.Module) -> Iterator[Stopwatch]:
    """Time what a codec does inside a `with` block."""
    watch = Stopwatch(next(codec.parameters()).device)
    with observe(watch):
        yield watch
