"""`latency`: a table of coding times."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.common.notes import check_same_images
from mambaic.commands.common.outputs import check_outputs

NAME, HELP = "latency", "table of encode and decode times beside BD-rates (the paper's table 1), in Markdown"
EXAMPLES = """examples:
  %(prog)s ours.json classical/jpeg.json vtm --anchor vtm
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("curves", nargs="+", help="JSON files of `eval`, `classical` or CompressAI, or names of published curves")
    add("--anchor", default=None, help="also print BD-rates against this curve; a dash where there is none")
    add("--metric", default="psnr", help="of the BD-rate: psnr or ms-ssim")
    add("--force", action="store_true", help="print BD-rates of curves of different images anyway")
    add("--out", type=Path, default=None, help="also write the table to this file")


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    from mambaic.evaluation.curves import read_curve
    from mambaic.evaluation.latency import latency_table
    from ssmctx.files import write_whole

    check_outputs({"--out": options.out}, [options.anchor, *options.curves])
    anchor = None if options.anchor is None else read_curve(options.anchor)
    curves = [read_curve(source) for source in options.curves]
    if anchor is not None:
        check_same_images(curves, anchor, options.force)
    table = latency_table(curves, anchor, options.metric)
    print(table)
    if options.out is not None:
        write_whole(options.out, (table + "\n").encode(errors="backslashreplace"))
