"""Folders of small images, untrained checkpoints and made-up curves for the tests of the example's evaluation."""

from __future__ import annotations

from pathlib import Path

import torch
from mambaic.checkpoint import save_checkpoint
from mambaic.codec import MambaIC
from mambaic.evaluation.curves import Curve
from mambaic.images.image_files import write_png
from sample_images import sample_image


def image_folder(folder: Path, *sizes: tuple[int, int]) -> Path:
    """A folder with an image of each (height, width), the first of them in a folder below."""
    for seed, size in enumerate(sizes):
        write_png(folder / ("nested" if seed == 0 else "") / f"{seed}.png", sample_image(*size, seed))
    return folder


def untrained(path: Path, gain: float = 1.0, variant: str = "mambaic") -> Path:
    """A checkpoint of an untrained tiny model; a larger gain makes for more bits."""
    torch.manual_seed(3)
    model = MambaIC("tiny", variant).eval()
    with torch.no_grad():
        model.g_a[-1].weight *= gain
    model.update()
    save_checkpoint(path, model, {"lmbda": gain})
    return path


def curve(name: str = "a", factor: float = 1.0, points: int = 5, **meta) -> Curve:
    """A made-up curve: half a bit more at every point, `factor` times as many bits as at 1."""
    rates = [factor * 0.1 * 2 ** (i / 2) for i in range(points)]
    results = {"bpp": rates, "psnr-rgb": [28 + 1.4 * i for i in range(points)]}
    results["ms-ssim-rgb"] = [1 - 10 ** -(1.2 + 0.1 * i) for i in range(points)]
    return Curve(name, results, meta=meta)
