"""Refinement in the encoder: files that cost less, of the same format, from the same weights."""

from __future__ import annotations

import pytest
import torch
from mambaic.bundled import load_bundled
from sample_images import sample_image
from test_image_codec import codec_of

from ssmctx import ImageCodec, MambaICEntropyModel
from ssmctx.codec import refine as refinement
from ssmctx.codec import soft_rounding
from ssmctx.codec.refine import EFFORTS, Recipe, lambda_at, spans
from ssmctx.entropy import CodedImage
from ssmctx.errors import ArgumentError, ShapeError

IMAGE = sample_image(45, 60)


@pytest.fixture(scope="module")
def trained() -> ImageCodec:
    return load_bundled("tiny")


def cost(codec: ImageCodec, data: bytes, image: torch.Tensor, lmbda: float) -> float:
    mse = (codec.decode(data).double() - image).square().mean().item()
    return lmbda * mse + 8 * len(data) / image[0].numel()


def test_a_refined_file_costs_less_and_decodes_with_other_copies(trained):
    plain, refined = (trained.encode(IMAGE, effort=effort) for effort in (0, 3))
    assert trained.encode(IMAGE) == plain
    assert cost(trained, refined, IMAGE, trained.lmbda) < 0.97 * cost(trained, plain, IMAGE, trained.lmbda)
    data, y_hat = trained.encode_with_latent(IMAGE, effort=3)
    assert data == refined  # no chance in it
    assert torch.equal(load_bundled("tiny").decode(data), trained.image_of(y_hat, (45, 60)))


def test_lambda_is_a_dial(trained):
    small, large = (trained.encode(IMAGE, effort=3, lmbda=factor * trained.lmbda) for factor in (0.3, 3))
    assert len(small) < len(trained.encode(IMAGE, effort=3)) < len(large)


def test_what_does_not_pay_is_left_out(trained, monkeypatch):
    monkeypatch.setattr(refinement, "EFFORTS", (None, Recipe(1, rate=30.0)))
    monkeypatch.setattr(MambaICEntropyModel, "zeroings", (0.0,))
    assert trained.encode(IMAGE, effort=1) == trained.encode(IMAGE)


def test_more_effort_is_more_steps():
    steps = [recipe.steps for recipe in EFFORTS[1:]]
    assert steps == sorted(set(steps))
    assert len(EFFORTS) == 10
    assert EFFORTS[3].steps == 10


def test_progress_is_told_after_each_step(trained):
    told = []
    trained.encode(IMAGE[:, :32, :32], effort=1, progress=lambda *step: told.append(step))
    assert told == [(i + 1, EFFORTS[1].steps) for i in range(EFFORTS[1].steps)]


def test_it_leaves_weights_modes_and_gradients_alone():
    codec = codec_of()
    codec.lmbda = 0.01
    codec.train()
    codec.encode(IMAGE, effort=1)
    assert all(module.training for module in codec.modules())
    assert all(p.requires_grad and p.grad is None for p in codec.parameters())


def test_inside_no_grad_and_inference_mode_the_bytes_are_the_same(trained):
    expected = trained.encode(IMAGE, effort=1)
    with torch.no_grad():
        assert trained.encode(IMAGE, effort=1) == expected
    with torch.inference_mode():
        assert trained.encode(IMAGE, effort=1) == expected


# --- the estimate


def test_the_estimate_is_that_of_forward():
    codec, x = codec_of(), torch.stack([IMAGE, IMAGE.flip(2)]) / 255
    with torch.no_grad():
        out = codec(x)
        estimated = codec.train().estimate(codec.analyse(x), x)
    expected = sum(-p.log2().flatten(1).sum(1) for p in out["likelihoods"].values())
    torch.testing.assert_close(estimated.bits, expected)
    mse = (255 * (out["x_hat"].clamp(0, 1) - x)).square().flatten(1).mean(1)
    torch.testing.assert_close(estimated.mse, mse)
    assert codec.training


