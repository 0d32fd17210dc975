"""`decompress`: a file into a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME, HELP = "decompress", "decode a .sic file into a PNG file"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("source", type=Path, help=".sic file")
    parser.add_argument("target", type=Path, help="PNG file to write")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint that the file was coded with")


def run(options: argparse.Namespace) -> None:
    """Decode the file and say how large the picture is."""
    from mambaic.checkpoint import load_model
    from mambaic.files import PictureCodec, decompress_file

    width, height = decompress_file(PictureCodec(load_model(options.checkpoint)), options.source, options.target)
    print(f"wrote {options.target}: {width} x {height}")
