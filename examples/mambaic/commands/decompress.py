"""`decompress`: files into images."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from mambaic.commands.common.outputs import check_pairs, tell
from mambaic.commands.common.types import count

NAME, HELP = "decompress", "decode .sic files into image files"
EXAMPLES = """examples:
  one file; the second writes photo.png next to it
    %(prog)s photo.sic decoded.png
    %(prog)s photo.sic
  many, four at a time, into a folder of PNG files
    %(prog)s coded/*.sic --out decoded/ --jobs 4
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    parser.usage = "%(prog)s [options] FILE.sic [IMAGE]\n       %(prog)s [options] FILE.sic ... --out FOLDER"
    add = parser.add_argument
    add("names", type=Path, nargs="+", metavar="FILE.sic", help=".sic file, and optionally the image to write, by "
        "default a PNG next to it: png, webp, bmp, tif and ppm hold the decoded pixels exactly, jpg is of quality 95 "
        "without subsampling; with --out, .sic files")  # fmt: skip
    add("--out", type=Path, metavar="FOLDER", help="folder for the PNG files of all files")
    add(
        "--checkpoint", help="the checkpoint that the files were coded with; by default the bundled one that wrote them"
    )
    add("--jobs", type=count, default=1, help="files at a time, each on one core; 1 uses all cores on each")


def run(options: argparse.Namespace) -> None:
    """Decode the files and say how large the images are."""
    from mambaic.images.batch import Decompressor, each
    from mambaic.images.coding import targets

    pairs = targets(options.names, options.out, ".png")
    check_pairs(pairs, {}, options.checkpoint)
    for target, (width, height) in each(partial(Decompressor, options.checkpoint), pairs, options.jobs, "decompress"):
        tell(f"wrote {target}: {width} x {height}", target)
