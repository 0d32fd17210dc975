"""The look of all figures: sizes for a README, colours that colour-blind readers can tell apart, plain axes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ssmctx.files import write_whole

DPI = 100
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C6D1F", "#7F7F7F")
"""Okabe and Ito's palette, without its yellow, which is hard to see on white, and its vermilion, which is ours."""
OURS = ("#D55E00", "#882255", "#332288", "#117733")
MARKERS = "osD^vP<>X*"
_STYLE = {"font.size": 10.0, "axes.spines.top": False, "axes.spines.right": False}


def new_figure(width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure of that many pixels, with one axis or, with `nrows` and `ncols`, an array of them."""
    with plt.rc_context(_STYLE):
        return plt.subplots(figsize=(width / DPI, height / DPI), layout="constrained", **options)


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure as PNG, atomically, and forget it."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    plt.close(figure)
    with Image.open(drawn) as image:  # 256 colours show the same, in a third of the bytes
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(small, format="PNG", optimize=True)
    write_whole(path, small.getvalue())