def test_gradients_change_no_bit_of_the_likelihoods():
    codec, y = codec_of(qualities=2), 4 * torch.randn(1, 10, 5, 7)
    with torch.no_grad():
        without = codec.latent_codec(y, 1)["likelihoods"]["y"]
    assert torch.equal(codec.latent_codec(y, 1)["likelihoods"]["y"], without)


def test_soft_rounding_lets_a_rate_fall_along_its_gradient():
    codec = codec_of()
    x = IMAGE[None] / 255
    y = codec.analyse(x).detach().requires_grad_()
    bits, mse = codec.estimate(y, x, rounding=soft_rounding(2))
    (gradient,) = torch.autograd.grad((bits + mse).sum(), y)
    lower = codec.estimate(y - 0.02 * gradient.sign(), x, rounding=soft_rounding(2))
    assert (lower.bits + lower.mse < bits + mse).all()


# --- tiles


def test_spans_partition_a_side():
    for length in (1, 7, 8, 9, 30):
        cores = []
        for window, core in spans(length, 8, 3):
            assert 0 <= window.start < window.stop <= length
            cores += range(length)[window][core]
        assert cores == list(range(length))


def test_large_images_are_refined_tile_by_tile(trained, monkeypatch):
    monkeypatch.setattr(refinement, "_TILE", 32)
    monkeypatch.setattr(refinement, "_HALO", 16)
    seen = []
    estimate = trained.estimate
    monkeypatch.setattr(trained, "estimate", lambda y, x, *rest: seen.append(x.shape[2:]) or estimate(y, x, *rest))
    refined = trained.encode(IMAGE, effort=2)
    assert max(max(size) for size in seen) == 48
    assert len(seen) == 2 * 2 * EFFORTS[2].steps
    assert cost(trained, refined, IMAGE, trained.lmbda) < cost(trained, trained.encode(IMAGE), IMAGE, trained.lmbda)


def test_only_the_core_of_a_tile_moves(trained, monkeypatch):
    monkeypatch.setattr(refinement, "_TILE", 32)
    monkeypatch.setattr(refinement, "_HALO", 16)
    x = IMAGE[None] / 255
    with torch.no_grad():
        y = trained.analyse(x)
    before = []
    estimate = trained.estimate
    monkeypatch.setattr(trained, "estimate", lambda y, *rest: before.append(y.detach().clone()) or estimate(y, *rest))
    moved = refinement.refine(trained, x, y, Recipe(2), 0.01)
    assert (moved != y).any(1).all()  # every cell, by some tile
    assert torch.equal(before[1][..., 2:, :], before[0][..., 2:, :])  # the halo of the first tile, below
    assert torch.equal(before[1][..., 2:], before[0][..., 2:])  # and right
    assert torch.equal(before[2][..., :2, 0], moved[..., :2, 1])  # the second tile sees what the first made


# --- qualities


@pytest.mark.parametrize("quality", [0, 0.5, 2])
def test_every_quality_of_a_model_with_gains(quality):
    codec = codec_of(qualities=3)
    codec.lmbda = [0.005, 0.01, 0.02]
    lmbda = lambda_at(codec.lmbda, quality)
    plain, refined = (codec.encode(IMAGE, quality, effort) for effort in (0, 2))
    assert cost(codec, refined, IMAGE, lmbda) < cost(codec, plain, IMAGE, lmbda)
    assert CodedImage.from_bytes(refined).quality == round(256 * quality)


def test_steps_are_counted_in_quantisation_steps():
    """Twice the gain moves y half as far."""
    codec, x = codec_of(qualities=2), IMAGE[None] / 255
    with torch.no_grad():
        y = codec.analyse(x)
        for gains in (codec.latent_codec.gains.log_y, codec.latent_codec.gains.log_z):
            gains.zero_()
        codec.latent_codec.gains.log_y[1] += torch.tensor(2.0).log()
    one, two = (refinement.refine(codec, x, y, Recipe(1), 0.01, quality) - y for quality in (0, 1))
    torch.testing.assert_close(one.abs().max() / two.abs().max(), torch.tensor(2.0), rtol=0.01, atol=0)


