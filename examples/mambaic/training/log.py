"""Training log: a bar or plain lines on stderr, a table beside the checkpoint, TensorBoard on request."""

from __future__ import annotations

import csv
import io
import sys
import time
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from mambaic.training.engine import Measured
from mambaic.training.run import Run
from ssmctx.files import write_whole

LINE_SECONDS = 60.0  # between plain lines
ROW_SECONDS = 10.0  # between rows of the table
_IMAGES = 4  # crops of a batch that TensorBoard shows


class LogRow(NamedTuple):
    """Means over the steps since the row before; but `step`, `skipped` and `seconds` count from the start.

    `psnr` is in dB, `grad_norm` that before clipping, `data_share` the part of the time spent waiting for images.
    """

    step: int
    loss: float
    bpp: float
    psnr: float
    grad_norm: float
    lr: float
    skipped: int
    data_share: float
    seconds: float


class Log:
    """Tells a run; enter it for the time of the training.

    Args:
        run: the run, at its start or where it goes on.
        table: CSV file of the rows; those past the run's step are dropped.
        logdir: folder for TensorBoard.
        silent: tell nothing, as all processes but one do.
    """

    def __init__(self, run: Run, table: Path, logdir: Path | None, silent: bool) -> None:
        self.run, self.silent = run, silent
        self._window: list[tuple[float, ...]] = []
        self._began, self._began_at = time.monotonic(), run.progress
        self._row_at = self._line_at = 0.0
        self._waited, self._seconds, self._shown = 0.0, run.seconds, ""
        self._file: TextIO | None = None
        self._board = None
        bars = sys.stderr.isatty() and not silent
        self._bar = tqdm(total=1.0, disable=not bars, bar_format="{percentage:3.0f}%|{bar}| {desc}", dynamic_ncols=True)
        if silent:
            return
        _cut_table(table, run.step)
        self._file = table.open("a", newline="")
        if logdir is not None:
            from torch.utils.tensorboard import SummaryWriter  # loads for seconds

            self._board = SummaryWriter(str(logdir), purge_step=run.step)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for stream in (self._file, self._board):
            if stream is not None:
                stream.close()

    def say(self, text: str) -> None:
        """A line on stderr."""
        if not self.silent:
            tqdm.write(text, file=sys.stderr)

    def step(self, measured: Measured, lr: float, waited: float) -> None:
        """Take note of a step that the run has counted, and tell where it is time.

        Args:
            measured: what the step measured.
            lr: its learning rate.
            waited: seconds that it waited for images.
        """
        if self.silent:
            return
        if measured.finite:
            self._window.append((*measured.point, measured.norm))
        self._waited += waited
        now = time.monotonic()
        if self._window and (now >= self._row_at or self.run.progress == 1):
            self._tell_row(lr)
            self._row_at = now + ROW_SECONDS
        text = f"step {self.run.step}/{self.run.total}{self._shown}, ETA {self._eta(now)}"
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(self.run.progress - self._bar.n)
        if self._bar.disable and (now >= self._line_at or self.run.progress == 1):
            self.say(text)
            self._line_at = now + LINE_SECONDS

    def _tell_row(self, lr: float) -> None:
        run = self.run
        means = [fmean(column) for column in zip(*self._window, strict=True)]
        share = self._waited / max(run.seconds - self._seconds, 1e-9)
        row = LogRow(run.step, *means, lr, len(run.skipped), share, run.seconds)
        csv.writer(self._file).writerow(f"{value:.6g}" if isinstance(value, float) else value for value in row)
        self._file.flush()
        if self._board is not None:
            for name, value in row._asdict().items():
                if name != "step":
                    self._board.add_scalar(f"train/{name}", value, run.step)
        skipped = f", {row.skipped} skipped" if row.skipped else ""
        self._shown = (
            f", loss {row.loss:.4f}, {row.bpp:.4f} bpp, {row.psnr:.2f} dB, lr {lr:.2g}, data {share:.0%}{skipped}"
        )
        self._window, self._waited, self._seconds = [], 0.0, run.seconds

    def _eta(self, now: float) -> timedelta:
        done = max(self.run.progress - self._began_at, 1e-9)
        return timedelta(seconds=round((now - self._began) * (1 - self.run.progress) / done))

    def images(self, images: tuple[Tensor, Tensor]) -> None:
        """Show crops over their reconstructions in TensorBoard."""
        if self._board is not None:
            rows = [torch.cat([*batch[:_IMAGES].clamp(0, 1)], dim=-1) for batch in images]
            self._board.add_image("train/crops over reconstructions", torch.cat(rows, dim=-2), self.run.step)


def _cut_table(path: Path, step: int) -> None:
    """Leave in the table its head and the rows up to `step`."""
    kept = [list(LogRow._fields)]
    if step and path.is_file():
        kept += [
            row for row in csv.reader(io.StringIO(path.read_text())) if row[:1] != ["step"] and int(row[0]) <= step
        ]
    text = io.StringIO()
    csv.writer(text).writerows(kept)
    write_whole(path, text.getvalue().encode())
