"""`decompress`: a file into an image."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.outputs import check_outputs, tell

NAME, HELP = "decompress", "decode a .sic file into an image file"
_TARGET = (
    "image to write, in the format that its ending says: png, webp, bmp, tif and ppm hold the decoded pixels exactly, "
    "jpg is of quality 95 without subsampling; without an ending PNG"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("source", type=Path, help=".sic file")
    parser.add_argument("target", type=Path, help=_TARGET)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint that the file was coded with")


def run(options: argparse.Namespace) -> None:
    """Decode the file and say how large the image is."""
    from mambaic.checkpoint import load_model
    from mambaic.files import decompress_file

    check_outputs({"the target": options.target}, [options.source, options.checkpoint])
    width, height = decompress_file(load_model(options.checkpoint), options.source, options.target)
    tell(f"wrote {options.target}: {width} x {height}", options.target)