def test_lambda_between_qualities():
    assert lambda_at([0.01, 0.04], 0.5) == pytest.approx(0.02)
    assert lambda_at([0.01, 0.04], 1) == pytest.approx(0.04)
    assert lambda_at([0.01], 0) == pytest.approx(0.01)
    assert lambda_at(0.01, 1.5) == 0.01


# --- other packages' latent codecs


@pytest.mark.parametrize("name", ["hyperprior", "checkerboard", "channel_groups", "elic"])
def test_compressais_latent_codecs(name):
    pytest.importorskip("compressai")
    from gallery import compressai_codecs

    latent_codec = getattr(compressai_codecs, name)()
    channels = {"elic": 20}.get(name, compressai_codecs.M)
    torch.manual_seed(1)
    g_a = torch.nn.Conv2d(3, channels, 16, stride=16)
    with torch.no_grad():
        g_a.weight *= 30
    codec = ImageCodec(g_a, torch.nn.ConvTranspose2d(channels, 3, 16, stride=16), latent_codec, 64, lmbda=0.01).eval()
    codec.update()
    image = sample_image(50, 64)
    plain, refined = (codec.encode(image, effort=effort) for effort in (0, 2))
    assert cost(codec, refined, image, 0.01) < cost(codec, plain, image, 0.01)


# --- what cannot be


@pytest.mark.parametrize("effort", [-1, 10, 2.5, "3"])
def test_an_effort_that_is_none(effort):
    with pytest.raises(ArgumentError, match=f"effort must be an integer from 0 to 9, got {effort!r}"):
        codec_of().encode(IMAGE, effort=effort)


def test_lambdas_that_are_none():
    codec = codec_of()
    with pytest.raises(ArgumentError, match="weighs errors by a lambda, and this codec has none of its own: give lmbd"):
        codec.encode(IMAGE, effort=1)
    with pytest.raises(ArgumentError, match="lmbda is what an effort above 0 refines for, got lmbda=1 with effort=0"):
        codec.encode(IMAGE, lmbda=1)
    codec.lmbda = [0.01, 0.02]
    with pytest.raises(ArgumentError, match="those of this codec belong to qualities"):
        codec.encode(IMAGE, effort=1)


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        codec = codec_of()
    with pytest.raises(ArgumentError, match=r"weights were made inside torch\.inference_mode: make or load it outside"):
        codec.encode(IMAGE, effort=1, lmbda=1)


@pytest.mark.parametrize("lmbda", [-1.0, 0, float("nan"), float("inf"), "0.01", [0.1]])
def test_a_lambda_that_is_none_is_told(trained, lmbda):
    with pytest.raises(ArgumentError, match="lmbda must be a number above 0, got"):
        trained.encode(IMAGE, effort=1, lmbda=lmbda)


@pytest.mark.parametrize("quality", [-0.1, 1.1, 3.0])
def test_lambdas_are_not_extrapolated(quality):
    with pytest.raises(ArgumentError, match=f"a lambda for each of 2 qualities, got quality={quality}"):
        lambda_at([0.01, 0.02], quality)
    with pytest.raises(ArgumentError, match="a lambda for each of 0 qualities"):
        lambda_at([], quality)


def test_an_estimate_is_of_a_latent_for_each_image(trained):
    x, y = torch.rand(2, 3, 32, 32), torch.randn(1, 60, 2, 2)
    with pytest.raises(ShapeError, match=r"a latent for each image is needed, got y \(1, 60, 2, 2\) for x \(2, 3"):
        trained.estimate(y, x)
    with pytest.raises(ShapeError, match="expects x"):
        trained.estimate(y, x[:1, :1])


@pytest.mark.parametrize("slope", [0, -3, float("nan")])
def test_a_slope_that_is_none_is_told(slope):
    with pytest.raises(ArgumentError, match="slope must be a number above 0"):
        soft_rounding(slope)
