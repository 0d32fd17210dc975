"""Picture files: finding, reading and writing them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mambaic.errors import DataError
from ssmctx.errors import ArgumentError
from ssmctx.files import write_whole

_FORMATS = {
    "": "PNG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".ppm": "PPM",
}  # fmt: skip
SUFFIXES = tuple(suffix for suffix in _FORMATS if suffix)
_SETTINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True, "exact": True},
}
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises at bad files


def find_images(folder: str | Path) -> list[Path]:
    """The picture files below a folder, at any depth, sorted.

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
    """A picture file as (3, H, W) uint8, the right way up.

    Grey is repeated, palettes are looked up, transparency lies over white, 16-bit grey is scaled to 8 bits (of 16-bit
    colour Pillow gives the upper 8 bits), the orientation that a camera noted is applied, and of several frames the
    first is taken.

    Raises:
        DataError: the file is missing, no picture, or damaged.
    """
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(_as_rgb(ImageOps.exif_transpose(image)))).permute(2, 0, 1)
    except FileNotFoundError:
        raise DataError(f"no file {path}: check the path") from None
    except _UNREADABLE as error:
        raise DataError(f"cannot read {path} as a picture ({error}): convert it to PNG or JPEG") from None


def read_scaled(path: str | Path, scale: float) -> Tensor:
    """A picture file as (3, H, W) uint8, made smaller by `scale` (Lanczos).

    Raises:
        DataError: the file is no picture, or nothing is left of it.
    """
    pixels = read_image(path)
    if scale == 1:
        return pixels
    height, width = (round(scale * side) for side in pixels.shape[1:])
    if min(height, width) < 1:
        raise DataError(f"{path} has no pixel left at scale {scale}: choose a larger --scale")
    smaller = as_pillow(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(smaller)).permute(2, 0, 1)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height as the file's header says, before any turning.

    Raises:
        DataError: the file is missing or has no header of a picture.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except _UNREADABLE as error:
        raise DataError(f"cannot read {path} as a picture ({error}): remove it or convert it") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, in files of any byte order
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its values do not fit 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("it holds floating-point numbers, of which none says what is white")
    elif image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return image.convert("RGB")


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels (3, H, W) as a batch of one in [0, 1]."""
    return pixels[None].float() / 255


def to_pixels(x: Tensor) -> Tensor:
    """A batch of one in [0, 1] as uint8 pixels (3, H, W)."""
    return (x[0] * 255).round().to(torch.uint8)


def as_pillow(pixels: Tensor) -> Image.Image:
    """uint8 pixels (3, H, W) as a Pillow image."""
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def format_of(path: str | Path) -> str:
    """Pillow's name of the format that a file's ending says; PNG if it has none.

    Raises:
        ArgumentError: an ending that we do not write.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ArgumentError(f"cannot write {path}: the ending {suffix!r} is none of {', '.join(SUFFIXES)}")
    return _FORMATS[suffix]


def write_image(path: str | Path, pixels: Tensor) -> None:
    """Write uint8 pixels (3, H, W) in the format that the file's ending says, whole or not at all.

    All formats keep the pixels exactly but JPEG, which is written at quality 95 without subsampling.

    Raises:
        ArgumentError: an ending that we do not write, or an image too large for the format.
    """
    _write(path, pixels, format_of(path))


def write_png(path: str | Path, pixels: Tensor) -> None:
    """Write uint8 pixels (3, H, W) as a PNG file whatever its name, whole or not at all."""
    _write(path, pixels, "PNG")


def _write(path: str | Path, pixels: Tensor, form: str) -> None:
    buffer = io.BytesIO()
    try:
        as_pillow(pixels).save(buffer, format=form, **_SETTINGS.get(form, {}))
    except (OSError, ValueError) as error:
        _, height, width = pixels.shape
        raise ArgumentError(f"cannot write {width} x {height} pixels as {form} ({error}): write a PNG file") from None
    write_whole(path, buffer.getvalue())
