"""Training: what is minimised, how fast, what is told, and what happens when a batch goes wrong."""

import csv
import itertools
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from compressai.losses import RateDistortionLoss  # an independent implementation of what is minimised
from hypothesis import given
from hypothesis import strategies as st
from mambaic.checkpoint import load_model, read_checkpoint, read_training, training_path
from mambaic.codec import VARIANTS, MambaIC
from mambaic.errors import TrainingError
from mambaic.training import engine as engine_module
from mambaic.training import log
from mambaic.training.ema import moving_average
from mambaic.training.engine import Engine
from mambaic.training.loss import Losses
from mambaic.training.plan import LAMBDAS, TrainingPlan, lambda_of
from mambaic.training.recorded import RecordedTransforms
from mambaic.training.schedule import SCHEDULES, rate_factor
from mambaic.training.train import train
from mambaic_full import main
from sample_images import sample_image, write_photos
from torch import nn

from ssmctx.errors import ArgumentError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def plan(photos, tmp_path):
    """Two steps of two crops."""
    return TrainingPlan(photos, tmp_path / "t.pt", steps=2, batch_size=2, crop=32)


def crops(plan: TrainingPlan) -> torch.Tensor:
    return torch.stack([sample_image(plan.crop, plan.crop, seed) for seed in range(plan.batch_size)])


# --- learning


def test_training_learns(photos, tmp_path):
    plan = TrainingPlan(photos, tmp_path / "t.pt", steps=25, batch_size=2, crop=64, lr=1e-3)
    history = train(plan)
    assert sum(p.loss for p in history[-5:]) < 0.7 * sum(p.loss for p in history[:5])


def test_points_are_loss_rate_and_psnr(plan):
    for point in train(plan):
        assert point.loss == pytest.approx(plan.lmbda * 255**2 * 10 ** (-point.psnr / 10) + point.bpp, rel=1e-5)


def test_ms_ssim_is_minimised(photos, plan):
    plan.metric, plan.crop, plan.lmbda = "ms-ssim", 176, 8.73
    engine = Engine(plan)
    x = crops(plan)
    torch.manual_seed(0)
    measured = engine.step(x, 0, 1.0, list)
    expected = RateDistortionLoss(8.73, "ms-ssim")({"x_hat": measured.images[1], "likelihoods": {}}, x / 255)
    assert measured.point.loss == pytest.approx(expected["loss"].item() + measured.point.bpp, rel=1e-5)
    assert engine.step(x, 1, 1.0, list).finite


def test_the_gradient_is_clipped_before_the_step_and_the_quantiles_are_not(plan):
    plan.clip = 0.5
    engine = Engine(plan)
    measured = engine.step(crops(plan), 0, 1.0, list)
    assert measured.norm > 10
    clipped = torch.stack([weight.grad.norm() for weight in engine.weights]).norm()
    assert clipped == pytest.approx(0.5, rel=1e-4)
    assert len(engine.weights) == len(list(engine.model.parameters())) - 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_has_a_gradient_in_every_variant(variant):
    """What several processes need: a weight without a gradient would keep the others waiting."""
    model = MambaIC("tiny", variant).train()
    x = torch.rand(1, 3, 32, 32)
    RateDistortionLoss(0.01)(model(x), x)["loss"].backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == [
        "latent_codec.entropy_bottleneck.quantiles"
    ]


