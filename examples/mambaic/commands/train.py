"""`train`: a codec from a folder of pictures."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mambaic.commands.types import count, positive

NAME, HELP = "train", "train a codec on a folder of pictures"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags, whose names are the fields of `TrainingPlan`."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of pictures, searched at any depth")
    add("--out", type=Path, default=Path("mambaic.pt"), help="checkpoint to write")
    add("--preset", default="tiny", help="size of the codec: tiny, small or full (the paper's)")
    add("--variant", default="mambaic", help="what the codec is made of; an unknown name lists them all")
    add("--lmbda", "--lambda", type=positive, default=0.0067, help="weight of distortion against rate")
    add("--epochs", type=count, default=250, help="passes over the pictures")
    add("--steps", type=count, default=None, help="optimiser steps, instead of --epochs")
    add("--minutes", type=positive, default=math.inf, help="stop after this long at the latest")
    add("--batch-size", type=count, default=8, help="crops in a step")
    add("--crop", type=count, default=256, help="side of the random crops, in pixels")
    add("--lr", type=positive, default=1e-4, help="learning rate; tiny likes 1e-3")
    add("--aux-lr", type=positive, default=1e-3, help="learning rate of the quantiles of z")
    add("--clip", type=positive, default=1.0, help="largest norm of the gradient")
    add("--seed", type=int, default=0, help="seed of weights, crops and noise")
    add("--workers", type=int, default=0, help="processes that load pictures")
    add("--checkpoint-minutes", type=positive, default=5.0, help="write the checkpoint this often")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")


def run(options: argparse.Namespace) -> None:
    """Train and say where the checkpoint is."""
    from mambaic.train import TrainingPlan, train

    history = train(TrainingPlan(**vars(options)))
    print(f"wrote {options.out} after {len(history)} steps")
