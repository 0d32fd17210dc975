"""Where coding time goes: network, entropy coder, transfer between devices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssmctx.entropy.coders import Coder, StreamDecoder, StreamEncoder

PARTS = ("network", "coder", "transfer")


class Stopwatch:
    """Seconds that were spent in coder and transfer since the last `lap`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.coder = self.transfer = 0.0
        self._start = time.perf_counter()

    def now(self) -> float:
        """The time at which everything that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self) -> None:
        """Begin a lap."""
        self.coder = self.transfer = 0.0
        self._start = self.now()

    def lap(self) -> dict[str, float]:
        """Seconds since `start`: "total", and its parts; "network" is what neither coder nor transfer took."""
        total = self.now() - self._start
        return {
            "total": total,
            "network": total - self.coder - self.transfer,
            "coder": self.coder,
            "transfer": self.transfer,
        }


@contextmanager
def stopwatch(codec: nn.Module) -> Iterator[Stopwatch]:
    """Time what a codec with a `latent_codec` does meanwhile; it codes the same bytes as ever.

    Its coder is wrapped in one that reads the clock, and every copy between devices is waited for and timed.
    """
    watch = Stopwatch(next(codec.parameters()).device)
    latent_codec: Any = codec.latent_codec
    coder = latent_codec.coder
    latent_codec.coder = TimedCoder(coder, watch)
    try:
        with _TimedTransfers(watch):
            yield watch
    finally:
        latent_codec.coder = coder


class TimedCoder:
    """A coder that adds the time of its calls to a stopwatch."""

    def __init__(self, coder: Coder, watch: Stopwatch) -> None:
        self._coder, self._watch = coder, watch
        self.name = coder.name

    def encoder(self) -> StreamEncoder:
        """A timed encoder."""
        stream: Any = _TimedCalls(self._timed(self._coder.encoder), self._timed)
        return stream

    def decoder(self, stream: bytes) -> StreamDecoder:
        """A timed decoder."""
        timed: Any = _TimedCalls(self._timed(self._coder.decoder, stream), self._timed)
        return timed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coder, name)

    def _timed(self, call: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self._watch.coder += time.perf_counter() - start


class _TimedCalls:
    """A stream whose every method is timed."""

    def __init__(self, stream: Any, timed: Any) -> None:
        self._stream, self._timed = stream, timed

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._stream, name)
        return (lambda *arguments: self._timed(attribute, *arguments)) if callable(attribute) else attribute


class _TimedTransfers(TorchFunctionMode):
    """Adds the time of copies between devices to a stopwatch, without that of the work they wait for."""

    _COPIES = frozenset({Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.copy_, Tensor.item, Tensor.tolist})

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._COPIES or self._watch.device.type == "cpu":
            return func(*args, **kwargs)
        before = self._watch.now()
        out = func(*args, **kwargs)
        after = self._watch.now()
        moved = out.device != args[0].device if isinstance(out, Tensor) and func is not Tensor.copy_ else True
        if moved:
            self._watch.transfer += after - before
        return out
