"""The demonstration: train on photographs inside scikit-image, code one it has not seen, compare with JPEG."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from mambaic.checkpoint import load_model
from mambaic.errors import TrainingError
from mambaic.files import PictureCodec, compress_file
from mambaic.images import psnr, read_image, write_png
from mambaic.train import Point, TrainingPlan, train

HELD_OUT = "astronaut"


def photographs() -> dict[str, Tensor]:
    """The colour photographs that scikit-image carries, as uint8 (3, H, W)."""
    pictures = {name: getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    pictures["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    return {name: torch.from_numpy(array.copy()).permute(2, 0, 1) for name, array in pictures.items()}


def demo(out: Path, minutes: float, steps: int | None) -> None:
    """Run the whole demonstration and leave its files in `out`.

    Raises:
        TrainingError: the decoded pixels differ from the encoder's own.
    """
    for name, pixels in photographs().items():
        write_png(out / ("held-out" if name == HELD_OUT else "train") / f"{name}.png", pixels)
    original = out / "held-out" / f"{HELD_OUT}.png"
    checkpoint, coded = out / "tiny.pt", out / f"{HELD_OUT}.sic"
    decoded, own = out / f"{HELD_OUT}.decoded.png", out / f"{HELD_OUT}.encoder.png"

    plan = TrainingPlan(out / "train", checkpoint, lmbda=0.013, crop=128, lr=1e-3, minutes=minutes, steps=steps)
    plan.epochs = 10_000  # the clock ends it
    history = train(plan)
    _plot_training(history, out / "training.png")

    written = compress_file(PictureCodec(load_model(checkpoint)), original, coded, own)
    print(f"{coded}: {written.bytes} bytes on disk, {written.bpp:.3f} bpp")
    program = Path(__file__).parents[1] / "mambaic_full.py"
    print("decoding it in a fresh process")
    subprocess.run([sys.executable, program, "decompress", coded, decoded, "--checkpoint", checkpoint], check=True)
    pixels, ours = read_image(original), read_image(decoded)
    if not torch.equal(ours, read_image(own)):
        raise TrainingError(f"{decoded} differs from the encoder's reconstruction {own}: please report this")
    print("the decoded pixels equal the encoder's own reconstruction exactly")

    quality, jpeg_bytes, jpeg = _jpeg_of_size(pixels, written.bytes)
    area = pixels.shape[1] * pixels.shape[2]
    print(f"{'':10}{'bytes':>8}{'bpp':>8}{'PSNR':>10}")
    print(f"{'ssmctx':10}{written.bytes:>8}{written.bpp:>8.3f}{psnr(ours, pixels):>7.2f} dB")
    print(f"{'JPEG':10}{jpeg_bytes:>8}{8 * jpeg_bytes / area:>8.3f}{psnr(jpeg, pixels):>7.2f} dB   (quality {quality})")
    columns = {
        "original": pixels,
        f"ssmctx tiny, {written.bpp:.2f} bpp, {psnr(ours, pixels):.1f} dB": ours,
        f"JPEG, {8 * jpeg_bytes / area:.2f} bpp, {psnr(jpeg, pixels):.1f} dB": jpeg,
    }
    _plot_side_by_side(columns, out / "side-by-side.png")
    print(f"look at {out / 'side-by-side.png'} and {out / 'training.png'}")


def _jpeg_of_size(pixels: Tensor, size: int) -> tuple[int, int, Tensor]:
    """The JPEG whose size is nearest to `size` bytes: its quality, its bytes, its pixels."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    coded: list[tuple[int, int, bytes]] = []
    for quality in range(1, 96):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        coded.append((abs(buffer.tell() - size), quality, buffer.getvalue()))
    _, quality, data = min(coded)
    with Image.open(io.BytesIO(data)) as jpeg:
        return quality, len(data), torch.from_numpy(matplotlib.image.pil_to_array(jpeg).copy()).permute(2, 0, 1)


def _plot_training(history: list[Point], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
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
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_side_by_side(columns: dict[str, Tensor], path: Path) -> None:
    figure, axes = plt.subplots(2, len(columns), figsize=(4 * len(columns), 8.2), layout="constrained")
    for (title, pixels), whole, zoom in zip(columns.items(), *axes, strict=True):
        array = pixels.permute(1, 2, 0).numpy()
        whole.imshow(array)
        whole.set_title(title, fontsize=10)
        zoom.imshow(array[40:200, 150:310], interpolation="nearest")
        for axis in (whole, zoom):
            axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
