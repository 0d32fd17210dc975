"""`ablate`: variants trained alike and compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.common.types import count, positive

NAME = "ablate"
HELP = "train several variants with equal steps or equal time, over several seeds, and print a table"
EXAMPLES = """examples:
  the paper's table 2, mean and spread over three seeds
    %(prog)s --data photos/ --test-data kodak/ --table 2 --steps 20000
  two variants for an hour each, with BD-rates, which take four lambdas
    %(prog)s --data photos/ --test-data kodak/ --variants mambaic context-cnn --minutes 60 \\
        --lambda 0.0035 0.0067 0.013 0.025
"""
_OUT = "folder for checkpoints, results and table.md; a call with the same plan continues an earlier one"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of images to train on")
    add("--test-data", type=Path, required=True, help="folder of images to evaluate on")
    add("--out", type=Path, default=Path("ablation"), help=_OUT)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--table", choices=("2", "3", "4", "A2"), default="2", help="variants of this table of the paper"
    )
    which.add_argument("--variants", nargs="+", default=None, help="or these; an unknown name lists them all")
    add("--anchor", default=None, help="variant that BD-rates refer to; default mambaic if it is among them")
    equal = parser.add_mutually_exclusive_group(required=True)
    equal.add_argument("--steps", type=count, default=None, help="equal optimiser steps for each run")
    equal.add_argument("--minutes", type=positive, default=None, help="equal wall-clock for each run")
    add("--lmbda", "--lambda", type=positive, nargs="+", default=[0.0067], help="4 or more give BD-rates")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each trains every variant once")
    add("--preset", default="tiny", help="size of the codec: tiny, small or full")
    add("--batch-size", type=count, default=8, help="crops in a step")
    add("--crop", type=count, default=256, help="side of the random crops, in pixels")
    add("--lr", type=positive, default=1e-4, help="learning rate; use 1e-3 for tiny")
    add("--device", default="cpu", help="device for training and evaluation, such as cpu or cuda")


def run(options: argparse.Namespace) -> None:
    """Run the ablation, print its table and leave it in the folder."""
    from mambaic.training.ablation import TABLES, AblationPlan, ablate
    from ssmctx.files import write_whole

    settings = dict(vars(options))
    named, own = settings.pop("table"), settings.pop("variants")
    variants = TABLES[named] if own is None else own
    anchor = settings.pop("anchor") or ("mambaic" if "mambaic" in variants else variants[0])
    table = ablate(AblationPlan(variants=variants, anchor=anchor, lambdas=settings.pop("lmbda"), **settings))
    write_whole(options.out / "table.md", (table + "\n").encode(errors="backslashreplace"))
    print(f"{table}\nwrote {options.out / 'table.md'}")
