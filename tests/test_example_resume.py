"""A training that was stopped or killed goes on as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mambaic.checkpoint import load_model, read_checkpoint, read_training, save_checkpoint, training_path
from mambaic.codec import MambaIC
from mambaic.errors import Stopped
from mambaic.training.engine import Engine
from mambaic.training.plan import TrainingPlan
from mambaic.training.train import train
from mambaic_full import main
from sample_images import write_photos

from ssmctx.errors import CheckpointError

PROGRAM = Path(__file__).parents[1] / "examples" / "mambaic_full.py"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def interrupted_after(patch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal while it takes a step, counted from 1."""
    take = Engine.step

    def spy(engine, crops, index, factor, say):
        if index == step - 1:
            os.kill(os.getpid(), number)
        return take(engine, crops, index, factor, say)

    patch.setattr(Engine, "step", spy)


def assert_equal(a, b) -> None:
    """Bit for bit, types included, at any depth."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key != "seconds":
                assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def assert_same_training(a: Path, b: Path) -> None:
    assert_equal(*(read_training(training_path(path), MambaIC("tiny")) for path in (a, b)))
    assert_equal(*(read_checkpoint(path) for path in (a, b)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_stop_and_resume_equals_going_through(photos, tmp_path, monkeypatch, number):
    """Weights, average, both optimisers, schedule, history and data order, bit for bit."""
    monkeypatch.setattr("mambaic.training.log.ROW_SECONDS", 1e9)
    whole = TrainingPlan(photos, tmp_path / "whole.pt", steps=6, batch_size=3, crop=32, lr=1e-3)
    whole = replace(whole, schedule="cosine", warmup=2, ema=0.9)
    history = train(whole)
    parts = replace(whole, out=tmp_path / "parts.pt", resume=True)
    with monkeypatch.context() as patch:
        interrupted_after(patch, 3, number)
        said = f"stopped by {number.name} after step 3 of 6; .*parts.pt is complete"
        with pytest.raises(Stopped, match=said) as stop:
            train(parts)
    assert stop.value.signal == number
    load_model(parts.out)
    torch.rand(5)  # whatever the program did in between
    assert train(parts) == history
    assert_same_training(whole.out, parts.out)
    steps = [[line.split(",")[0] for line in (tmp_path / f"{n}.csv").open()] for n in ("whole", "parts")]
    assert steps == [["step", "1", "6"], ["step", "1", "4", "6"]]


def test_a_finished_training_stays_as_it_is(photos, tmp_path):
    plan = TrainingPlan(photos, tmp_path / "t.pt", steps=2, batch_size=1, crop=32, resume=True)
    history = train(plan)
    before = read_checkpoint(plan.out)
    assert train(plan) == history
    assert_equal(read_checkpoint(plan.out), before)


def test_the_program_says_how_to_go_on(photos, tmp_path, monkeypatch, capsys):
    interrupted_after(monkeypatch, 2, signal.SIGTERM)
    flags = ["--data", photos, "--out", tmp_path / "t.pt", "--steps", 9, "--batch-size", 1, "--crop", 32]
    assert main([str(a) for a in ["train", *flags]]) == 128 + signal.SIGTERM
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("mambaic: stopped by SIGTERM after step 2 of 9; ")
    assert line.endswith("t.pt is complete, continue with --resume")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_ctrl_c_interrupts_at_once(photos, tmp_path, monkeypatch):
    def twice(*_):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)  # to this thread, unlike os.kill
        raise AssertionError("still there")

    monkeypatch.setattr(Engine, "step", twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            train(TrainingPlan(photos, tmp_path / "t.pt", steps=2, batch_size=1, crop=32))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "t.pt").exists()


def test_a_killed_process_loses_no_more_than_an_interval(photos, tmp_path):
    """SIGKILL, with a checkpoint after every step: it goes on from there, and as it would have gone."""
    out = tmp_path / "killed.pt"
    flags = ["--data", photos, "--out", out, "--steps", 10**6, "--batch-size", 2, "--crop", 32, "--ema", 0.9]
    command = [sys.executable, PROGRAM, "train", *flags, "--checkpoint-minutes", 1e-9]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen([str(a) for a in command], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=log)
    try:
        limit = time.monotonic() + 120
        while not out.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.7)
    finally:
        process.kill()
        process.wait()
        log.close()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    load_model(out)
    done = read_training(training_path(out), MambaIC("tiny"))["run"]["step"]
    assert done >= 1
    rows = [line.split(",")[0] for line in (tmp_path / "killed.csv").open()][1:]
    assert int(rows[-1]) <= done + 1
    plan = TrainingPlan(photos, out, steps=done + 2, batch_size=2, crop=32, ema=0.9, resume=True)
    history = train(plan)
    through = replace(plan, out=tmp_path / "through.pt")
    assert train(through) == history
    assert_same_training(out, through.out)


# --- checkpoints of others


def test_a_checkpoint_of_another_preset_or_variant_is_not_resumed(photos, tmp_path):
    plan = TrainingPlan(photos, tmp_path / "t.pt", steps=1, batch_size=1, crop=32)
    train(plan)
    with pytest.raises(CheckpointError, match="the checkpoint holds a 'tiny' model, not 'small': change --preset"):
        train(replace(plan, preset="small", resume=True))
    with pytest.raises(CheckpointError, match="the checkpoint holds a 'mambaic' model, not 'mambavc': change --var"):
        train(replace(plan, variant="mambavc", resume=True))
    with pytest.raises(CheckpointError, match="the checkpoint holds a 'tiny' model, not 'small': change --preset"):
        train(replace(plan, preset="small", start=plan.out, out=tmp_path / "other.pt"))
    with pytest.raises(CheckpointError, match="is not a checkpoint of this example"):
        load_model(training_path(plan.out))


def test_a_damaged_training_is_not_resumed(photos, tmp_path):
    plan = TrainingPlan(photos, tmp_path / "t.pt", steps=1, batch_size=1, crop=32, resume=True)
    training_path(plan.out).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"t.train.pt is not a checkpoint, or is damaged"):
        train(plan)


def test_checkpoints_of_the_first_version_code(tmp_path):
    """They held the state of the training in the same file, and some no variant."""
    model = MambaIC("tiny")
    model.update()
    old = {"history": torch.zeros(2, 3), "net": {}, "aux": {}, "lmbda": 0.01, "random": torch.get_rng_state()}
    save_checkpoint(tmp_path / "old.pt", model, old)
    content = torch.load(tmp_path / "old.pt", weights_only=True)
    assert content.pop("variant") == "mambaic"
    torch.save(content, tmp_path / "old.pt")
    assert load_model(tmp_path / "old.pt").variant == "mambaic"
