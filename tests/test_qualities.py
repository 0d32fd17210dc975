"""One model at many rates: gains of the residual, and all that has to follow them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import context, latent
from torch import nn

from ssmctx import ImageCodec, MambaICEntropyModel
from ssmctx.entropy import CodedImage
from ssmctx.errors import ArgumentError, CorruptStreamError, DecodeMismatchError
from ssmctx.testing import assert_round_trip

M = 10


def model_of(qualities, **changes):
    torch.manual_seed(2)
    model = MambaICEntropyModel(M, hyper_channels=6, N=4, context=context(), qualities=qualities, **changes).eval()
    with torch.no_grad():
        for head in model.context.head:
            head[-1].weight *= 4
            head[-1].bias.chunk(2)[1].add_(4)  # what latents of standard deviation 4 ask for, as in a trained model
        if model.gains is not None:  # as training leaves them: each channel its own
            model.gains.log_y += 0.2 * torch.randn_like(model.gains.log_y)
            model.gains.log_z += 0.2 * torch.randn_like(model.gains.log_z)
    model.update()
    return model


def bits(out):
    return -sum(p.double().log2().sum().item() for p in out["likelihoods"].values())


def test_without_a_quality_a_model_is_one_that_has_none_bit_for_bit():
    plain, graded = model_of(None), model_of(3)
    missing = graded.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["gains.log_y", "gains.log_z"]
    y = latent(1, 2, M, 7, 5)
    coded, same = plain.compress(y), graded.compress(y)
    assert coded["strings"] == same["strings"]
    assert coded["shape"] == same["shape"] == {"y": (7, 5), "hyper": (2, 2)}
    assert torch.equal(coded["y_hat"], same["y_hat"])
    assert torch.equal(plain(y)["likelihoods"]["y"], graded(y)["likelihoods"]["y"])
    assert torch.equal(plain(y)["likelihoods"]["z"], graded(y)["likelihoods"]["z"])


@given(quality=st.one_of(st.sampled_from([0, 1, 2, 3]), st.floats(0, 3)), seed=st.integers(0, 9))
def test_what_is_coded_with_a_quality_decodes_to_what_was_estimated_with_it(quality, seed):
    model, y = model_of(4), latent(seed, 2, M, 5, 6)
    coded = model.compress(y, quality)
    decoded = model_of(4).decompress(coded["strings"], coded["shape"])["y_hat"]
    assert torch.equal(decoded, coded["y_hat"])
    assert torch.equal(decoded, model(y, quality)["y_hat"])
    alone = [model.compress(part, quality)["strings"] for part in y.split(1)]
    assert [[streams[0] for streams in part] for part in alone] == [
        list(i) for i in zip(*coded["strings"], strict=True)
    ]


@pytest.mark.parametrize("quality", [0, 0.5, 2, 2.75, 3])
def test_real_bits_are_those_estimated_at_every_quality(quality):
    model, y = model_of(4), latent(3, 1, M, 24, 24)
    coded, estimate = model.compress(y, quality), bits(model(y, quality))
    real = 8 * sum(len(stream) for (stream,) in coded["strings"][:2])
    assert abs(real - estimate) < 0.01 * estimate + 8 * 8


def test_rate_and_precision_grow_with_quality():
    torch.manual_seed(2)
    model = MambaICEntropyModel(M, hyper_channels=6, N=4, context=context(), qualities=5).eval()
    model.update()
    y = latent(4, 1, M, 16, 16)
    out = [model(y, quality) for quality in (0, 0.5, 1, 2, 3.25, 4)]
    rates = [bits(o) for o in out]
    errors = [(o["y_hat"] - y).square().mean().item() for o in out]
    assert rates == sorted(rates)
    assert errors == sorted(errors, reverse=True)
    assert rates[-1] > 1.3 * rates[0]
    assert errors[0] > 2 * errors[-1]
    sizes = [sum(len(s) for (s,) in model.compress(y, quality)["strings"]) for quality in (0, 2, 4)]
    assert sizes == sorted(sizes)


def test_gains_are_interpolated_on_a_log_axis_and_exact_at_whole_qualities():
    gains = model_of(3).gains
    for quality in range(3):
        assert torch.equal(gains(quality).y.flatten(), gains.log_y[quality].exp())
        assert torch.equal(gains(quality).z.flatten(), gains.log_z[quality].exp())
    middle = gains(1.5).y.flatten()
    torch.testing.assert_close(middle.square(), gains(1).y.flatten() * gains(2).y.flatten())
    assert torch.equal(gains(0.7).y, gains(round(0.7 * 256) / 256).y)  # as a file tells it


def test_images_of_a_training_batch_have_qualities_of_their_own():
    model, y = model_of(4), latent(5, 3, M, 6, 6)
    together = model(y, [0, 1.5, 3])
    for i, quality in enumerate([0, 1.5, 3]):
        alone = model(y[i : i + 1], quality)
        assert torch.equal(together["y_hat"][i : i + 1], alone["y_hat"])
        assert torch.equal(together["likelihoods"]["y"][i : i + 1], alone["likelihoods"]["y"])
    model.train()
    assert torch.isfinite(model(y, torch.tensor([0.0, 1.5, 3.0]))["y_hat"]).all()
    trained = model(y, [0, 1.5, 3])["y_hat"]
    assert not torch.equal(trained, model(y, [3, 1.5, 0])["y_hat"])


def test_gradients_reach_the_gains_of_the_qualities_that_were_used():
    model, y = model_of(4).train(), latent(6, 2, M, 6, 6).requires_grad_()
    out = model(y, [0, 1.5])
    (bits_of(out) + out["y_hat"].square().sum()).backward()
    for log in (model.gains.log_y, model.gains.log_z):
        assert (log.grad[:3].abs().sum(1) > 0).all()
        assert not log.grad[3].any()
    assert y.grad.abs().sum() > 0
    model.zero_grad()
    bits_of(model(y)).backward()
    assert model.gains.log_y.grad is None


def bits_of(out):
    return -sum(p.log2().sum() for p in out["likelihoods"].values())


def test_the_file_says_the_quality():
    codec = ImageCodec(nn.Conv2d(3, M, 8, stride=8), nn.ConvTranspose2d(M, 3, 8, stride=8), model_of(4), 8).eval()
    image = torch.randint(256, (3, 21, 34), dtype=torch.uint8)
    data, y_hat = codec.encode_with_latent(image, quality=1.7)
    assert CodedImage.from_bytes(data).quality == round(1.7 * 256)
    assert torch.equal(codec.decode(data), codec.image_of(y_hat, (21, 34)))
    assert CodedImage.from_bytes(codec.encode(image)).quality is None
    x = image[None] / 255
    coded = codec.compress(x, 3)
    assert coded["shape"]["quality"] == 3
    expected = codec(x, quality=3)["x_hat"].clamp(0, 1)
    assert torch.equal(codec.decompress(coded["strings"], coded["shape"])["x_hat"], expected)


def test_a_quality_that_got_lost_or_changed_is_noticed():
    model, y = model_of(3), latent(7, 1, M, 6, 6)
    coded = model.compress(y, quality=2)
    same = model.decompress(coded["strings"], coded["shape"], quality=2)
    assert torch.equal(same["y_hat"], coded["y_hat"])
    with pytest.raises(ArgumentError, match=r"coded with quality 2\.0, decompress got quality=1"):
        model.decompress(coded["strings"], coded["shape"], quality=1)
    without = {name: size for name, size in coded["shape"].items() if name != "quality"}
    assert torch.equal(model.decompress(coded["strings"], without, quality=2)["y_hat"], coded["y_hat"])
    with pytest.raises((DecodeMismatchError, CorruptStreamError)):
        model.decompress(coded["strings"], without)


@pytest.mark.parametrize("quality", [-1, 2.5, float("nan"), float("inf"), "high", object(), [1, 7], np.array([9.0])])
def test_a_quality_out_of_range_is_refused(quality):
    model, y = model_of(3), latent(8, 2, M, 4, 4)
    for call in (model,) if isinstance(quality, (list, np.ndarray)) else (model, model.compress):
        with pytest.raises(ArgumentError, match=r"quality must lie in 0\.\.2, got"):
            call(y, quality=quality)


def test_a_number_may_be_of_any_kind():
    model, y = model_of(3), latent(8, 1, M, 4, 4)
    expected = model.compress(y, 1.0)
    for quality in (1, np.float32(1), np.int64(1), torch.tensor(1.0)):
        coded = model.compress(y, quality)
        assert coded["strings"] == expected["strings"]
        assert coded["shape"] == expected["shape"]


def test_one_quality_a_batch_where_files_are_made_and_one_an_image_where_not():
    model, y = model_of(3), latent(8, 2, M, 4, 4)
    with pytest.raises(ArgumentError, match=r"quality must be one number or 2, one for each image, got \[0, 1, 2\]"):
        model(y, [0, 1, 2])
    for quality in ([0, 1], [1]):
        with pytest.raises(ArgumentError, match=r"compress takes one quality for all images, got \["):
            model.compress(y, quality)
    coded = model.compress(y, 1)
    with pytest.raises(ArgumentError, match=r"decompress takes one quality for all images, got \["):
        model.decompress(coded["strings"], {**coded["shape"], "quality": [1, 1]})


def test_a_quality_for_a_model_without_is_refused():
    model, y = model_of(None), latent(8, 1, M, 4, 4)
    coded = model.compress(y)
    for call in (
        lambda: model(y, quality=1),
        lambda: model.compress(y, quality=1),
        lambda: model.decompress(coded["strings"], coded["shape"], quality=1),
        lambda: model.decompress(coded["strings"], {**coded["shape"], "quality": 1}),
    ):
        with pytest.raises(ArgumentError, match=r"has one rate, got quality=1: make it with qualities="):
            call()


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_how_many_qualities(count):
    with pytest.raises(ArgumentError, match="qualities must be an integer of at least 1"):
        MambaICEntropyModel(M, hyper_channels=6, N=4, qualities=count)


def test_unknown_keywords_raise():
    model, y = model_of(3), latent(8, 1, M, 4, 4)
    coded = model.compress(y, quality=1)
    with pytest.raises(TypeError, match="qualty"):
        model.decompress(coded["strings"], coded["shape"], qualty=1)


@pytest.mark.parametrize("count", [1, 3])
def test_a_model_with_qualities_keeps_the_laws(count):
    model = model_of(count)

    class AtOne(nn.Module):
        """The kit codes without keywords."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, y):
            return self.model(y, count - 1)

        def compress(self, y):
            return self.model.compress(y, count - 1)

        def decompress(self, strings, shape):
            return self.model.decompress(strings, shape)

    assert_round_trip(AtOne(), latent(9, 2, M, 5, 3))
