"""`bdrate`: how many bits curves save against an anchor."""

from __future__ import annotations

import argparse
import sys

from mambaic.commands.common.notes import check_same_images

NAME, HELP = "bdrate", "BD-rate of curves against an anchor; negative means fewer bits for the same quality"
EXAMPLES = """examples:
  %(prog)s ours.json mambaic elic --anchor vtm
  %(prog)s ours.json --anchor before.json --metric ms-ssim
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("curves", nargs="*", help="JSON files of `eval`, `classical` or CompressAI, or names of published curves")
    add("--anchor", default="vtm", help="the curve to compare with, a file or a name as well")
    add("--metric", default="psnr", help="psnr or ms-ssim, both in dB")
    add("--force", action="store_true", help="compare curves of different images anyway")
    add("--list", action="store_true", help="print the published curves and where they come from, and stop")


def run(options: argparse.Namespace) -> None:
    """Print a table, best first, or the published curves."""
    from mambaic.errors import CurveError
    from mambaic.evaluation.bdrate import MIN_POINTS, bd_rate
    from mambaic.evaluation.curves import published_names, read_curve
    from mambaic.evaluation.tables import markdown
    from ssmctx.errors import ArgumentError

    if options.list:
        published = [(name, read_curve(name)) for name in published_names()]
        rows = [[name, str(len(c.results["bpp"])), c.meta["kind"], c.meta["source"]] for name, c in published]
        print(markdown(["name", "points", "kind", "source"], rows))
        return
    if not options.curves:
        raise ArgumentError("bdrate needs curves: give JSON files or published names, which --list prints")
    anchor = read_curve(options.anchor)
    bd_rate(anchor, anchor, options.metric)  # an anchor that cannot be one ends the command
    curves = [read_curve(source) for source in options.curves]
    check_same_images(curves, anchor, options.force)
    compared, others = [], []
    for curve in curves:
        points = len(curve.results["bpp"])
        if points < MIN_POINTS:
            others.append([curve.name, "one point" if points == 1 else f"{points} points", "-"])
            print(f"note: a BD-rate needs {MIN_POINTS} points, {curve.name} has {points}", file=sys.stderr)
            continue
        try:
            compared.append((bd_rate(curve, anchor, options.metric), curve.name))
        except CurveError as error:  # one curve must not take the others with it
            if len(curves) == 1:
                raise
            others.append([curve.name, "-", "-"])
            print(f"note: {error}", file=sys.stderr)
    compared.sort(key=lambda pair: pair[0].percent)
    rows = [[name, f"{bd.percent:+.2f} %", f"{bd.low:.2f} to {bd.high:.2f} dB"] for bd, name in compared]
    print(markdown(["curve", f"BD-rate vs {anchor.name}", f"over {options.metric.upper()}"], rows + others))
