"""The stream of y and its guard: what the steps of the coding loop write, and read again."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions.tables import CodingTables
from ssmctx.entropy.coders import Coder
from ssmctx.entropy.guard import Guard, checksum, guard_scales, guarded_rows
from ssmctx.entropy.steps import Step
from ssmctx.errors import ArgumentError, CorruptStreamError, DecodeMismatchError

__all__ = ["LatentReader", "LatentWriter", "to_symbols"]

_SYMBOL_MAX = 2**15 - 1


def to_symbols(values: Tensor) -> NDArray[np.int16]:
    """Whole numbers as the coders take them.

    Raises:
        ArgumentError: one is not finite or beyond 16 bits.
    """
    # written so that NaN fails too
    if not bool((values.abs() <= _SYMBOL_MAX).all()):
        worst = values.abs().max().item()
        raise ArgumentError(f"the coder takes symbols of magnitude up to {_SYMBOL_MAX}, got {worst}; check the latent")
    symbols: NDArray[np.int16] = values.flatten().to(torch.int16).cpu().numpy()
    return symbols


class LatentWriter:
    """Gathers the steps of one picture; nothing leaves the device before the end.

    Args:
        band: of the guard, relative.
    """

    def __init__(self, band: float) -> None:
        self.band = band
        self._steps: list[tuple[Tensor, Tensor]] = []

    def write(self, step: Step, q: Tensor) -> None:
        """Append the residuals q that a step codes; of (1, m, H, W) those at the step's positions."""
        self._steps.append((step.gather(q).flatten(), step.gather(step.scale).flatten()))

    def finish(self, coder: Coder, tables: CodingTables, z_checksum: int) -> tuple[bytes, bytes]:
        """The stream of y, and its guard as bytes.

        Raises:
            ArgumentError: a symbol is not finite or beyond 16 bits.
        """
        values, scales = (torch.cat(parts) for parts in zip(*self._steps, strict=True))
        symbols = to_symbols(values)
        ends = np.cumsum([len(part) for part, _ in self._steps])
        checksums = [checksum(part) for part in np.split(symbols, ends[:-1])]
        rows, guard = guard_scales(scales, self.band, (z_checksum, *checksums))
        encoder = coder.encoder()
        encoder.encode(symbols, rows.cpu().numpy(), tables)
        return encoder.finish(), guard.to_bytes(len(symbols))


class LatentReader:
    """Hands out the steps of one picture.

    Args:
        coder: that wrote the stream.
        tables: that it wrote with.
        stream: of y.
        guard: of y; without checksums nothing is checked.

    Raises:
        CorruptStreamError: no encoder can have written the stream.
    """

    def __init__(self, coder: Coder, tables: CodingTables, stream: bytes, guard: Guard) -> None:
        self._decoder = coder.decoder(stream)
        self._tables, self._guard = tables, guard
        self._done = 0

    def read(self, step: Step) -> Tensor:
        """The residuals q of a step, (1, m, H, W); zero outside its positions.

        Raises:
            DecodeMismatchError: the symbols are not those that were encoded.
        """
        scale = step.gather(step.scale)
        rows = guarded_rows(scale.flatten(), self._done, self._guard)
        self._done += rows.size
        try:
            symbols = self._decoder.decode(rows, self._tables)
        except CorruptStreamError as error:
            raise _mismatch(step) from error
        expected = self._guard.checksums[1 + step.index :]
        if expected and checksum(symbols) != expected[0]:
            raise _mismatch(step)
        return step.scatter(torch.from_numpy(symbols).to(scale.device).to(scale.dtype).view_as(scale))

    def finish(self) -> None:
        """Check that the stream holds nothing else.

        Raises:
            CorruptStreamError: it does.
        """
        self._decoder.finish()


def _mismatch(step: Step) -> DecodeMismatchError:
    return DecodeMismatchError(
        f"step {step.index}, channels {step.channels.start} to {step.channels.stop - 1}, decodes to other symbols than "
        "were encoded: the stream is damaged, or this machine's numbers drift by more than the guard band; encode with "
        "a wider guard_band, or decode on a machine like the encoder's"
    )
