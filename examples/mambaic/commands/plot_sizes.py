"""`plot-sizes`: BD-rate against image size."""

from __future__ import annotations

import argparse

from mambaic.commands.common.notes import check_same_images
from mambaic.commands.common.outputs import check_outputs
from mambaic.commands.common.types import png

NAME, HELP = "plot-sizes", "plot BD-rate against image size (the paper's figure 1)"
EXAMPLES = """examples:
  published curves, on Kodak, Tecnick and CLIC
    %(prog)s dcae tecnick/dcae clic/dcae --anchor vtm tecnick/vtm clic/vtm --out sizes.png
  yours against JPEG on smaller copies of the same images (see `eval --scale` and `classical --scale`)
    %(prog)s half.json whole.json --anchor half/jpeg.json whole/jpeg.json --out sizes.png
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("curves", nargs="+", help="JSON files or published names, one for each codec and size; same names are joined")
    add("--anchor", nargs="+", required=True, help="the codec to compare with, a file or name for each size")
    add("--out", type=png, required=True, help="PNG file to write")
    add("--force", action="store_true", help="compare curves of different images anyway")
    add("--metric", default="psnr", help="psnr or ms-ssim, both in dB")


def run(options: argparse.Namespace) -> None:
    """Draw the figure and print its numbers."""
    from mambaic.evaluation.curves import read_curve
    from mambaic.figures.rd_plots import bd_rates_by_size, plot_sizes

    check_outputs({"--out": options.out}, [*options.curves, *options.anchor])
    curves, anchors = ([read_curve(source) for source in sources] for sources in (options.curves, options.anchor))
    by_size = {anchor.meta.get("pixels"): anchor for anchor in anchors}
    for curve in curves:
        if curve.meta.get("pixels") in by_size:  # whether there is one at all is seen to below
            check_same_images([curve], by_size[curve.meta.get("pixels")], options.force)
    plot_sizes(curves, anchors, options.metric, options.out)
    for name, points in bd_rates_by_size(curves, anchors, options.metric).items():
        print(f"{name:24}" + "  ".join(f"{pixels / 1e6:.2f} MP {percent:+.2f} %" for pixels, percent in points))
    print(f"wrote {options.out}")
