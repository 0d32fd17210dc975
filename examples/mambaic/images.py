"""Pictures: finding, reading and writing them, and random crops for training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mambaic.errors import DataError
from ssmctx.entropy.container import write_whole

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


def find_images(folder: str | Path) -> list[Path]:
    """The picture files below a folder, sorted.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give a folder of pictures")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise DataError(f"no pictures in {folder}: files ending in {', '.join(SUFFIXES)} are looked for, at any depth")
    return paths


def read_image(path: str | Path) -> Tensor:
    """A picture file as (3, H, W) uint8.

    Raises:
        DataError: the file is missing, no picture, or damaged.
    """
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except FileNotFoundError:
        raise DataError(f"no file {path}: check the path") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {path} as a picture ({error}): convert it to PNG or JPEG") from None


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels (3, H, W) as a batch of one in [0, 1]."""
    return pixels[None].float() / 255


def to_pixels(x: Tensor) -> Tensor:
    """A batch of one in [0, 1] as uint8 pixels (3, H, W)."""
    return (x[0] * 255).round().to(torch.uint8)


def as_pillow(pixels: Tensor) -> Image.Image:
    """uint8 pixels (3, H, W) as a Pillow image."""
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def write_png(path: str | Path, pixels: Tensor) -> None:
    """Write uint8 pixels (3, H, W) as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    as_pillow(pixels).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 pixels, in dB; infinite for equal ones."""
    mse = (a.double() - b.double()).square().mean()
    return float(10 * torch.log10(255**2 / mse))


class RandomCrops(Dataset[Tensor]):
    """Random crops, flipped left to right half the time, of all pictures in a folder that are large enough.

    Args:
        folder: where the pictures are.
        size: side of the square crops, in pixels.

    Raises:
        DataError: no picture of at least `size` in both directions.
    """

    def __init__(self, folder: str | Path, size: int) -> None:
        found = find_images(folder)
        self.size = size
        self.paths = [p for p in found if min(_image_size(p)) >= size]
        self.skipped = len(found) - len(self.paths)
        if not self.paths:
            raise DataError(f"all {len(found)} pictures in {folder} are smaller than {size}x{size}: lower --crop")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        pixels = read_image(self.paths[index])
        top, left = (int(torch.randint(side - self.size + 1, ())) for side in pixels.shape[1:])
        crop = pixels[:, top : top + self.size, left : left + self.size].float() / 255
        return crop.flip(-1) if torch.rand(()) < 0.5 else crop


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {path} as a picture ({error}): remove it or convert it") from None
