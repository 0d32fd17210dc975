"""Two processes, as `accelerate launch` starts them, train what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launched import keep_gradients, without_noise
from mambaic.checkpoint import load_model, read_training, training_path
from mambaic.codec import MambaIC
from mambaic.training.engine import Engine
from mambaic.training.plan import TrainingPlan
from mambaic_full import main
from sample_images import write_photos

from ssmctx.errors import ArgumentError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def test_two_processes_take_the_gradients_of_one(photos, tmp_path, monkeypatch):
    flags = ["--data", photos, "--steps", 3, "--batch-size", 4, "--crop", 64, "--cpu", "--ema", 0.9]
    flags = ["train", *map(str, flags), "--out"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    examples = [str(HERE), str(HERE.parent / "examples"), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(examples), "OMP_NUM_THREADS": "1"}
    command = [*launcher, HERE / "launched.py", tmp_path / "gradients", *flags, tmp_path / "two.pt"]
    done = subprocess.run([str(a) for a in command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "on cpu:0 with 2 processes" in done.stderr
    assert done.stdout.count("wrote") == done.stderr.count("4 images") == 1

    first, second = (torch.load(tmp_path / f"gradients.{rank}") for rank in (0, 1))
    assert len(first) == 3
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    without_noise(monkeypatch.setattr)
    alone = keep_gradients(monkeypatch.setattr)
    assert main([*flags, str(tmp_path / "one.pt")]) == 0
    for one, two in zip(alone[0], first[0], strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-5 * one.abs().max().item())
    states = [read_training(training_path(tmp_path / f"{n}.pt"), MambaIC("tiny")) for n in ("one", "two")]
    torch.testing.assert_close(states[1]["run"]["history"], states[0]["run"]["history"], rtol=1e-4, atol=0)
    load_model(tmp_path / "two.pt")


def test_a_batch_that_cannot_be_shared_out_evenly(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
    with pytest.raises(ArgumentError, match="a batch of 8 cannot be divided evenly among 3 processes: choose"):
        Engine(TrainingPlan(photos, tmp_path / "t.pt"))