def test_bfloat16(plan, monkeypatch):
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # one precision a program, says accelerate
    plan.precision = "bf16"
    with pytest.raises(ArgumentError, match="bf16 on a CPU needs crops of at least 33 pixels, got 32"):
        train(plan)
    plan.crop = 64
    engine = Engine(plan)
    seen = []
    engine.model.g_a[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    measured = engine.step(crops(plan), 0, 1.0, list)
    assert seen == [torch.bfloat16]
    assert measured.images[1].dtype == torch.float32
    assert measured.finite
    assert all(weight.dtype == torch.float32 for weight in engine.weights)
    assert math.isfinite(train(plan)[-1].loss)
    load_model(plan.out)


def test_float16_scales_its_losses_and_lowers_the_scale_after_an_overflow(plan, monkeypatch):
    """On a CPU accelerate has no fp16; its path is taken here with float32 numbers and a scaler of torch's."""

    def scaled() -> Engine:
        monkeypatch.setattr(AcceleratorState, "_shared_state", {})
        engine = Engine(plan)
        engine.accelerator.state._mixed_precision, engine.accelerator.native_amp = "fp16", True
        engine.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        engine.net = AcceleratedOptimizer(engine.net.optimizer, scaler=engine.accelerator.scaler)
        return engine

    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    plain = Engine(plan).step(crops(plan), 0, 1.0, list)
    engine = scaled()
    measured = engine.step(crops(plan), 0, 1.0, list)
    assert measured.norm == pytest.approx(plain.norm, rel=1e-5)
    with monkeypatch.context() as patch:
        poison(patch, math.inf)
        assert not engine.step(crops(plan), 1, 1.0, list).finite
    assert engine.accelerator.scaler.get_scale() == 2.0**11
    assert engine.step(crops(plan), 2, 1.0, list).finite
    other = scaled()
    other.load(engine.state())
    assert other.accelerator.scaler.get_scale() == 2.0**11


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can train in fp16")
def test_float16_needs_a_gpu(plan, monkeypatch):
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    plan.precision = "fp16"
    with pytest.raises(ArgumentError, match="'fp16' needs a GPU, and this trains on a CPU: choose bf16 or no"):
        train(plan)


def test_transforms_are_recorded_once_for_a_shape(plan, monkeypatch):
    """By a stand-in, which computes as the module's class does, for one shape only."""
    made = []

    def graphed(modules, samples):
        for module, (x,) in zip(modules, samples, strict=True):

            def forward(given, module=module, x=x):
                assert given.shape == x.shape
                made[-1] += 1
                return type(module).forward(module, given)

            module.forward = forward
        made.append(0)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    plan.crop, plan.last_crop, plan.steps, plan.last_part = 40, 64, 2, 0.5  # 40 is padded to 48
    plain = train(plan)
    monkeypatch.setattr(engine_module, "_recorded", lambda _, model: RecordedTransforms(model, "no"))
    plan.cuda_graphs, plan.out = True, plan.out.with_name("recorded.pt")
    assert train(plan) == plain
    assert made == [2, 2]  # g_a and g_s in a step of each size


def test_graphs_without_a_gpu_are_refused(plan):
    plan.cpu = plan.cuda_graphs = True
    with pytest.raises(ArgumentError, match="--cuda-graphs needs one process on a CUDA GPU, got 1 processes on cpu"):
        Engine(plan)


def test_two_precisions_in_one_program_are_refused(plan, monkeypatch):
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    Engine(plan)
    plan.precision = "bf16"
    with pytest.raises(ArgumentError, match=r"cannot train in precision 'bf16' here \(.*: choose another"):
        train(plan)


# --- the learning rate


@given(st.sampled_from(SCHEDULES), st.integers(0, 50), st.floats(0, 1), st.integers(1, 40))
def test_the_rate_rises_over_the_warmup_and_then_only_falls(schedule, step, progress, warmup):
    def factor(step, progress):
        return rate_factor(schedule, step, progress, warmup, (0.3, 0.6))

    after = rate_factor(schedule, step, progress, 0, (0.3, 0.6))
    assert factor(step, progress) == after * min(1, (step + 1) / warmup)
    assert 0 < after <= 1
    assert rate_factor(schedule, step, min(1, progress + 0.1), 0, (0.3, 0.6)) <= after


def test_the_rates_of_a_run(plan):
    rates = []
    plan.steps, plan.schedule, plan.milestones = 8, "milestones", (0.5, 0.75)
    plan.warmup = 2
    step = Engine.step

    def spy(engine, crops, number, factor, say):
        measured = step(engine, crops, number, factor, say)
        rates.append(engine.net.param_groups[0]["lr"] / plan.lr)
        return measured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", spy)
        train(plan)
    assert rates == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_run_by_the_clock_ends_its_schedule_by_the_clock(plan, monkeypatch):
    ticks = itertools.count()  # a clock that goes on by a second whenever it is looked at
    monkeypatch.setattr("mambaic.training.train.time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    plan.steps, plan.minutes, plan.schedule = 10**9, 0.5, "cosine"
    history = train(plan)
    assert 3 < len(history) < 30
    rates = [float(row["lr"]) for row in csv.DictReader((plan.out.parent / "t.csv").open())]
    assert rates[-1] < rates[0] == plan.lr


# --- the average of the weights


def test_the_average_follows_its_formula():
    layer = nn.Linear(2, 1)
    average = moving_average(layer, 0.5)
    expected = layer.weight.detach().clone()
    average.update_parameters(layer)
    for n in range(1, 8):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(1, 2))
        average.update_parameters(layer)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * layer.weight
        torch.testing.assert_close(average.module.weight, expected)


def test_the_average_is_what_is_exported(plan):
    plan.ema = 0.9
    train(plan)
    state = read_training(training_path(plan.out), MambaIC("tiny"))["engine"]
    exported = load_model(plan.out).state_dict()
    name = "g_a.0.weight"
    assert torch.equal(exported[name], state["average"][f"module.{name}"])
    assert not torch.equal(exported[name], state["model"][name])


# --- one command, several lambdas


def test_qualities_name_the_lambdas_of_the_paper_and_of_the_zoo():
    assert [lambda_of(q, "mse") for q in range(1, 7)] == [0.0025, 0.0035, 0.0067, 0.013, 0.025, 0.05]
    assert lambda_of(3, "ms-ssim") == 8.73
    assert all(a < b for lambdas in LAMBDAS.values() for a, b in itertools.pairwise(lambdas))


def test_one_command_trains_a_checkpoint_for_every_quality(photos, tmp_path, capsys):
    flags = ["--data", photos, "--steps", 1, "--batch-size", 1, "--crop", 32, "--out", tmp_path / "set.pt"]
    assert main([str(a) for a in ["train", *flags, "--quality", 1, 4, "--chain", "--lr", 1e-9]]) == 0
    first, second = (read_checkpoint(tmp_path / f"set-q{quality}.pt") for quality in (1, 4))
    assert (first["training"]["lmbda"], second["training"]["lmbda"]) == (0.0025, 0.013)
    name = "g_a.0.weight"
    torch.testing.assert_close(second["state_dict"][name], first["state_dict"][name], atol=1e-8, rtol=0)
    assert "wrote" in capsys.readouterr().out


def test_one_command_trains_a_checkpoint_for_every_lambda(photos, tmp_path):
    flags = ["--data", photos, "--steps", 1, "--batch-size", 1, "--crop", 32, "--out", tmp_path / "set.pt"]
    assert main([str(a) for a in ["train", *flags, "--lmbda", 0.01, 0.02]]) == 0
    assert [read_checkpoint(tmp_path / f"set-{lmbda}.pt")["training"]["lmbda"] for lmbda in (0.01, 0.02)] == [
        0.01,
        0.02,
    ]


# --- batches that are not finite


def poisoned(patch: pytest.MonkeyPatch, when) -> None:
    """Let the loss of the steps that `when` says be NaN."""
    step = Engine.step

    def spy(engine, crops, number, factor, say):
        with pytest.MonkeyPatch.context() as inner:
            if when(number):
                poison(inner, math.nan)
            return step(engine, crops, number, factor, say)

    patch.setattr(Engine, "step", spy)


def poison(patch: pytest.MonkeyPatch, factor: float) -> None:
    """Let the loss and its rate be what they are times a number that is not finite."""
    loss_of = engine_module.rate_distortion
    patch.setattr(
        engine_module, "rate_distortion", lambda *arguments: Losses(*(v * factor for v in loss_of(*arguments)))
    )


def test_a_batch_that_is_not_finite_is_skipped_and_counted(plan, monkeypatch, capsys):
    plan.steps = 5
    monkeypatch.setattr(log, "LINE_SECONDS", 0)
    monkeypatch.setattr(log, "ROW_SECONDS", 0)
    poisoned(monkeypatch, lambda number: number in (1, 3))
    history = train(plan)
    assert len(history) == 3
    assert all(math.isfinite(value) for point in history for value in point)
    assert read_checkpoint(plan.out)["training"]["skipped"] == 2
    state = read_training(training_path(plan.out), MambaIC("tiny"))
    assert (state["run"]["step"], state["run"]["skipped"]) == (5, [1, 3])
    assert all(value.isfinite().all() for value in state["engine"]["model"].values())
    assert {float(s["step"]) for s in state["engine"]["net"]["state"].values()} == {3.0}
    assert "2 skipped" in capsys.readouterr().err


def test_a_skipped_batch_leaves_no_trace(plan, monkeypatch):
    engine = Engine(plan)
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    poison(monkeypatch, math.inf)
    assert not engine.step(crops(plan), 0, 1.0, list).finite
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())
    assert engine.net.state_dict()["state"] == {}


