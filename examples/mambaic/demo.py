"""The demonstration: code a photograph with the bundled checkpoint, decode it, compare with other formats."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import skimage.data
import torch
from torch import Tensor

from mambaic.bundled import DEFAULT, bundled_path
from mambaic.codec import MambaIC, rates
from mambaic.errors import TrainingError
from mambaic.evaluation.classical import CODECS, of_size
from mambaic.figures.style import new_figure, plt, save_figure
from mambaic.images.coding import compress_file, load
from mambaic.images.dial import Wish
from mambaic.images.image_files import read_image, write_png
from mambaic.images.measure import bits_per_pixel, psnr
from mambaic.training.train import Point, TrainingPlan, train

CHECKPOINT = bundled_path(DEFAULT)
HELD_OUT = "astronaut"
QUALITIES = (10, 40, 70)
_EFFORT = 3
_DETAIL = slice(40, 200), slice(150, 310)


def photographs() -> dict[str, Tensor]:
    """The colour photographs in scikit-image, as uint8 (3, H, W)."""
    images = {name: getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    images["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    return {name: torch.from_numpy(array.copy()).permute(2, 0, 1) for name, array in images.items()}


def train_tiny(out: Path, minutes: float, steps: int | None) -> Path:
    """Train `tiny` on the photographs but one, plot how it went, and return its checkpoint."""
    for name, pixels in photographs().items():
        if name != HELD_OUT:
            write_png(out / "train" / f"{name}.png", pixels)
    checkpoint = out / "tiny.pt"
    plan = TrainingPlan(out / "train", checkpoint, lmbda=0.013, crop=128, lr=1e-3, minutes=minutes, steps=steps)
    plan.epochs = 10_000  # time ends it
    _plot_training(train(plan), out / "training.png")
    print(f"trained {checkpoint}; look at {out / 'training.png'}")
    return checkpoint


def demo(out: Path, checkpoint: Path) -> None:
    """Code the held-out photograph, decode it in a new process, compare, and leave all files in `out`.

    A variable-rate checkpoint codes it at three qualities, refined.

    Raises:
        CheckpointError: no checkpoint, or none of ours.
        TrainingError: the decoded pixels differ from the encoder's own.
    """
    original = out / f"{HELD_OUT}.png"
    pixels = photographs()[HELD_OUT]
    write_png(original, pixels)
    codec = load(checkpoint)
    qualities = (None,) if rates(codec) is None else QUALITIES
    rows = []
    for quality in qualities:
        coded = original.with_name(f"{HELD_OUT}{'' if quality is None else f'-{quality}'}.sic")
        wish = Wish(quality=quality, effort=0 if quality is None else _EFFORT)
        ours, size = _there_and_back(codec, checkpoint, original, coded, wish)
        rows.append(_compared(f"ssmctx {codec.preset}", pixels, ours, size))
    _plot_side_by_side(pixels, rows, out / "side-by-side.png")
    print(f"look at {out / 'side-by-side.png'}")


def _there_and_back(codec: MambaIC, checkpoint: Path, original: Path, coded: Path, wish: Wish) -> tuple[Tensor, int]:
    """The pixels that a fresh process decodes from the file, and the file's bytes."""
    decoded, own = coded.with_suffix(".decoded.png"), coded.with_suffix(".encoder.png")
    if wish.effort:
        print(f"encoding {original} with quality {wish.quality} and effort {wish.effort}: this takes some seconds")
    written = compress_file(codec, original, coded, own, wish)
    print(f"{coded}: {written.bytes} bytes on disk, {written.bpp:.3f} bits per pixel; decoding it in a new process")
    program = Path(__file__).parents[1] / "mambaic_full.py"
    subprocess.run([sys.executable, program, "decompress", coded, decoded, "--checkpoint", checkpoint], check=True)
    ours = read_image(decoded)
    if not torch.equal(ours, read_image(own)):
        raise TrainingError(f"{decoded} differs from the encoder's reconstruction {own}: please report this")
    print("the decoded pixels equal the encoder's own reconstruction exactly")
    return ours, written.bytes


def _compared(name: str, pixels: Tensor, ours: Tensor, size: int) -> dict[str, Tensor]:
    """Ours and the other formats' pixels at the same size, by name; prints a table of them."""
    print(f"{'':12}{'bytes':>6}{'bpp':>8}{'PSNR':>10}")
    print(_row(name, size, ours, pixels))
    shown = {name: ours}
    for key, made in CODECS.items():
        other = of_size(key, pixels, size)
        if other is not None:
            print(_row(made.name, other.bytes, other.pixels, pixels) + f"   (quality {other.quality})")
            shown[made.name] = other.pixels
    return shown


def _row(name: str, size: int, decoded: Tensor, original: Tensor) -> str:
    bpp = bits_per_pixel(size, *original.shape[1:])
    return f"{name:12}{size:>6}{bpp:>8.3f}{psnr(decoded, original):>7.2f} dB"


def _plot_training(history: list[Point], path: Path) -> None:
    figure, axes = new_figure(1200, 320, ncols=3)
    titles = ("loss", "rate (bits per pixel)", "PSNR (dB)")
    for axis, title, values in zip(axes, titles, zip(*history, strict=True), strict=True):
        window = max(1, min(20, len(values) // 5))
        smooth = [math.fsum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
        axis.plot(range(1, len(values) + 1), values, color="0.8", linewidth=0.8)
        axis.plot(range(1, len(values) + 1), smooth, color="C0")
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    if min(point.loss for point in history) > 0:
        axes[0].set_yscale("log")
    save_figure(figure, path)


def _plot_side_by_side(original: Tensor, rows: list[dict[str, Tensor]], path: Path) -> None:
    """A detail of the original and of each format's pixels, a row for each quality."""
    columns = 1 + max(map(len, rows))
    figure, axes = new_figure(280 * columns, 310 * len(rows), nrows=len(rows), ncols=columns, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for axis in line:
            axis.axis("off")
        for (name, pixels), axis in zip({"original": original, **row}.items(), line, strict=False):
            axis.imshow(pixels.permute(1, 2, 0).numpy()[_DETAIL], interpolation="nearest")
            axis.set_title(name if pixels is original else f"{name}, {psnr(pixels, original):.1f} dB", fontsize=11)
    figure.savefig(path, dpi=110)  # with all colours, unlike `save_figure`: the photographs are what is looked at
    plt.close(figure)
