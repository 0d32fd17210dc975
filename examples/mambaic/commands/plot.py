"""`plot`: rate-distortion curves in one figure."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.types import positive

NAME, HELP = "plot", "plot your curves over published ones, quality over rate"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("curves", nargs="*", help="JSON files of `eval`, `classical` or CompressAI, drawn in front")
    add("--out", type=Path, required=True, help="PNG file to write")
    add("--metric", default="psnr", help="psnr or ms-ssim, both in dB")
    add(
        "--published",
        nargs="*",
        default=None,
        help="names of published curves behind yours (`bdrate --list` prints them); default a selection on Kodak, "
        "without a name none",
    )
    add("--max-bpp", type=positive, default=None, help="right end of the plot; default where your curves end")


def run(options: argparse.Namespace) -> None:
    """Draw the figure; say which published curves lack the metric."""
    from mambaic.curves import DEFAULT_SELECTION, read_curve
    from mambaic.rd_plots import plot_rd

    names = DEFAULT_SELECTION if options.published is None else options.published
    curves, published = ([read_curve(source) for source in sources] for sources in (options.curves, names))
    without = plot_rd(curves, published, options.metric, options.out, options.max_bpp)
    if without:
        print(f"no {options.metric} published for {', '.join(without)}: left out")
    print(f"wrote {options.out}")
