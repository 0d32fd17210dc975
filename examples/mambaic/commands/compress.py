"""`compress`: images into files."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from mambaic.commands.common.outputs import check_pairs, tell
from mambaic.commands.common.types import count, effort, positive, quality

NAME, HELP = "compress", "code images into .sic files"
EXAMPLES = """examples:
  one image; the second writes photo.sic next to it
    %(prog)s photo.png small.sic
    %(prog)s photo.png
  smaller at the same quality, by ten steps of refinement (several seconds; decoding takes no longer)
    %(prog)s photo.png --checkpoint tiny --effort 3
  many, four at a time, into a folder
    %(prog)s photos/*.png --out coded/ --jobs 4
  the best image in a quarter of a bit per pixel; the smallest file of 32 dB
    %(prog)s photo.png --target-bpp 0.25
    %(prog)s photo.png --target-psnr 32
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    parser.usage = "%(prog)s [options] IMAGE [FILE.sic]\n       %(prog)s [options] IMAGE ... --out FOLDER"
    add = parser.add_argument
    add("names", type=Path, nargs="+", metavar="IMAGE", help="image of any size, and optionally the .sic file to "
        "write, by default next to it; with --out, images")  # fmt: skip
    add("--out", type=Path, metavar="FOLDER", help="folder for the files of all images, each under its image's name")
    add("--checkpoint", help="a checkpoint of `train`, or the name of a bundled one, base (the default) or "
        "tiny. A file decodes with the checkpoint that wrote it")  # fmt: skip
    add("--effort", type=effort, default=0, metavar="0-9", help="how long to search for a smaller file: 0 does not "
        "search; 1 to 9 refine in 3 to 100 steps, 3 in ten. At equal PSNR that saves 5 %% of the bits with base, a "
        "fifth with tiny")  # fmt: skip
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--quality", type=quality, metavar="0-100", help="for a variable-rate checkpoint: 0 for the "
                      "smallest file, 100 for the best image; default 50")  # fmt: skip
    wish.add_argument("--target-bpp", type=positive, metavar="BPP", help="the best image in at most this many bits per "
                      "pixel; tries several qualities")  # fmt: skip
    wish.add_argument("--target-psnr", type=positive, metavar="DB", help="the smallest file of at least this PSNR; "
                      "tries several qualities")  # fmt: skip
    add("--reconstruction", type=Path, help="for a single image: also write the decoded image, in any format that "
        "`decompress` writes")  # fmt: skip
    add("--jobs", type=count, default=1, help="images at a time, each on one core; 1 uses all cores on each")


def run(options: argparse.Namespace) -> None:
    """Code the images and say how large the files are."""
    from mambaic.images.batch import Compressor, each
    from mambaic.images.coding import targets
    from mambaic.images.dial import Wish
    from ssmctx.errors import ArgumentError

    wish = Wish(options.quality, options.effort, options.target_bpp, options.target_psnr)
    pairs = targets(options.names, options.out, ".sic")
    if options.reconstruction is not None and len(pairs) > 1:
        raise ArgumentError(f"--reconstruction is of one image, got {len(pairs)}: `decompress` the files instead")
    check_pairs(pairs, {"--reconstruction": options.reconstruction}, options.checkpoint)
    make = partial(Compressor, options.checkpoint, wish, options.reconstruction, bar=len(pairs) == 1)
    for target, written in each(make, pairs, options.jobs, "compress"):
        reached = "" if written.psnr is None else f", {written.psnr:.2f} dB"
        tell(f"wrote {target}: {written.bytes} bytes, {written.bpp:.4f} bpp{reached}", target)
