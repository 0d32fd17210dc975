"""What an image file means, as 8-bit sRGB over white: its mode, its transparency, its colour profile."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image

_DEEPEST = 0xFFFF
_GRID = 9  # colours along each channel that show whether a profile is sRGB


def as_srgb(image: Image.Image) -> Image.Image:
    """A loaded image as 8-bit sRGB, with white behind what is transparent.

    Raises:
        ValueError: its numbers have no defined white: floating point, or more than 16 bits.
    """
    colours, opacity = _split(image)
    colours = _through_profile(colours, image.info.get("icc_profile"))
    if opacity is None:
        return colours
    return Image.composite(colours, Image.new("RGB", colours.size, "white"), opacity)


def raw_mode(image: Image.Image) -> str:
    """How Pillow names the layout of the pixels in the file of an image that is not loaded yet; "" if it is unknown."""
    arguments: Any = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def scale_transparency(image: Image.Image, raw: str) -> None:
    """Give the colour that a PNG file calls transparent the depth of the pixels, to which Pillow leaves it unscaled."""
    colour = image.info.get("transparency")
    if raw in ("L;2", "L;4") and isinstance(colour, int):
        image.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[raw]
    elif raw.startswith("RGB;16") and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours as L, RGB, CMYK or LAB, and opacity as L or None."""
    if image.mode == "F":
        raise ValueError("it has floating-point values without a white level")
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode in ("LA", "La"):
        grey, opacity = image.convert("LA").split()
        return grey, opacity
    if image.has_transparency_data:
        *colours, opacity = image.convert("RGBA").split()
        return Image.merge("RGB", colours), opacity
    if image.mode in ("L", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _from_16_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    values = np.asarray(image).astype(np.int64)  # files have any byte order
    if values.min() < 0 or values.max() > _DEEPEST:
        raise ValueError("its values do not fit 16 bits")
    white, opacity = _DEEPEST, None
    tags = getattr(image, "tag_v2", {})  # of TIFF files
    if tags.get(258) == (12,):
        white = 0xFFF
    if tags.get(262) == 0 and image.mode != "I":
        values = white - values
    if isinstance(image.info.get("transparency"), int):
        opacity = Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
    return Image.fromarray(np.round(255 * values / white).astype(np.uint8)), opacity


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """sRGB of an image with that ICC profile; one that is broken or does not fit the image says nothing about it."""
    if profile:
        try:
            converted = _converted(image, profile)
        except ImportError:
            warnings.warn("this Pillow was built without ImageCms: colour profiles are not applied", stacklevel=2)
            converted = None
        except Exception:  # as many ways as profiles can be broken; the pixels are there without it
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _converted(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB, relative colorimetric; None if its profile is sRGB itself or of another kind of image."""
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}.get(space) != image.mode:
        return None
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.HIGHRESPRECALC  # dark greys need the latter
    to_srgb = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, "RGB", intent, flags)
    if image.mode == "RGB":
        # most files say that they are sRGB; their pixels are left exactly as they are
        steps = np.linspace(0, 255, _GRID).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(_GRID, -1, 3)
        seen = np.asarray(to_srgb.apply(Image.fromarray(grid)))
        if np.abs(seen.astype(int) - grid).max() <= 1:
            return image
    return to_srgb.apply(image)
