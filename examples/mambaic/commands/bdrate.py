"""`bdrate`: how many bits curves save against an anchor."""

from __future__ import annotations

import argparse

NAME, HELP = "bdrate", "BD-rate of curves against an anchor; negative means fewer bits for the same quality"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("curves", nargs="*", help="JSON files of `eval`, `classical` or CompressAI, or names of published curves")
    add("--anchor", default="vtm", help="the curve to compare with, a file or a name as well")
    add("--metric", default="psnr", help="psnr or ms-ssim, both in dB")
    add("--list", action="store_true", help="print the published curves and where they come from, and stop")


def run(options: argparse.Namespace) -> None:
    """Print a table, best first, or the published curves."""
    from mambaic.bdrate import bd_rate
    from mambaic.curves import published_names, read_curve
    from mambaic.tables import markdown
    from ssmctx.errors import ArgumentError

    if options.list:
        published = [(name, read_curve(name)) for name in published_names()]
        rows = [[name, str(len(c.results["bpp"])), c.meta["kind"], c.meta["source"]] for name, c in published]
        print(markdown(["name", "points", "kind", "source"], rows))
        return
    if not options.curves:
        raise ArgumentError("bdrate needs curves: give JSON files or published names, which --list prints")
    anchor = read_curve(options.anchor)
    found = [(bd_rate(curve, anchor, options.metric), curve) for curve in map(read_curve, options.curves)]
    found.sort(key=lambda pair: pair[0].percent)
    rows = [[c.name, f"{bd.percent:+.2f} %", f"{bd.low:.2f} to {bd.high:.2f} dB"] for bd, c in found]
    print(markdown(["curve", f"BD-rate vs {anchor.name}", f"over {options.metric.upper()}"], rows))
