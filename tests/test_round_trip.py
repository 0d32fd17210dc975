"""Laws 2 and 3: one loop, and decoding gives the encoder's y_hat bit for bit."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import M, context, entropy_model, latent

from ssmctx import MambaICEntropyModel, registry
from ssmctx.entropy import model as model_module
from ssmctx.entropy.bitstream.checksums import UNCHECKED
from ssmctx.entropy.gains import Gain
from ssmctx.entropy.streams import to_symbols
from ssmctx.errors import (
    ArgumentError,
    CorruptStreamError,
    NonFiniteError,
    NotUpdatedError,
    ShapeError,
    StreamError,
    UnknownNameError,
)
from ssmctx.testing import LawBroken, assert_round_trip

MODEL = entropy_model()


@given(height=st.integers(1, 40), width=st.integers(1, 40), batch=st.integers(1, 3), seed=st.integers(0, 2**20))
def test_any_size_and_batch_round_trips(height, width, batch, seed):
    assert_round_trip(MODEL, latent(seed, batch, M, height, width))


def test_the_law_catches_a_decoder_of_another_parity(monkeypatch):
    """Planted fault: the decoder codes non-anchors first."""
    steps = model_module.walked

    def swapped(context_model, side, gain):
        other = copy.deepcopy(context_model)
        other.order.lattices = other.order.lattices[::-1]
        return steps(other, side, gain)

    model = entropy_model()
    decode = model._decode

    def faulty(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model_module, "walked", swapped)
            return decode(*arguments)

    monkeypatch.setattr(model, "_decode", faulty)
    y = latent(0, 1, M, 6, 7)
    with pytest.raises(LawBroken, match="DecodeMismatchError: step 0, channels 0 to 1 decodes to other symbols"):
        assert_round_trip(model, y)
    with torch.no_grad():  # one scale everywhere, so that the coder itself cannot notice
        for head in model.context.head:
            head[-1].weight.zero_()
    monkeypatch.setattr(model, "compress", lambda y, compress=model.compress: unchecked(compress(y)))
    with pytest.raises(LawBroken, match="decompress gives another y_hat than compress"):
        assert_round_trip(model, y)


def unchecked(coded):
    """As an encoder without checksums and guard would have coded it."""
    y, z, *_ = coded["strings"]
    return {**coded, "strings": [y, z, [UNCHECKED] * len(y), [b""] * len(y)]}


def test_the_law_catches_an_image_that_depends_on_its_batch(monkeypatch):
    """Planted fault: images coded together share their statistics."""
    analyse = MODEL.h_a.forward
    monkeypatch.setattr(MODEL.h_a, "forward", lambda y: analyse(y / y.std()))
    monkeypatch.setattr(MODEL, "forward", lambda y: {"y_hat": MODEL._estimate(y, Gain())[0], "likelihoods": {}})
    with pytest.raises(LawBroken, match="gives another y_hat than forward"):
        assert_round_trip(MODEL, latent(0, 2, M, 6, 7))


def test_compress_is_the_same_in_training_mode_and_leaves_it():
    y = latent(0, 1, M, 5, 6)
    expected = MODEL.compress(y)["strings"]
    model = copy.deepcopy(MODEL).train()
    model.h_a[1].drop_path = 0.9
    assert model.compress(y)["strings"] == expected
    assert all(m.training for m in model.modules())


def test_gradient_mode_changes_no_bit():
    y = latent(0, 1, M, 5, 6)
    with torch.no_grad():
        expected = MODEL(y)["y_hat"]
    assert torch.equal(MODEL(y)["y_hat"], expected)


def test_far_outliers_survive():
    y = latent(0, 1, M, 4, 4)
    y[0, 3, 1, 2], y[0, 7, 0, 0] = 9000.0, -31000.0
    assert_round_trip(MODEL, y)


def test_training_gradients_reach_every_parameter():
    model = copy.deepcopy(MODEL).train()
    y = latent(0, 2, M, 6, 5).requires_grad_()
    out = model(y)
    rate = sum(-p.log2().sum() for p in out["likelihoods"].values())
    (rate + out["y_hat"].square().sum() + model.aux_loss()).backward()
    assert y.grad.isfinite().all()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_every_submodule_can_be_exchanged():
    h_a = torch.nn.Conv2d(M, 3, 3, stride=3, padding=1)
    h_s = torch.nn.ConvTranspose2d(3, 2 * M, 5, stride=3, padding=1)
    model = MambaICEntropyModel(M, hyper_channels=3, context=context(num_slices=2), h_a=h_a, h_s=h_s).eval()
    model.update()
    coded = assert_round_trip(model, latent(0, 2, M, 7, 8))
    assert coded.shape == {"y": (7, 8), "hyper": (3, 3)}


def test_bad_arguments():
    with pytest.raises(ShapeError, match=r"MambaICEntropyModel expects y \(batch, 10, H, W\)"):
        MODEL(torch.zeros(1, 9, 4, 4))
    with pytest.raises(NonFiniteError, match="y must be finite, got NaN or an infinity"):
        MODEL.compress(torch.full((1, M, 4, 4), float("nan")))
    with pytest.raises(ArgumentError, match=r"symbols of magnitude up to 32767, got \d{5,}"):
        MODEL.compress(torch.full((1, M, 4, 4), 1e6))
    with pytest.raises(NotUpdatedError, match=r"call update\(\) after training"):
        MambaICEntropyModel(M, hyper_channels=3, N=2, context=context()).compress(torch.zeros(1, M, 4, 4))
    with pytest.raises(ArgumentError, match="the context must have M=12 channels, got 10"):
        MambaICEntropyModel(12, context=context())
    small = MambaICEntropyModel(M, hyper_channels=3, N=2, context=context(), h_s=torch.nn.Conv2d(3, 2 * M, 1))
    with pytest.raises(
        ShapeError, match=r"h_s must give \(batch, 20, H, W\), H and W at least \(4, 4\); got \(1, 20, 1, 1\)"
    ):
        small(torch.zeros(1, M, 4, 4))


def test_bad_streams():
    coded = MODEL.compress(latent(0, 1, M, 4, 4))
    (y, z, sums, guard), shape = coded["strings"], coded["shape"]
    with pytest.raises(ArgumentError, match=r"one of each per image, got lists of lengths \[1, 0, 1, 1\]"):
        MODEL.decompress([y, [], sums, guard], shape)
    for some in ([y, z], [y, z, sums]):
        with pytest.raises(ArgumentError, match=rf"got {len(some)} lists: keep all that compress gives"):
            MODEL.decompress(some, shape)
    for strings in ([], [[], [], [], []], [y, z, sums, guard, guard]):
        with pytest.raises(ArgumentError, match=r"strings must be .* got lists of lengths"):
            MODEL.decompress(strings, shape)
    with pytest.raises(ArgumentError, match=r'shape must be \{"y": \(H, W\), "hyper": \(h, w\)\} .*got \(4, 4\)'):
        MODEL.decompress([y, z, sums, guard], (4, 4))
    with pytest.raises(ArgumentError, match="shape must be"):
        MODEL.decompress([y, z, sums, guard], {"y": (0, 4), "hyper": (1, 1)})
    with pytest.raises(CorruptStreamError, match="8 bytes or more, a multiple of 4; got 3 bytes"):
        MODEL.decompress([[y[0][:3]], z, sums, guard], shape)
    with pytest.raises(CorruptStreamError, match="got str"):
        MODEL.decompress([["text"], z, sums, guard], shape)
    with pytest.raises(CorruptStreamError, match="the checksums of 10 steps take 5 bytes or 23, got str"):
        MODEL.decompress([y, z, ["text"], guard], shape)
    with pytest.raises(CorruptStreamError, match="a guard is bytes, none or two or more; got 'text'"):
        MODEL.decompress([y, z, sums, ["text"]], shape)
    other = MODEL.compress(latent(5, 1, M, 4, 4))["strings"]
    with pytest.raises(StreamError, match="other symbols than were encoded"):
        MODEL.decompress([other[0], z, sums, guard], shape)
    with pytest.raises(StreamError, match="other symbols than were encoded"):
        MODEL.decompress([y, other[1], sums, guard], shape)
    with pytest.raises(StreamError, match="other symbols than were encoded"):
        MODEL.decompress([y, z, other[2], guard], shape)


def test_symbols_are_16_bit():
    ends = torch.tensor([32767.0, -32767.0, 0.0])
    assert to_symbols(ends).tolist() == [32767, -32767, 0]
    for beyond in (32768.0, -32768.0, float("inf"), float("nan")):
        with pytest.raises(ArgumentError, match="the coder takes symbols of magnitude up to 32767"):
            to_symbols(torch.tensor([beyond]))


def test_what_the_coder_cannot_hold_raises():
    for value in (40000.0, -40000.0):
        y = latent(0, 1, M, 4, 4)
        y[0, 3, 2, 1] = value
        with pytest.raises(ArgumentError, match=r"symbols of magnitude up to 32767, got (3|4)\d{4}.*check the latent"):
            MODEL.compress(y)


def test_weights_too_narrow_to_code_with():
    with pytest.raises(
        ArgumentError, match=r"codes in float32 or wider, it has weights in torch.bfloat16: call .float"
    ):
        copy.deepcopy(MODEL).bfloat16().compress(latent(0, 1, M, 4, 4))


def test_autocast_does_not_reach_the_coding_path():
    y = latent(0, 1, M, 9, 7)
    expected = MODEL.compress(y)
    with torch.autocast("cpu", torch.bfloat16):
        coded = MODEL.compress(y)
        assert coded["strings"] == expected["strings"]
        assert torch.equal(MODEL.decompress(coded["strings"], coded["shape"])["y_hat"], expected["y_hat"])
        with torch.no_grad():
            assert torch.equal(MODEL(y)["y_hat"], expected["y_hat"])


def test_any_registered_coder_codes():
    for name in registry.coders.names():
        torch.manual_seed(2)
        model = MambaICEntropyModel(M, hyper_channels=6, context=context(), N=4, coder=name).eval()
        model.update()
        assert model.coder.name == name
        assert_round_trip(model, latent(0, 2, M, 5, 6))
    with pytest.raises(
        UnknownNameError, match=r"unknown coder 'ran' \(did you mean 'rans'\?\); known: constriction, rans"
    ):
        MambaICEntropyModel(M, hyper_channels=6, context=context(), N=4, coder="ran")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (9, 6), (32, 48)])
@torch.no_grad()
def test_the_order_of_y_in_memory_changes_no_bit(height, width):
    """g_a may hand over channels-last latents; z_hat then has another order in the encoder than in the decoder."""
    model, y = MODEL, latent(3, 1, M, height, width)
    last = y.to(memory_format=torch.channels_last)
    assert_round_trip(model, last)
    expected, coded = model.compress(y), model.compress(last)
    assert coded["strings"] == expected["strings"]
    assert torch.equal(coded["y_hat"], expected["y_hat"])
