"""From figures of images to a result file in CompressAI's layout, and to a table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from mambaic.evaluation.curves import decibels

Row = dict[str, Any]

_NOT_MEASURED = ("name", "width", "height")


def summarise(name: str, description: str, points: Sequence[Sequence[Row]], meta: dict[str, Any]) -> dict[str, Any]:
    """Results of a codec, in CompressAI's layout.

    Args:
        name: of the codec.
        description: one line.
        points: for each point of the curve the figures of all images, the same images in the same order.
        meta: further facts; a list in it with an entry for each point is reordered with the points.

    Returns:
        "name", "description" and "results", lists with the mean over the images for each point, by ascending rate.
        Figures that some images lack (MS-SSIM of small ones) are left out there. "images" has the same lists for
        each image, and "meta" the rest.
    """
    rates = [fmean(row["bpp"] for row in rows) for rows in points]
    order = sorted(range(len(points)), key=rates.__getitem__)
    points = [points[i] for i in order]
    meta = {k: [v[i] for i in order] if isinstance(v, list) and len(v) == len(order) else v for k, v in meta.items()}
    keys = [key for key in points[0][0] if key not in _NOT_MEASURED]
    results = {
        key: [fmean(row[key] for row in rows) for rows in points]
        for key in keys
        if all(row[key] is not None for rows in points for row in rows)
    }
    images = {
        first["name"]: {
            "width": first["width"],
            "height": first["height"],
            **{key: [rows[i][key] for rows in points] for key in keys},
        }
        for i, first in enumerate(points[0])
    }
    pixels = fmean(image["width"] * image["height"] for image in images.values())
    meta = {"pixels": pixels, "pictures": len(images), **meta}
    return {"name": name, "description": description, "meta": meta, "results": results, "images": images}


def table(content: dict[str, Any], point: int) -> str:
    """The images of one point and their mean, as text."""
    keys = {
        "bpp": ("bpp", 9, 4, 1),
        "bpp-estimated": ("estimated", 11, 4, 1),
        "psnr-rgb": ("PSNR dB", 9, 2, 1),
        "ms-ssim-rgb": ("MS-SSIM dB", 12, 2, 1),
        "encoding_time": ("encode ms", 11, 1, 1e3),
        "decoding_time": ("decode ms", 11, 1, 1e3),
    }
    lines = [f"{'image':24}" + "".join(f"{title:>{width}}" for title, width, _, _ in keys.values())]
    rows = [*content["images"].items(), ("mean", content["results"])]
    for name, figures in rows:
        line = f"{name[-23:]:24}"
        for key, (_, width, digits, factor) in keys.items():
            value = figures[key][point] if key in figures else None
            if value is not None and key == "ms-ssim-rgb":
                value = decibels(value)
            line += f"{'-' if value is None else f'{value * factor:.{digits}f}':>{width}}"
        lines.append(line)
    return "\n".join(lines)
