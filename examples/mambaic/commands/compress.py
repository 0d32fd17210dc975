"""`compress`: an image into a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.outputs import check_outputs, tell

NAME, HELP = "compress", "code one image into a .sic file"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("source", type=Path, help="image, of any size")
    parser.add_argument("target", type=Path, help=".sic file to write")
    parser.add_argument("--checkpoint", type=Path, required=True, help="what `train` wrote")
    parser.add_argument(
        "--reconstruction", type=Path, help="also write what the decoder will see, in the formats of `decompress`"
    )


def run(options: argparse.Namespace) -> None:
    """Code the image and say how large the file is."""
    from mambaic.checkpoint import load_model
    from mambaic.files import compress_file

    outputs = {"the target": options.target, "--reconstruction": options.reconstruction}
    check_outputs(outputs, [options.source, options.checkpoint])
    codec = load_model(options.checkpoint)
    written = compress_file(codec, options.source, options.target, options.reconstruction)
    tell(f"wrote {options.target}: {written.bytes} bytes, {written.bpp:.4f} bpp", options.target)
