"""Ablations: trained alike, evaluated from files, means and spreads over seeds, nothing made twice."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from example_files import curve, image_folder
from mambaic.evaluation.curves import read_curve
from mambaic.training import ablation
from mambaic.training.ablation import AblationPlan, ablate
from mambaic.training.train import TrainingPlan
from mambaic_full import main

from ssmctx.errors import ArgumentError

CELLS = ("variant", "RD loss", "BD-rate", "M parameters", "of the context", "kMAC/pixel", "steps", "encode", "decode")


def cells(table: str) -> dict[str, dict[str, str]]:
    """The rows of a table by variant, each by the beginning of its column's title."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert all(title.startswith(start) for title, start in zip(rows[0], CELLS, strict=True))
    return {row[0]: dict(zip(CELLS, row, strict=True)) for row in rows[2:]}


def test_ablate_trains_evaluates_and_goes_on(tmp_path, capsys, monkeypatch):
    photos, out = image_folder(tmp_path / "photos", (64, 64), (70, 64)), tmp_path / "out"
    command = ["ablate", "--data", photos, "--test-data", photos, "--out", out, "--variants", "context-none", "mambaic"]
    command += ["--steps", 1, "--seeds", 0, 1, "--crop", 64, "--batch-size", 1]
    assert main([str(part) for part in command]) == 0
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = cells(table)
    assert list(rows) == ["context-none", "mambaic"]
    losses = []
    for seed in (0, 1):
        image = read_curve(out / f"mambaic-seed{seed}.json").images
        mse = {name: 255**2 * 10 ** (-figures["psnr-rgb"][0] / 10) for name, figures in image.items()}
        losses.append(fmean(0.0067 * mse[name] + image[name]["bpp"][0] for name in image))
    assert rows["mambaic"]["RD loss"] == f"{fmean(losses):.4f} ± {stdev(losses):.4f}"
    assert rows["mambaic"]["BD-rate"] == "-"  # one lambda makes no curve
    assert rows["mambaic"]["steps"] == "1 ± 0"
    assert float(rows["context-none"]["M parameters"]) < float(rows["mambaic"]["M parameters"])
    assert float(rows["context-none"]["kMAC/pixel"]) < float(rows["mambaic"]["kMAC/pixel"])

    monkeypatch.setattr(ablation, "train", None)  # nothing is left to train
    assert main([str(part) for part in command]) == 0
    assert (out / "table.md").read_text() == table
    assert main([str(part) for part in [*command, "--lr", "0.5"]]) == 2
    assert "plan.json holds other settings than these: choose another --out" in capsys.readouterr().err


@pytest.fixture
def made_up(tmp_path, monkeypatch) -> tuple[AblationPlan, list[TrainingPlan]]:
    """A plan whose trainings and evaluations are made up: "cnn" needs 10 or 20 % more bits, by seed."""
    trained: list[TrainingPlan] = []

    def evaluate(checkpoints: list[Path], folder: Path, name: str, device: str) -> dict:
        factor = 1.0 if name == "mambaic" else 1.1 if "seed0" in checkpoints[0].name else 1.2
        points = curve(name, factor)
        images = {"p.png": points.results | {"width": 1, "height": 1}}
        meta = {"lambdas": [0.01] * 5}
        return {"name": name, "results": points.results, "images": images, "meta": meta}

    monkeypatch.setattr(ablation, "train", lambda plan: trained.append(plan) or [None] * 7)
    monkeypatch.setattr(ablation, "evaluate", evaluate)
    plan = AblationPlan(
        tmp_path, tmp_path, tmp_path / "out", ("all-cnn", "mambaic"), lambdas=(1, 2, 3, 4, 5), seeds=(0, 1), steps=7
    )
    return plan, trained


def test_bd_rates_are_of_the_same_seed_with_their_spread(made_up):
    plan, _ = made_up
    rows = cells(ablate(plan))
    assert rows["all-cnn"]["BD-rate"] == f"+15.00 ± {stdev([10, 20]):.2f}"
    assert rows["mambaic"]["BD-rate"] == "+0.00 ± 0.00"
    alone = cells(ablate(replace(plan, seeds=(0,))))
    assert alone["all-cnn"]["BD-rate"] == "+10.00"


def test_all_runs_are_trained_alike(made_up, tmp_path):
    plan, trained = made_up
    ablate(plan)
    assert {(t.variant, t.seed, t.lmbda) for t in trained} == {
        (variant, seed, lmbda) for variant in plan.variants for seed in (0, 1) for lmbda in (1, 2, 3, 4, 5)
    }
    assert len({str(t.out) for t in trained}) == len(trained) == 20
    assert {(t.steps, t.data, t.crop, t.batch_size, t.lr) for t in trained} == {(7, tmp_path, 256, 8, 1e-4)}
    trained.clear()
    ablate(replace(plan, out=tmp_path / "timed", steps=None, minutes=3.0))
    assert {(t.steps, t.minutes) for t in trained} == {(None, 3.0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ("mambaic", "rnn")}, "unknown variant 'rnn'; known: mambaic, mambavc, "),
        ({"anchor": "mambavc"}, "the anchor 'mambavc' is none of the variants: mambaic"),
        ({"steps": None}, "needs equal steps or equal minutes: give exactly one of the two"),
        ({"minutes": 1.0}, "needs equal steps or equal minutes: give exactly one of the two"),
        ({"seeds": (1, 1)}, r"seeds must name at least one, each once, got \[1, 1\]"),
        ({"lambdas": ()}, r"lambdas must name at least one, each once, got \[\]"),
    ],
)
def test_plans_that_make_no_sense(tmp_path, changes, message):
    with pytest.raises(ArgumentError, match=message):
        AblationPlan(
            **{"data": tmp_path, "test_data": tmp_path, "out": tmp_path, "variants": ("mambaic",), "steps": 1} | changes
        )