def test_too_many_of_them_end_the_run_and_keep_the_checkpoint(plan, monkeypatch):
    plan.steps, plan.max_skipped = 50, 3
    plan.out.write_bytes(b"before")
    poisoned(monkeypatch, lambda number: number % 2)
    expected = r"4 of the last 8 batches .* \(now loss nan, gradient nan\): lower --lr \(now 0.0001\)"
    with pytest.raises(TrainingError, match=expected):
        train(plan)
    assert plan.out.read_bytes() == b"before"


# --- what is told


def test_plain_lines_where_stderr_is_no_terminal(plan, monkeypatch, capsys):
    plan.steps = 3
    monkeypatch.setattr(log, "LINE_SECONDS", 0)
    train(plan)
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == ("4 images (1 smaller than 32x32 left out), tiny mambaic, lambda 0.0067 (mse), on cpu")
    assert len(lines) == 3
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"step {number}/3, loss ")
        for part in (" bpp, ", " dB, ", "lr 0.0001", "data ", "ETA 0:00:0"):
            assert part in line


def test_the_first_line_and_the_last_come_at_once(plan, monkeypatch, capsys):
    monkeypatch.setattr(log, "LINE_SECONDS", 1e9)
    plan.steps = 4
    train(plan)
    steps = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()[1:]]
    assert steps == ["step 1/4", "step 4/4"]


