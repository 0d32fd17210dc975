"""Image files: finding, reading and writing them."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from mambaic.errors import DataError
from mambaic.images.colour import as_srgb, raw_mode, scale_transparency
from ssmctx.errors import ArgumentError
from ssmctx.files import write_whole

_FORMATS = {
    "": "PNG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".ppm": "PPM",
}  # fmt: skip
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # long comments and profiles are harmless
SUFFIXES = tuple(suffix for suffix in _FORMATS if suffix)
_SETTINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True, "exact": True},
}
_DROPPINGS = {"@eaDir", "__MACOSX", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find_images(folder: str | Path) -> list[Path]:
    """The image files below a folder, at any depth, sorted.

    Links to folders are followed. A file that has several names counts once, under a name that is no link if there is
    one. What programs and file systems leave behind (hidden files and folders, `@eaDir`, `__MACOSX`, ...) is left out.

    Raises:
        DataError: no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give a folder of images")
    files, links = [], []
    pending, seen = deque([folder]), {_identity(above) for above in folder.resolve().parents}
    while pending:
        here = pending.popleft()
        try:
            if _identity(here) in seen:
                continue
            seen.add(_identity(here))
            entries = sorted(here.iterdir())
        except OSError as error:
            warnings.warn(f"left out {here}: {error}", stacklevel=2)
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _DROPPINGS:
                continue
            linked = entry.is_symlink()
            if entry.is_dir():
                (pending.append if linked else pending.appendleft)(entry)  # links last: own names are better
            elif entry.suffix.lower() in SUFFIXES and (entry.is_file() or (linked and not entry.exists())):
                (links if linked else files).append(entry)
    named: dict[object, Path] = {}
    for path in [*files, *links]:
        named.setdefault(_identity(path), path)
    if not named:
        raise DataError(f"no images in {folder}: files ending in {', '.join(SUFFIXES)} are looked for, at any depth")
    return sorted(named.values())


def usable_images(folder: str | Path, scale: float = 1.0) -> tuple[list[Path], int]:
    """The images below a folder that can be read, and how many cannot, which are named on stderr.

    Args:
        folder: searched at any depth.
        scale: that the images must survive.

    Raises:
        DataError: no such folder, or no usable image in it.
    """
    paths, errors = [], []
    for path in find_images(folder):
        try:
            read_scaled(path, scale)
            paths.append(path)
        except DataError as error:
            errors.append(str(error))
            print(f"left out: {error}", file=sys.stderr)
    if not paths:
        raise DataError(f"none of the {len(errors)} images in {folder} can be used, the last because: {errors[-1]}")
    if errors:
        print(f"left out {len(errors)} of {len(paths) + len(errors)} images", file=sys.stderr)
    return paths, len(errors)


def _identity(path: Path) -> object:
    """The same for all names of a file or folder."""
    try:
        there = path.stat()
    except OSError:  # a link that leads nowhere
        return path
    return (there.st_dev, there.st_ino) if there.st_ino else path.resolve()


def read_image(path: str | Path) -> Tensor:
    """An image file as (3, H, W) uint8 in sRGB, the right way up.

    Grey is repeated, palettes are looked up, transparency lies over white, 16-bit grey is scaled to 8 bits (of 16-bit
    colour Pillow gives the upper 8 bits), an embedded colour profile is applied, the orientation that a camera noted
    too, and of several frames the first is taken. Damaged metadata is ignored.

    Raises:
        DataError: the file is missing, no image, or damaged.
    """
    with _reading(path), Image.open(path) as image:
        raw = raw_mode(image)
        if image.format == "TIFF":
            image.load_end = lambda: None  # turns the image, and fails where other metadata is damaged
        image.load()
        scale_transparency(image, raw)
        if min(image.size) < 1:
            raise ValueError("it has no pixels")
        upright = as_srgb(image)
        turn = _orientation(image)
        if turn is not None:
            upright = upright.transpose(turn)
        return torch.from_numpy(np.array(upright)).permute(2, 0, 1)


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Turn whatever Pillow raises at a file into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"no file {path}: check the path") from None
    except Image.DecompressionBombError as error:
        what, _, _ = str(error).partition(",")
        raise DataError(
            f"{path} is too large ({what}): cut it into parts or make it smaller; the limit protects the memory from "
            "damaged and malicious files"
        ) from None
    except MemoryError:
        raise DataError(f"not enough memory to read {path}: make it smaller or close other programs") from None
    except Exception as error:  # damaged files make Pillow raise almost anything
        why = str(error) or type(error).__name__
        raise DataError(f"cannot read {path} as an image ({why}): convert it to PNG or JPEG, or remove it") from None


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """How the image must be turned, as far as its metadata can be read."""
    try:
        tags = image.tag_v2 if image.format == "TIFF" else image.getexif()  # which needs a file that is open still
        return _TURNS.get(tags.get(_ORIENTATION))
    except Exception:  # damaged metadata
        return None


def read_scaled(path: str | Path, scale: float) -> Tensor:
    """An image file as (3, H, W) uint8, made smaller by `scale` (Lanczos).

    Raises:
        DataError: the file is no image, or nothing is left of it.
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
        DataError: the file is missing or has no header of an image.
    """
    with _reading(path), Image.open(path) as image:
        return image.size


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels (3, H, W) as a batch of one in [0, 1]."""
    return pixels[None].float() / 255


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
    """Write uint8 pixels (3, H, W) in the format that the file's ending says, atomically.

    All formats keep the pixels exactly but JPEG, which is written at quality 95 without subsampling.

    Raises:
        ArgumentError: an ending that we do not write, or an image too large for the format.
    """
    _write(path, pixels, format_of(path))


def write_png(path: str | Path, pixels: Tensor) -> None:
    """Write uint8 pixels (3, H, W) as a PNG file whatever its name, atomically."""
    _write(path, pixels, "PNG")


def _write(path: str | Path, pixels: Tensor, form: str) -> None:
    buffer = io.BytesIO()
    try:
        as_pillow(pixels).save(buffer, format=form, **_SETTINGS.get(form, {}))
    except (OSError, ValueError) as error:
        _, height, width = pixels.shape
        raise ArgumentError(f"cannot write {width} x {height} pixels as {form} ({error}): write a PNG file") from None
    write_whole(path, buffer.getvalue())
