"""`demo`: the whole story on one photograph."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.types import count, positive

NAME = "demo"
HELP = "train tiny for some minutes on photographs, code one it has not seen, compare with JPEG"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all files it makes")
    parser.add_argument("--minutes", type=positive, default=5.0, help="how long to train")
    parser.add_argument("--steps", type=count, default=None, help="train this many steps at most")


def run(options: argparse.Namespace) -> None:
    """Run it."""
    from mambaic.demo import demo

    demo(options.out, options.minutes, options.steps)
