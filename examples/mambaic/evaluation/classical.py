"""JPEG, WebP and AVIF as Pillow has them, measured on the same images as a codec."""

from __future__ import annotations

import io
import time
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from PIL import Image, features
from torch import Tensor

from mambaic.errors import EvaluationError
from mambaic.evaluation.results import Row, summarise
from mambaic.images.image_files import as_pillow, read_scaled, usable_images
from mambaic.images.measure import facts, quality
from mambaic.images.parallel import for_each
from ssmctx.errors import ArgumentError


@dataclass(frozen=True)
class Classical:
    """A format that Pillow writes: its name there, the qualities of its curve, its other settings."""

    name: str
    feature: str
    qualities: Sequence[int]
    settings: Mapping[str, Any] = field(default_factory=dict)


CODECS = {
    "jpeg": Classical("JPEG", "jpg", (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95), {"optimize": True}),
    "webp": Classical("WebP", "webp", (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95), {"method": 6}),
    "avif": Classical(
        "AVIF", "avif", (10, 20, 30, 40, 50, 60, 70, 80), {"speed": 6, "subsampling": "4:4:4", "max_threads": 1}
    ),
}
"""Lossy modes at their best settings within reason; WebP knows 4:2:0 only, JPEG keeps its usual 4:2:0."""


def measure(codec: str, folder: str | Path, jobs: int = 1, scale: float = 1.0) -> dict[str, Any]:
    """Code every image below a folder at every quality; the same figures as `evaluate` gives.

    Args:
        codec: a key of `CODECS`.
        folder: of images.
        jobs: processes that share the images.
        scale: measure on images made smaller by this factor.

    Raises:
        ArgumentError: an unknown codec.
        EvaluationError: this Pillow was built without it.
        DataError: no images, or none that can be read; single ones are left out and named on stderr.
    """
    if codec not in CODECS:
        raise ArgumentError(f"unknown codec {codec!r}; known: {', '.join(CODECS)}")
    made = CODECS[codec]
    if not features.check(made.feature):
        raise EvaluationError(f"this Pillow ({PIL.__version__}) was built without {made.name}: install another build")
    paths, left_out = usable_images(folder, scale)
    rows = for_each(partial(partial, _measure_image, codec, Path(folder), scale), paths, jobs, made.name)
    settings = ", ".join(f"{key} {value}" for key, value in made.settings.items())
    meta = {
        "dataset": Path(folder).name,
        "left_out": left_out,
        "kind": "measured",
        "source": f"Pillow {PIL.__version__}, {made.feature} {features.version(made.feature)}",
        "qualities": list(made.qualities),
        "scale": scale,
        "threads": 1,
        "jobs": jobs,
    }
    points = list(zip(*rows, strict=True))
    return summarise(made.name, f"{made.name} by Pillow, {settings}", points, meta)


def _measure_image(codec: str, folder: Path, scale: float, path: Path) -> list[Row]:
    """Figures of one image at every quality."""
    made = CODECS[codec]
    pixels = read_scaled(path, scale)
    image = as_pillow(pixels)
    rows = []
    for setting in made.qualities:
        start = time.perf_counter()
        data = _encode(made, image, setting)
        encoded = time.perf_counter()
        decoded = _decode(data)
        end = time.perf_counter()
        rows.append(
            {
                **facts(path.relative_to(folder).as_posix(), pixels, len(data)),
                **quality(decoded, pixels),
                "encoding_time": encoded - start,
                "decoding_time": end - encoded,
            }
        )
    return rows


class Coded(NamedTuple):
    """An image in a classical format: the quality asked for, bytes, and the pixels (3, H, W) uint8 that they give."""

    quality: int
    bytes: int
    pixels: Tensor


def of_size(codec: str, pixels: Tensor, size: int) -> Coded | None:
    """The image in the largest of this format's files that take at most `size` bytes; its smallest if none does.

    Args:
        codec: a key of `CODECS`.
        pixels: (3, H, W) uint8.
        size: in bytes.

    Returns:
        The file, or None where this Pillow was built without the format.
    """
    made = CODECS[codec]
    if not features.check(made.feature):
        return None
    image = as_pillow(pixels)
    above = bisect(range(1, 101), size, key=lambda quality: len(_encode(made, image, quality)))
    quality = max(1, above)
    data = _encode(made, image, quality)
    return Coded(quality, len(data), _decode(data))


def _encode(made: Classical, image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=made.name, quality=quality, **made.settings)
    return buffer.getvalue()


def _decode(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
