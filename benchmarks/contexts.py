"""Which context model saves the most bits? All of them on the same latents, trained alike, rated by real bytes.

    python benchmarks/contexts.py --out runs/contexts --train photographs --test kodak
    python benchmarks/contexts.py --contexts channel-spatial carried-state --seeds 0 1 2 --steps 10000
    python benchmarks/contexts.py --contexts mine --plugin my_package.contexts

The latents of one encoder are computed once, rounded to integers and kept. Every context codes these numbers, so
all reconstruct the same images and only bits differ; the codec's own symbols, round(y - mean), would not be comparable.
The coder takes a mean of 1/32 steps into its tables. Hyperprior, batches and learning rate are the same for all.

A run is a file in --out. A second process may work in the same folder: it skips runs in progress.
An interrupted command continues when run again. "decode" in the table is `MambaICEntropyModel.decompress` with these
weights, coder included. --minutes is CPU time of the process, so that
contexts can be compared at equal time, too.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from frozen.latents import Latents, cached_latents
from frozen.model import FrozenModel
from frozen.plot import plot
from frozen.rate import cost, drift, real_bytes, times
from frozen.report import grouped, read_results, text_table
from frozen.train import Plan, make_model, read_run, train
from mambaic.bundled import bundled_path
from measure import machine

from ssmctx import registry
from ssmctx.errors import ArgumentError, SsmctxError, UnknownNameError
from ssmctx.files import write_whole

SKIPPED = ("released",)  # refines y_hat, which is fixed here


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parse.add_argument
    add("--out", type=Path, default=Path("runs/contexts"), help="folder of latents and runs (default %(default)s)")
    codec = str(bundled_path("tiny"))
    add("--codec", default=codec, help="checkpoint.pt or module:function with a g_a (default: the bundled tiny)")
    add("--train", type=Path, help="images to train on; needed once, then --out holds their latents")
    add("--test", type=Path, help="images to evaluate on; needed once as well")
    add("--contexts", nargs="+", help='names with keywords, as in "carried-state:scales=integer" (default: all)')
    add("--distributions", nargs="+", default=["laplace"], help="what y is coded with (default %(default)s)")
    add("--seeds", nargs="+", type=int, default=[0], help="of weights and batches (default %(default)s)")
    add("--steps", type=int, default=3000, help="training steps of each run (default %(default)s)")
    add("--minutes", type=float, help="CPU minutes of each run, instead of --steps")
    add("--batch", type=int, default=4, help="crops per step (default %(default)s)")
    add("--crop", type=int, default=16, help="side of the crops in latent positions (default %(default)s)")
    add("--rate", type=float, default=1e-3, help="highest learning rate (default %(default)s)")
    add("--plugin", action="append", default=[], help="module to import first, which registers contexts")
    add("--time", action="store_true", help="time all trained contexts alternately; do not use the machine meanwhile")
    add("--drift", action="store_true", help="count the images that survive drift in the decoder, for --contexts")
    add("--rounds", type=int, default=15, help="of --time (default %(default)s)")
    add("--json", type=Path, help="write the table there, too")
    add("--plot", type=Path, help="write a plot of bits against decoding time there")
    return parse


def run(plan: Plan, latents: Latents, folder: Path) -> None:
    """Train and rate, unless that is done or another process is at it."""
    result, state = folder / f"{plan.name}.result.json", folder / f"{plan.name}.pt"
    if result.exists():
        return
    with (folder / f"{plan.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"{plan.name}: another process trains it")
            return
        model = train(plan, latents, state)
        done = read_run(state, plan, latents)
        rated = real_bytes(model, latents)
        numbers = {"steps": done["step"], "train_s": done["seconds"], "curve": done["curve"]}
        about = {"plan": vars(plan), "codec": latents.codec, "machine": machine()}
        size = (latents.test[0].shape[1], latents.test[0].shape[2])
        content = {**about, **numbers, **rated, **cost(model, size)}
        write_whole(result, json.dumps(content, indent=1).encode())
        print(f"{plan.name}: {rated['bpp']:.4f} bpp")


def trained(latents: Latents, folder: Path, contexts: Collection[str] | None = None) -> dict[Path, FrozenModel]:
    """The first seed of every finished context, or of those named, by the file of its result."""
    found: dict[tuple[str, str], tuple[Path, Plan]] = {}
    for path in sorted(folder.glob("*.result.json")):
        plan = Plan(**json.loads(path.read_text())["plan"])
        if contexts is None or plan.context in contexts:
            found.setdefault((plan.context, plan.distribution), (path, plan))
    models = {}
    for path, plan in found.values():
        try:
            model = make_model(plan, latents)
        except UnknownNameError as error:
            raise ArgumentError(f"{path}: {error}; give the module that registers it with --plugin") from None
        model.load_state_dict(read_run(path.with_name(f"{plan.name}.pt"), plan, latents)["model"])
        model.update()
        models[path] = model
    return models


def add_to_result(path: Path, name: str, numbers: dict[str, Any]) -> None:
    """Write numbers and the machine that they are from into a result."""
    content = json.loads(path.read_text())
    content[name] = {**numbers, "machine": machine()}
    write_whole(path, json.dumps(content, indent=1).encode())


def main() -> None:
    """See the module's text."""
    args = parser().parse_args()
    torch.set_num_threads(1)
    for plugin in args.plugin:
        importlib.import_module(plugin)
    latents = cached_latents(args.out / "latents.pt", args.codec, args.train, args.test)
    contexts = args.contexts or [name for name in registry.contexts.names() if name not in SKIPPED]
    steps, minutes = (0, args.minutes) if args.minutes else (args.steps, 0.0)
    plans = [
        Plan(context, distribution, seed, steps, minutes, args.batch, args.crop, args.rate)
        for seed in args.seeds
        for distribution in args.distributions
        for context in contexts
    ]
    for plan in plans:
        make_model(plan, latents)  # a misspelt name fails here, not after hours of training
    for plan in plans:
        run(plan, latents, args.out)
    if args.time:
        for path, taken in times(trained(latents, args.out), latents, args.rounds).items():
            add_to_result(path, "times", taken)
    if args.drift:
        for path, model in trained(latents, args.out, contexts).items():
            add_to_result(path, "drift", drift(model, latents))
    rows = grouped(read_results(args.out))
    print(text_table(rows))
    if args.json:
        write_whole(
            args.json, json.dumps({"machine": machine(), "codec": latents.codec, "rows": rows}, indent=1).encode()
        )
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    try:
        main()
    except SsmctxError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command to continue")
