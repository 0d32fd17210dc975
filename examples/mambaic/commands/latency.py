"""`latency`: a table of coding times."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME, HELP = "latency", "table of encode and decode times beside BD-rates (the paper's table 1), in Markdown"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("curves", nargs="+", help="JSON files of `eval`, `classical` or CompressAI, or names of published curves")
    add("--anchor", default=None, help="also print BD-rates against this curve; a dash where there is none")
    add("--metric", default="psnr", help="of the BD-rate: psnr or ms-ssim")
    add("--out", type=Path, default=None, help="also write the table to this file")


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    from mambaic.curves import read_curve
    from mambaic.latency import latency_table
    from ssmctx.entropy.container import write_whole

    anchor = None if options.anchor is None else read_curve(options.anchor)
    table = latency_table([read_curve(source) for source in options.curves], anchor, options.metric)
    print(table)
    if options.out is not None:
        write_whole(options.out, (table + "\n").encode())
