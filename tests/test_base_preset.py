"""The preset `base`: one codec for all rates, made for CPUs, and what training it needs."""

import math
import os
import signal

import pytest
import torch
from accelerate.state import AcceleratorState
from mambaic.checkpoint import load_model, read_checkpoint, read_training, training_path
from mambaic.codec import MambaIC
from mambaic.errors import Stopped
from mambaic.training.data import TrainingCrops
from mambaic.training.engine import Engine
from mambaic.training.loss import rate_distortion
from mambaic.training.optimisers import Muon, _matrices, optimisers, orthogonal
from mambaic.training.plan import TrainingPlan
from mambaic.training.train import train
from mambaic.transforms.folded import FoldedAnalysis, FoldedSynthesis, start_as_cosines
from mambaic.transforms.wavelets import cosine_blocks
from mambaic_full import main
from sample_images import sample_image, write_photos
from torch import nn

from ssmctx import MambaICEntropyModel
from ssmctx.errors import ArgumentError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def plan(photos, tmp_path):
    """Two steps of two crops."""
    return TrainingPlan(photos, tmp_path / "b.pt", preset="base", steps=2, batch_size=2, crop=64)


def crops(plan: TrainingPlan) -> torch.Tensor:
    return torch.stack([sample_image(plan.crop, plan.crop, seed) for seed in range(plan.batch_size)])


# --- the codec


def test_cosines_are_orthonormal_and_sorted():
    blocks, energies = cosine_blocks(768)
    gram = blocks.flatten(1) @ blocks.flatten(1).T
    torch.testing.assert_close(gram, torch.eye(768), rtol=0, atol=1e-5)
    assert energies == sorted(energies, reverse=True)


@torch.no_grad()
def test_all_cosines_and_nothing_else_reproduce_an_image():
    """The folds of analysis and synthesis are each other's inverse."""
    g_a, g_s = (make((4, 4, 4), 768, lambda stage: []) for make in (FoldedAnalysis, FoldedSynthesis))
    start_as_cosines(g_a, g_s, cosine_blocks(768)[0], 3.0)
    for transform in (g_a, g_s):
        nn.init.zeros_(transform.layers[-1].weight)
    x = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(g_s(g_a(x)), x, rtol=0, atol=1e-5)


@torch.no_grad()
def test_autocast_leaves_the_linear_path_in_float32():
    torch.manual_seed(0)
    codec = MambaIC("base").train()
    for transform in (codec.g_a, codec.g_s):
        nn.init.zeros_(transform.layers[-1].weight)
    x = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y, x_hat = codec.g_a(x), codec.g_s(codec.g_a(x))
        y_hat = codec.latent_codec(y, quality=1.0)["y_hat"]
    assert (y.dtype, y_hat.dtype, x_hat.dtype) == (torch.float32,) * 3
    torch.testing.assert_close(x_hat, codec.g_s(codec.g_a(x)), rtol=0, atol=1e-5)


