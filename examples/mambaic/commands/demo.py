"""`demo`: encode, decode and compare one photograph."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.common.outputs import keep
from mambaic.commands.common.types import count, positive

NAME = "demo"
HELP = "code a photograph with the bundled checkpoint, decode it in a new process, compare with JPEG and others"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all files it makes")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=Path, help="a checkpoint of `train`, or the name of a bundled one, base "
                       "(the default) or tiny")  # fmt: skip
    which.add_argument("--train", action="store_true", help="first train tiny on other photographs, and code with that")
    parser.add_argument("--minutes", type=positive, default=5.0, help="with --train: how long")
    parser.add_argument("--steps", type=count, default=None, help="with --train: this many steps at most")
    parser.add_argument("--overwrite", action="store_true", help="with --train: replace an existing checkpoint")


def run(options: argparse.Namespace) -> None:
    """Run it."""
    from mambaic.checkpoint import beside, training_path
    from mambaic.demo import CHECKPOINT, demo, train_tiny

    checkpoint = options.checkpoint or CHECKPOINT
    if options.train:
        trained = options.out / "tiny.pt"
        made = [trained, training_path(trained), beside(trained, ".csv")]
        keep(made, options.overwrite, f"code with it by --checkpoint {trained}")
        checkpoint = train_tiny(options.out, options.minutes, options.steps)
    demo(options.out, checkpoint)
