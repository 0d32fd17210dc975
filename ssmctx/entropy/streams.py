"""The sections of y: what the steps of the coding loop write, and read again."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.distributions import ScaleGrid
from ssmctx.distributions.tables import CodingTables
from ssmctx.entropy.bitstream.checksums import Checksums, checksum
from ssmctx.entropy.coders import Coder
from ssmctx.entropy.guard import Guard, guard_scales, guarded_rows, host_rows
from ssmctx.entropy.scale_network.steps import StepScales
from ssmctx.entropy.steps import Step, drive, in_coding_order
from ssmctx.errors import ArgumentError, CorruptStreamError, DecodeMismatchError, NonFiniteError
from ssmctx.stages import stage

__all__ = ["LatentReader", "LatentWriter", "Sections", "to_symbols"]

_SYMBOL_MAX = 2**15 - 1


class Sections(NamedTuple):
    """The sections that code the latents of one image.

    Attributes:
        y: the symbols of y.
        z: the symbols of z.
        checksums: of both, and of the guard; see `ssmctx.entropy.bitstream.checksums`.
        guard: what keeps the decoder on the encoder's table rows; see `ssmctx.entropy.guard`. There is none where
            integers say the rows.
    """

    y: bytes
    z: bytes
    checksums: bytes
    guard: bytes = b""


def to_symbols(values: Tensor) -> NDArray[np.int16]:
    """Integers in the coders' dtype.

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

    def write(self, step: Step, q: Tensor, scales: StepScales | None = None) -> None:
        """Append the residuals q that a step codes; of (1, m, H, W) those at the step's positions.

        They are coded with the scales or rows of a scale network where it gives them, else with the step's own scales.
        """
        coded_with = step.gather(step.scale) if scales is None else scales.values
        self._steps.append((step, step.gather(q).flatten(), coded_with.flatten()))

    def finish(self, z_checksum: int) -> tuple[bytes, bytes, bytes]:
        """The sections of y, checksums and guard; where integers say the rows, no guard, and one checksum for all.

        Raises:
            NonFiniteError: a mean or scale is not finite; the message names the step.
            ArgumentError: a symbol is beyond 16 bits.
        """
        _, values, scales = zip(*self._steps, strict=True)
        scale, value = torch.cat(scales), torch.cat(values)
        if not bool(scale.isfinite().all() & value.isfinite().all()):
            raise _not_finite(self._steps)
        symbols = to_symbols(value)
        exact = not scale.is_floating_point()
        with stage("guard"):
            rows, guard = (scale, Guard.none()) if exact else guard_scales(scale, self._band, self._grid)
        with stage("coder"):
            encoder = self._coder.encoder()
            encoder.encode(symbols, host_rows(rows), self._tables)
            stream = encoder.finish()
        ends = np.cumsum([len(part) for part in values])
        guard_bytes = guard.to_bytes(len(symbols))
        checksums = Checksums.of(z_checksum, [symbols] if exact else np.split(symbols, ends[:-1]), len(stream))
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
        self._expected = () if checksums is None else checksums.steps
        self._read: list[NDArray[np.int16]] = []
        self._pending: NDArray[np.int16] = np.empty(0, np.int16)  # read, but not handed out yet
        self._count, self._exact = 0, False

    def read_all(self, steps: Generator[StepScales, Tensor, None]) -> None:
        """Decode all steps with the scales or rows of a scale network; `read` then hands them out.

        Raises:
            DecodeMismatchError: the symbols are not those that were encoded.
        """

        def decoded(scales: StepScales) -> Tensor:
            symbols = self._decode(scales.values.flatten(), scales.index, f"y at step {scales.index}")
            return torch.from_numpy(symbols).to(scales.values.device).view_as(scales.values)

        drive(steps, decoded)
        self._check_all()  # before the context runs for nothing
        self._pending = np.concatenate(self._read)

    def read(self, step: Step) -> Tensor:
        """The residuals q of a step, (1, m, H, W); zero outside its positions.

        Raises:
            DecodeMismatchError: the symbols are not those that were encoded.
        """
        m = step.mean.shape[1]
        count = m * len(step.indices)
        if count and not len(self._pending):
            if step.ahead is None:
                self._pending = self._decode(step.gather(step.scale).flatten(), step.index, step.name())
            else:
                self._pending = self._decode(in_coding_order(step.ahead, step.order), None, "y")
                self._check_all()
        symbols, self._pending = self._pending[:count], self._pending[count:]
        if len(self._expected) > 1 and checksum(symbols) != self._expected[step.index]:
            raise _mismatch(step.name(), self._exact)
        with stage("transfer", step.index):
            q = torch.from_numpy(symbols).to(step.mean.device).to(step.mean.dtype)
        return step.scatter(q.view(1, m, -1))

    def finish(self) -> None:
        """Check what is checked for all steps at once, and that the stream holds nothing else.

        Raises:
            DecodeMismatchError: the symbols are not those that were encoded.
            CorruptStreamError: the stream does not end here.
        """
        self._check_all()
        self._decoder.finish()

    def _check_all(self) -> None:
        if len(self._expected) == 1 and checksum(np.concatenate(self._read)) != self._expected[0]:
            raise _mismatch("y", self._exact)

    def _decode(self, coded_with: Tensor, index: int | None, where: str) -> NDArray[np.int16]:
        """The next symbols, from the rows or scales that they were coded with."""
        with stage("guard", index):
            self._exact = not coded_with.is_floating_point()
            rows = (
                host_rows(coded_with) if self._exact else guarded_rows(coded_with, self._count, self._guard, self._grid)
            )
        try:
            with stage("coder", index):
                symbols = self._decoder.decode(rows, self._tables)
        except CorruptStreamError as error:
            raise _mismatch(where, self._exact) from error
        self._read.append(symbols)
        self._count += len(symbols)
        return symbols


def _not_finite(steps: list[tuple[Step, Tensor, Tensor]]) -> NonFiniteError:
    step, values, _ = next(s for s in steps if not bool(s[1].isfinite().all() & s[2].isfinite().all()))
    what = "mean" if not bool(values.isfinite().all()) else "scale"
    return NonFiniteError(
        f"{step.name()}: a {what} is NaN or infinite; check the weights of the context and of the scale network, if any"
    )


def _mismatch(where: str, exact: bool) -> DecodeMismatchError:
    if exact:
        return DecodeMismatchError(
            f"{where} decodes to other symbols than were encoded: the stream is damaged; its table rows come from "
            "integers, which do not drift"
        )
    return DecodeMismatchError(
        f"{where} decodes to other symbols than were encoded: the stream is damaged, or this machine's numbers drift "
        "by more than the guard band; encode with a wider guard_band, or decode on a machine like the encoder's"
    )