def test_a_bar_where_it_is_one(plan, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    train(plan)
    shown = capsys.readouterr().err
    assert "100%|" in shown
    assert "step 2/2" in shown
    assert "ETA" in shown


def test_the_table_beside_the_checkpoint(plan, monkeypatch):
    monkeypatch.setattr(log, "ROW_SECONDS", 0)
    plan.steps = 3
    history = train(plan)
    rows = list(csv.DictReader((plan.out.parent / "t.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    assert [float(row["loss"]) for row in rows] == pytest.approx([point.loss for point in history], rel=1e-5)


def test_tensorboard_has_scalars_and_images(plan, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(log, "ROW_SECONDS", 0)
    plan.logdir, plan.checkpoint_minutes = tmp_path / "board", 1e-9
    history = train(plan)
    events = EventAccumulator(str(tmp_path / "board" / "t"))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [1, 2]
    assert [event.value for event in losses] == pytest.approx([point.loss for point in history], rel=1e-5)
    image = events.Images("train/crops over reconstructions")[0]
    assert (image.width, image.height) == (2 * 32, 2 * 32)


FAULTS = """
import resource, torch
from mambaic.training.memory import keep_freed_memory

kept = keep_freed_memory()
faults = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(1 << 22)
    del x
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, max(faults[20:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is what Linux has")
def test_what_a_step_frees_serves_the_next_one():
    """Without it each tensor brings 500 page faults or more; the first few may, until one finds a place of its size."""
    examples = Path(__file__).parent.parent / "examples"
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=examples, capture_output=True, text=True, check=True)
    kept, most = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library is not glibc")
    assert int(most) < 100
