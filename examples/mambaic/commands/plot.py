"""`plot`: rate-distortion curves in one figure."""

from __future__ import annotations

import argparse

from mambaic.commands.common.notes import note_different_images
from mambaic.commands.common.outputs import check_outputs
from mambaic.commands.common.types import png, positive

NAME, HELP = "plot", "plot your curves over published ones, quality over rate"
EXAMPLES = """examples:
  %(prog)s ours.json --out rd.png
  %(prog)s ours.json before.json --published vtm mambaic tcm-large --max-bpp 0.6 --out rd.png
  %(prog)s ours.json --metric ms-ssim --published vtm hyperprior-ms-ssim --out ms-ssim.png
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("curves", nargs="*", help="JSON files of `eval`, `classical` or CompressAI, drawn in front")
    add("--out", type=png, required=True, help="PNG file to write")
    add("--metric", default="psnr", help="psnr or ms-ssim, both in dB")
    add(
        "--published",
        nargs="*",
        default=None,
        help="names of published curves behind yours (`bdrate --list` prints them); default a selection on Kodak, "
        "give no name to draw none",
    )
    add(
        "--max-bpp",
        type=positive,
        default=None,
        help="right end of the plot; default 1, or where your curves end if that is farther",
    )


def run(options: argparse.Namespace) -> None:
    """Draw the figure; say which published curves lack the metric."""
    from mambaic.evaluation.curves import DEFAULT_SELECTION, read_curve
    from mambaic.figures.rd_plots import plot_rd

    check_outputs({"--out": options.out}, options.curves)
    names = DEFAULT_SELECTION if options.published is None else options.published
    curves, published = ([read_curve(source) for source in sources] for sources in (options.curves, names))
    without = plot_rd(curves, published, options.metric, options.out, options.max_bpp)
    if without:
        print(f"no {options.metric} published for {', '.join(without)}: left out")
    note_different_images([*curves, *published])
    print(f"wrote {options.out}")
