"""The sections of y: what the steps of the coding loop write, and read again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions import ScaleGrid
from ssmctx.distributions.tables import CodingTables
from ssmctx.entropy.checksums import Checksums, checksum
from ssmctx.entropy.coders import Coder
from ssmctx.entropy.guard import Guard, guard_scales, guarded_rows, host_rows
from ssmctx.entropy.steps import Step
from ssmctx.errors import ArgumentError, CorruptStreamError, DecodeMismatchError, NonFiniteError
from ssmctx.stages import stage

__all__ = ["LatentReader", "LatentWriter", "Sections", "to_symbols"]

_SYMBOL_MAX = 2**15 - 1


class Sections(NamedTuple):
    """What codes the latents of one image, each section with one job.

    Attributes:
        y: the symbols of y.
        z: the symbols of z.
        checksums: of both, and of the guard; see `ssmctx.entropy.checksums`.
        guard: what keeps the decoder on the encoder's table rows; see `ssmctx.entropy.guard`.
    """

    y: bytes
    z: bytes
    checksums: bytes
    guard: bytes


def to_symbols(values: Tensor) -> NDArray[np.int16]:
    """Whole numbers as the coders take them.

    Raises:
        ArgumentError: one is not finite or beyond 16 bits.
    """
    # written so that NaN fails too
    if not bool((values.abs() <= _SYMBOL_MAX).all()):
        worst = values.abs().max().item()
        raise ArgumentError(f"the coder takes symbols of magnitude up to {_SYMBOL_MAX}, got {worst}; check the latent")
    with stage("transfer"):
        symbols: NDArray[np.int16] = values.flatten().to(torch.int16).cpu().numpy()
    return symbols


class LatentWriter:
    """Gathers the steps of one image; nothing leaves the device before the end.

    Args:
        coder: writes the stream.
        tables: that it writes with.
        grid: the tables' scales.
        band: of the guard, relative.
    """

    def __init__(self, coder: Coder, tables: CodingTables, grid: ScaleGrid, band: float) -> None:
        self._coder, self._tables, self._grid, self._band = coder, tables, grid, band
        self._steps: list[tuple[Step, Tensor, Tensor]] = []

    def write(self, step: Step, q: Tensor) -> None:
        """Append the residuals q that a step codes; of (1, m, H, W) those at the step's positions."""
        self._steps.append((step, step.gather(q).flatten(), step.gather(step.scale).flatten()))

    def finish(self, z_checksum: int) -> tuple[bytes, bytes, bytes]:
        """The sections of y, checksums and guard.

        Raises:
            NonFiniteError: a mean or scale is not finite; the message names the step.
            ArgumentError: a symbol is beyond 16 bits.
        """
        _, values, scales = zip(*self._steps, strict=True)
        scale, value = torch.cat(scales), torch.cat(values)
        if not bool(scale.isfinite().all() & value.isfinite().all()):
            raise _not_finite(self._steps)
        symbols = to_symbols(value)
        with stage("guard"):
            rows, guard = guard_scales(scale, self._band, self._grid)
        with stage("coder"):
            encoder = self._coder.encoder()
            encoder.encode(symbols, host_rows(rows), self._tables)
            stream = encoder.finish()
        ends = np.cumsum([len(part) for part in values])
        guard_bytes = guard.to_bytes(len(symbols))
        checksums = Checksums.of(z_checksum, np.split(symbols, ends[:-1]), len(stream))
        return stream, checksums.to_bytes(guard_bytes), guard_bytes


class LatentReader:
    """Hands out the steps of one image.

    Args:
        coder: that wrote the stream.
        tables: that it wrote with.
        grid: the tables' scales.
        stream: of y.
        guard: of y.
        checksums: of y; None checks nothing.

    Raises:
        CorruptStreamError: no encoder can have written the stream.
    """

    def __init__(
        self,
        coder: Coder,
        tables: CodingTables,
        grid: ScaleGrid,
        stream: bytes,
        guard: Guard,
        checksums: Checksums | None,
    ) -> None:
        self._decoder = coder.decoder(stream)
        self._tables, self._grid, self._guard = tables, grid, guard
        self._expected = None if checksums is None else checksums.steps
        self._symbols: list[NDArray[np.int16]] = []
        self._count = 0

    def read(self, step: Step) -> Tensor:
        """The residuals q of a step, (1, m, H, W); zero outside its positions.

        Raises:
            DecodeMismatchError: the symbols are not those that were encoded.
        """
        scale = step.gather(step.scale)
        with stage("guard", step.index):
            rows = guarded_rows(scale.flatten(), self._count, self._guard, self._grid)
        self._count += rows.size
        try:
            with stage("coder", step.index):
                symbols = self._decoder.decode(rows, self._tables)
        except CorruptStreamError as error:
            raise _mismatch(step.name()) from error
        if self._expected is not None and len(self._expected) == 1:
            self._symbols.append(symbols)
        elif self._expected is not None and checksum(symbols) != self._expected[step.index]:
            raise _mismatch(step.name())
        with stage("transfer", step.index):
            q = torch.from_numpy(symbols).to(scale.device).to(scale.dtype)
        return step.scatter(q.view_as(scale))

    def finish(self) -> None:
        """Check what is checked for all steps at once, and that the stream holds nothing else.

        Raises:
            DecodeMismatchError: the symbols are not those that were encoded.
            CorruptStreamError: the stream goes on.
        """
        if self._symbols and checksum(np.concatenate(self._symbols)) != self._expected[0]:  # type: ignore[index]
            raise _mismatch("y")
        self._decoder.finish()


def _not_finite(steps: list[tuple[Step, Tensor, Tensor]]) -> NonFiniteError:
    step, values, _ = next(s for s in steps if not bool(s[1].isfinite().all() & s[2].isfinite().all()))
    what = "mean" if not bool(values.isfinite().all()) else "scale"
    return NonFiniteError(
        f"{step.name()}: the context predicts a {what} that is NaN or infinite; check its weights and its forward"
    )


def _mismatch(where: str) -> DecodeMismatchError:
    return DecodeMismatchError(
        f"{where} decodes to other symbols than were encoded: the stream is damaged, or this machine's numbers drift "
        "by more than the guard band; encode with a wider guard_band, or decode on a machine like the encoder's"
    )
