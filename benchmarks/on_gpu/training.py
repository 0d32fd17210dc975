"""A training step, and a training of what time is left."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from codec import image, step_of_training, training_step
from mambaic.codec import PRESETS
from mambaic.images.image_files import write_png

from on_gpu.codecs import GRAPHS
from on_gpu.launches import launches
from on_gpu.parts import Clock, Save, each
from on_gpu.plan import Inputs, Plan

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "mambaic_full.py"
_ROUNDS = 5
_PRECISIONS = {"float32": False, "bfloat16": True}
_TO_START_AND_SAVE = 30.0  # seconds


def measure_steps(plan: Plan, save: Save, clock: Clock) -> None:
    """A step in float32 and with bfloat16 products, with its memory; then what one asks of the device.

    On a GPU also with CUDA graphs of the transforms.
    """

    def step(bf16: bool, graphs: bool) -> dict[str, Any]:
        rounds = min(_ROUNDS, plan.rounds)
        return training_step("paper", plan.preset, *plan.train, rounds, plan.device, bf16, graphs)

    def counted() -> dict[str, Any]:
        run = step_of_training("paper", plan.preset, *plan.train, plan.device)
        run()
        return launches(run, plan.device)

    kinds = {"": False, GRAPHS: True} if plan.device == "cuda" else {"": False}
    for kind, graphs in kinds.items():
        each([(name + kind, partial(step, bf16, graphs)) for name, bf16 in _PRECISIONS.items()], save, clock)
    each([("launches", counted)], save, clock)


def train_rest(plan: Plan, inputs: Inputs, save: Save, clock: Clock) -> None:
    """The example's train command for all time that is left; its checkpoint stays in the folder of the results."""
    if inputs.data is None and plan.device == "cuda":
        save("skipped", "no images to train on: give --data FOLDER")
        return
    minutes = (clock.left() - _TO_START_AND_SAVE) / 60
    if plan.device == "cuda" and minutes <= 0:
        save("skipped", "no time was left")
        return
    preset = "base" if "base" in PRESETS else "tiny"
    out, flags = inputs.out / f"{preset}.pt", plan.end if inputs.flags is None else shlex.split(inputs.flags)
    with tempfile.TemporaryDirectory() as folder:
        data = inputs.data or _noise(Path(folder))
        command = [sys.executable, str(PROGRAM), "train", "--data", str(data), "--out", str(out), "--preset", preset]
        command += ["--overwrite", *flags, "--minutes", str(max(0.1, minutes))]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, clock.left()))
    save("preset", preset)
    save("command", " ".join(command[1:]))
    save("output", (done.stdout + done.stderr)[-2000:])
    if done.returncode:
        raise RuntimeError(f"train ended with exit code {done.returncode}")
    rows = out.with_suffix(".csv").read_text().splitlines()
    save("log", {"columns": rows[0], "last": rows[-1], "lines": len(rows) - 1})
    save("seconds", round(time.monotonic() - began, 1))
    save("checkpoint", out.name)


def _noise(folder: Path) -> Path:
    for i in range(2):
        write_png(folder / f"{i}.png", image(80, 72, None))
    return folder
