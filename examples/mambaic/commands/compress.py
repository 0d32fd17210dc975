"""`compress`: a picture into a file."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME, HELP = "compress", "code one picture into a .sic file"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("source", type=Path, help="picture, of any size")
    parser.add_argument("target", type=Path, help=".sic file to write")
    parser.add_argument("--checkpoint", type=Path, required=True, help="what `train` wrote")
    parser.add_argument("--reconstruction", type=Path, help="also write what the decoder will see, as PNG")


def run(options: argparse.Namespace) -> None:
    """Code the picture and say how large the file is."""
    from mambaic.checkpoint import load_model
    from mambaic.files import PictureCodec, compress_file

    codec = PictureCodec(load_model(options.checkpoint))
    written = compress_file(codec, options.source, options.target, options.reconstruction)
    print(f"wrote {options.target}: {written.bytes} bytes, {written.bpp:.4f} bpp")
