"""`explain`: a look inside a codec."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.common.types import whole

NAME = "explain"
HELP = "draw what the context model looks at, with and without window attention, and where the bits go"
EXAMPLES = """examples:
  %(prog)s photo.png --checkpoint tiny --at 12 20 --slice 1
  %(prog)s photo.png --checkpoint tiny.pt --compare without-attention.pt
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("image", type=Path, help="image to look at; half a megapixel or less is quick and legible")
    add("--checkpoint", type=Path, required=True, help="a checkpoint of `train`, or the name of a bundled one, base or "
        "tiny")  # fmt: skip
    add("--out", type=Path, default=Path("explained"), help="folder for the PNG files")
    add("--at", type=whole, nargs=2, metavar=("ROW", "COLUMN"), default=None, dest="position",
        help="position in the latent, whose cells are 16 pixels wide; an anchor where row + column is even; default a "
        "non-anchor in its middle")  # fmt: skip
    add("--slice", type=whole, default=None, dest="slice_index", help="slice that is predicted; default the last")
    add("--compare", type=Path, default=None, help="checkpoint trained with --variant context-no-wla; default the same "
        "weights with the attention, if any, taken out")  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Draw the figures and print their names."""
    from mambaic.figures.explain import explain

    for path in explain(**vars(options)):
        print(f"wrote {path}")