def test_side_information_is_wide_under_autocast():
    """Where it was bfloat16, so was y_hat, and a bright pixel a whole grey level off."""
    model = MambaICEntropyModel(M=20, hyper_channels=4, N=2, num_slices=2).train()
    y = 50 + torch.randn(1, 20, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(y)
    assert out["y_hat"].dtype == torch.float32


@pytest.mark.parametrize("variant", ["mambaic", "main-vss", "hyper-vss", "context-none"])
def test_variants_of_base_code_at_any_quality(variant):
    torch.manual_seed(1)
    codec = MambaIC("base", variant).eval()
    codec.update()
    assert codec.qualities == 6
    image = sample_image(40, 33, 2)
    sizes = []
    for quality in (0, 2.5, 5):
        data, y_hat = codec.encode_with_latent(image, quality)
        assert torch.equal(codec.decode(data), codec.image_of(y_hat, (40, 33)))
        sizes.append(len(data))
    assert sizes == sorted(sizes)


# --- what is minimised


def test_each_image_has_its_lambda_and_its_weight():
    torch.manual_seed(0)
    x, x_hat, p = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
    lmbda, weight = torch.tensor([0.01, 0.1]), torch.tensor([2.0, 0.5])
    both = rate_distortion({"x_hat": x_hat, "likelihoods": {"y": p}}, x, lmbda, "mse", weight)
    alone = [
        rate_distortion(
            {"x_hat": x_hat[i : i + 1], "likelihoods": {"y": p[i : i + 1]}}, x[i : i + 1], one.item(), "mse"
        )
        for i, one in enumerate(lmbda)
    ]
    assert both.loss == pytest.approx((alone[0].loss + alone[1].loss).item() / 2)
    assert both.bpp == pytest.approx((alone[0].bpp + alone[1].bpp).item() / 2)
    assert both.objective == pytest.approx((2 * alone[0].loss + 0.5 * alone[1].loss).item() / 2)


def test_a_step_spreads_its_images_over_all_qualities(plan):
    plan.lmbda_range = (0.002, 0.008)
    task = Engine(plan)._task(4, torch.device("cpu"))
    for i, quality in enumerate(task.quality):
        assert 5 * i / 4 <= quality <= 5 * (i + 1) / 4
        assert task.lmbda[i].item() == pytest.approx(0.002 * 4 ** (quality / 5), rel=1e-5)
        assert task.weight[i].item() == pytest.approx((task.lmbda[i].item() / 0.004) ** -0.5, rel=1e-5)


def test_every_weight_of_base_learns(plan):
    engine = Engine(plan)
    engine.step(crops(plan), 0, 1.0, list)
    assert [n for n, w in engine.model.named_parameters() if w.grad is None] == []


def test_base_trains_in_bfloat16_and_codes_at_all_qualities(plan, monkeypatch):
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    plan.precision, plan.optimiser, plan.ema, plan.half = "bf16", "muon", 0.99, True
    assert all(map(math.isfinite, train(plan)[-1]))
    training = read_checkpoint(plan.out)["training"]
    assert training["lmbda_range"] == [0.001, 0.032]
    assert "lmbda" not in training
    codec, image = load_model(plan.out), sample_image(33, 40, 5)
    for quality in (0.0, 5.0):
        data, y_hat = codec.encode_with_latent(image, quality)
        assert torch.equal(codec.decode(data), codec.image_of(y_hat, (33, 40)))


def test_lambdas_are_of_codecs_of_one_rate_and_ranges_of_the_others(plan, photos, tmp_path, capsys):
    plan.preset, plan.lmbda_range = "tiny", (0.001, 0.01)
    with pytest.raises(ArgumentError, match="preset 'tiny' has one rate: choose --lmbda"):
        train(plan)
    plan.lmbda_range = (0.01, 0.001)
    with pytest.raises(ArgumentError, match="a smallest and a largest"):
        train(plan)
    for flags in (["--lmbda", "0.01"], ["--quality", "3"]):
        assert main(["train", "--data", str(photos), "--out", str(tmp_path / "x.pt"), "--preset", "base", *flags]) == 2
        assert "trains for all rates: choose --lmbda-range" in capsys.readouterr().err


# --- Muon


@pytest.mark.parametrize("shape", [(16, 40), (3, 40, 16)])
def test_orthogonal_keeps_directions_and_makes_sizes_alike(shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    sizes = torch.linalg.svdvals(orthogonal(x).float())
    assert 0.6 < sizes.min() < sizes.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonal(x).float().flatten(), (u @ v).flatten(), dim=0) > 0.97


def test_muon_moves_dense_layers_by_steps_of_one_size_and_the_rest_as_adam_does():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 32, 3), nn.LayerNorm(2), nn.Conv2d(32, 32, 3, groups=32, padding=1))
    assert list(_matrices(net)) == ["0.weight"]
    muon, _ = optimisers(_Quantiled(net), "muon", 0.01, 0.1)
    twins = {name: weight.detach().clone().requires_grad_() for name, weight in net.named_parameters()}
    adam = torch.optim.Adam([weight for name, weight in twins.items() if name != "0.weight"], lr=0.01)
    before = net[0].weight.detach().clone()
    for _ in range(3):
        for name, weight in net.named_parameters():
            weight.grad = torch.randn_like(weight)
            twins[name].grad = weight.grad.clone()
        muon.step()
        adam.step()
    for name, weight in net.named_parameters():
        if name != "0.weight":
            torch.testing.assert_close(weight, twins[name])
    step = (net[0].weight - before).square().mean().sqrt().item()
    assert 0.01 * 0.2 * 0.5 < step < 3 * 0.01 * 0.2 * 1.5


def test_muon_minimises():
    torch.manual_seed(0)
    layer, target, x = nn.Linear(24, 24), torch.randn(24, 24), torch.randn(64, 24)
    muon = Muon([layer.weight], [layer.bias], 0.2)
    losses = []
    for _ in range(60):
        loss = (layer(x) - x @ target.T).square().mean()
        layer.zero_grad()
        loss.backward()
        muon.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize(("preset", "optimiser"), [("base", "adam"), ("tiny", "muon")])  # base with muon: a minute
def test_a_resumed_run_equals_one_in_one_go(plan, photos, tmp_path, preset, optimiser):
    plan.preset, plan.optimiser = preset, optimiser
    plan.steps, plan.crop, plan.last_crop, plan.last_part = 4, 32, 48, 0.5
    whole = train(plan)
    parts = TrainingPlan(**{**vars(plan), "out": tmp_path / "p.pt", "resume": True})
    step, count = Engine.step, []

    def stop_after_one(engine, crops, number, factor, say):
        count.append(crops.shape[-1])
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(engine, crops, number, factor, say)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", stop_after_one)
        with pytest.raises(Stopped):
            train(parts)
        assert train(parts) == whole
    assert count == [32, 32, 48, 48]
    states = [read_training(training_path(p.out), MambaIC(preset))["engine"]["model"] for p in (plan, parts)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class _Quantiled(nn.Module):
    """A network beside quantiles."""

    def __init__(self, net):
        super().__init__()
        self.net, self.z = net, nn.ParameterDict({"quantiles": nn.Parameter(torch.zeros(1))})


# --- crops and weights


def test_crops_of_another_size_are_of_the_same_images(photos):
    crops = TrainingCrops(photos, 32, seed=3, cache_bytes=1 << 20)
    small = crops.resized(16)
    assert crops[0].crops.shape == (1, 3, 32, 32)
    assert small[0].crops.shape == (1, 3, 16, 16)
    assert small._cache is crops._cache


def test_the_last_part_is_a_part(plan):
    plan.last_part = 1.0
    with pytest.raises(ArgumentError, match="last part of the run must lie between 0 and 1"):
        train(plan)


def test_half_weights_are_stored_in_half_the_space_without_loss(plan):
    plan.preset, plan.crop = "tiny", 32
    train(plan)
    full = plan.out.stat().st_size
    plan.half, plan.resume = True, False
    train(plan)
    assert plan.out.stat().st_size < 0.65 * full
    stored = read_checkpoint(plan.out)["state_dict"]
    exported = load_model(plan.out).state_dict()
    assert {x.dtype for x in stored.values() if x.numel() >= 1024 and x.is_floating_point()} == {torch.float16}
    assert all(torch.equal(stored[name].to(x.dtype), x) for name, x in exported.items())
