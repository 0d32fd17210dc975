"""`train`: a codec, or one for each of several lambdas, from a folder of images."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mambaic.commands.common.outputs import check_outputs, keep
from mambaic.commands.common.types import count, positive, whole

NAME, HELP = "train", "train a codec on a folder of images"
EXAMPLES = """examples:
  on a laptop, ten minutes
    %(prog)s --data photos/ --out tiny.pt --lr 1e-3 --schedule cosine --minutes 10
  as the paper does, on eight GPUs, all six lambdas, and again after a kill
    accelerate launch --num_processes 8 -m mambaic train --data flickr30k/ --out full.pt --preset full \\
        --quality 1 2 3 4 5 6 --resume
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags, whose names are the fields of `TrainingPlan`, but for --quality, --chain and --overwrite."""
    parser.epilog = EXAMPLES
    add = parser.add_argument_group("what to train").add_argument
    add("--data", type=Path, required=True, help="folder of images, searched at any depth")
    add("--out", type=Path, default=Path("mambaic.pt"), help="checkpoint to write; with several lambdas, the common "
        "prefix")  # fmt: skip
    add("--preset", default="tiny", help="size of the codec: tiny, small, full (the paper's) or base (variable "
        "rate, 21 kMAC per pixel)")  # fmt: skip
    add("--variant", default="mambaic", help="what the codec is made of; an unknown name lists them all")
    add("--metric", default="mse", help="distortion: mse or ms-ssim")
    add(
        "--lmbda",
        "--lambda",
        type=positive,
        nargs="+",
        help="weight of distortion against rate (default: 0.0067)",
        metavar="L",
    )
    add(
        "--quality",
        type=count,
        nargs="+",
        help="choose lambdas by number instead, 1 (smallest files) to 6",
        metavar="Q",
    )
    add(
        "--lmbda-range",
        type=positive,
        nargs=2,
        help="for variable-rate presets: smallest and largest lambda (default: 0.001 0.032, for ms-ssim 1.2 38.4)",
        metavar="L",
    )
    add("--chain", action="store_true", help="with several lambdas, start each run from the previous run's weights")

    group = parser.add_argument_group("how long")
    add, add_one = group.add_argument, group.add_mutually_exclusive_group().add_argument
    add("--epochs", type=count, default=250, help="passes over the images")
    add("--steps", type=count, help="optimiser steps, instead of --epochs")
    add(
        "--minutes",
        type=positive,
        default=math.inf,
        help="stop after this time at the latest, earlier parts of the run included",
    )
    add("--start", type=Path, help="start from the weights of this checkpoint, of the same preset")
    add_one("--resume", action="store_true", help="resume the run of --out, or start it if there is none")
    add_one("--overwrite", action="store_true", help="replace an existing checkpoint; its files no longer decode")
    add("--checkpoint-minutes", type=positive, default=5.0, help="write the checkpoint this often")

    add = parser.add_argument_group("optimisation").add_argument
    add("--batch-size", type=count, default=8, help="crops in a step, of all processes together")
    add("--crop", type=count, default=256, help="side of the random crops, in pixels")
    add("--last-crop", type=count, help="side of the crops at the end of the run (default: --crop)")
    add("--last-part", type=float, default=0.2, help="fraction of the run that uses --last-crop")
    add(
        "--optimiser",
        default="adam",
        help="adam or muon; muon takes the same learning rates, or up to twice as large ones",
    )
    add("--lr", type=positive, default=1e-4, help="learning rate; use 1e-3 for tiny")
    add("--aux-lr", type=positive, default=1e-3, help="learning rate of the quantiles of z")
    add("--schedule", default="constant", help="learning-rate schedule: constant, milestones or cosine")
    milestones = "parts of the run after each of which the rate drops to a tenth (default: 0.8 0.95)"
    add("--milestones", type=float, nargs="+", default=argparse.SUPPRESS, help=milestones, metavar="PART")
    add("--warmup", type=whole, default=0, help="steps over which the learning rate rises")
    add("--clip", type=positive, default=1.0, help="largest norm of the gradient")
    add("--ema", type=float, help="average the weights with this decay, such as 0.999, and code with the average")
    add("--half", action="store_true", help="round the weights of the checkpoint to float16: half its size")
    add("--max-skipped", type=whole, default=10, help="batches of 100 that may be skipped as not finite")
    add("--seed", type=whole, default=0, help="seed of weights, crops and noise")

    add = parser.add_argument_group("machine").add_argument
    add("--precision", help="no, bf16 or fp16 (default: as launched, else no)")
    add("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    add("--cuda-graphs", action="store_true", help="replay what g_a and g_s ask of the GPU: faster on a single one")
    add("--workers", type=whole, help="processes that load images (default: 0 on a CPU, up to 8 a GPU)")
    add("--cache-mb", type=whole, default=1024, help="memory for decoded images, in each process")
    add("--logdir", type=Path, help="folder for TensorBoard")


def run(options: argparse.Namespace) -> None:
    """Train, and say where the checkpoints are."""
    from accelerate import PartialState

    from mambaic.checkpoint import beside, training_path
    from mambaic.codec import PRESETS, FoldedPreset
    from mambaic.training.plan import TrainingPlan, lambda_of
    from mambaic.training.train import train
    from ssmctx.errors import ArgumentError

    fields = vars(options)
    lmbdas, qualities, chain, out, start = (fields.pop(name) for name in ("lmbda", "quality", "chain", "out", "start"))
    if isinstance(PRESETS.get(options.preset), FoldedPreset) and (lmbdas or qualities):
        raise ArgumentError(f"preset {options.preset!r} trains for all rates: choose --lmbda-range instead")
    if qualities:
        wanted = {f"-q{quality}.pt": lambda_of(quality, options.metric) for quality in qualities}
    else:
        wanted = {f"-{lmbda:g}.pt": lmbda for lmbda in lmbdas or [TrainingPlan.lmbda]}
    paths = {ending: out if len(wanted) == 1 else beside(out, ending) for ending in wanted}
    overwrite = fields.pop("overwrite")
    for path in paths.values():
        check_outputs({"--out": path}, [])
        if not options.resume:
            keep([path, training_path(path), beside(path, ".csv")], overwrite, "go on from there with --resume")
        elif not training_path(path).is_file():
            keep([path], overwrite, f"restore {training_path(path)}; --resume needs it")
    before = None
    for ending, lmbda in wanted.items():
        path = paths[ending]
        history = train(TrainingPlan(out=path, lmbda=lmbda, start=before if chain and before else start, **fields))
        if PartialState().is_main_process:
            print(f"wrote {path} after {len(history)} step{'' if len(history) == 1 else 's'}")
        before = path
    PartialState().destroy_process_group()
