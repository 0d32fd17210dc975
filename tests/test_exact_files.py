"""Models whose scales are integers: files without a guard that decode where every other number is wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from models import M, context, latent
from test_scale_network import HYPER, ORDER, model_of, network, wider
from torch import nn

from ssmctx import CarriedStateContext, CodingOrder, ContextModel, ImageCodec, MambaICEntropyModel
from ssmctx.codec.fingerprint import decoder_fingerprint
from ssmctx.entropy import CodedImage, ScaleNetwork
from ssmctx.entropy.bitstream.checksums import Checksums
from ssmctx.entropy.gains import Gain, QualityGains
from ssmctx.entropy.scale_network.steps import scale_steps
from ssmctx.entropy.steps import drive
from ssmctx.errors import ArgumentError, CorruptStreamError, DecodeMismatchError, NonFiniteError
from ssmctx.testing import (
    LawBroken,
    assert_agrees_under_drift,
    assert_any_size,
    assert_deterministic,
    assert_real_bits,
    assert_rejects_corruption,
    assert_round_trip,
    assert_state_dict,
    drifting,
    largest_drift,
)
from ssmctx.testing.laws.round_trip import SIZES

DRIFT = 1e-3


def make() -> MambaICEntropyModel:
    parts = {"h_a": nn.Conv2d(M, HYPER, 5, 4, 2), "h_s": nn.ConvTranspose2d(HYPER, 2 * M, 4, 4), "context": "none"}
    return MambaICEntropyModel(M, hyper_channels=HYPER, scales="integer", **parts)


MODEL = model_of()


# --- the laws


def test_the_laws_of_coding():
    assert_round_trip(MODEL, latent(0, 2, M, 7, 5))
    assert_any_size(MODEL, lambda height, width: latent(1, 1, M, height, width), SIZES[:6])
    assert_deterministic(MODEL, latent(2, 1, M, 5, 4))
    assert_state_dict(make, latent(2, 1, M, 5, 4))
    assert_rejects_corruption(MODEL, latent(3, 1, M, 9, 8))


@pytest.mark.parametrize("quality", [0, 1.37, 2])
def test_qualities(quality):
    model = model_of(scales="integer", qualities=3)
    with torch.no_grad():
        model.gains.log_z.normal_(std=0.3)
    model.update(force=True)
    y = latent(0, 1, M, 9, 11)
    coded = model.compress(y, quality)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], model(y, quality)["y_hat"])
    out = model([y, y][0].repeat(2, 1, 1, 1), [quality, 0])
    assert torch.equal(out["y_hat"][:1], coded["y_hat"])


def test_real_bits_of_a_model_that_fits():
    """y drawn with the scales that the network gives."""
    y = latent(0, 1, M, 24, 20)
    z = torch.round(MODEL.h_a(y) - MODEL.entropy_bottleneck.medians())

    fits = model_of(h_a=Constant(z), context=ZeroMeans(), scales=network(ZeroMeans().order))
    random, slices = torch.Generator().manual_seed(1), [y.new_zeros(1, n, 24 * 20) for n in (4, 6)]

    def drawn(own):
        value = own.values * torch.randn(own.values.shape, generator=random)
        order = fits.context.order
        slices[order.slice_index(own.index)].index_copy_(2, order.indices(own.index, (24, 20)), value)
        return torch.round(value)

    drive(scale_steps(fits.scale_network, z, Gain(), (24, 20)), drawn)
    assert_real_bits(fits, torch.cat(slices, 1).view_as(y), slack_bytes=200)


class Constant(nn.Module):
    def __init__(self, z) -> None:
        super().__init__()
        self.z = z

    def forward(self, y):
        return self.z


class ZeroMeans(ContextModel):
    def __init__(self) -> None:
        super().__init__(CodingOrder.checkerboard([4, 6]))

    def forward(self, step, y_hat, side, state=None):
        mean = torch.zeros_like(y_hat[:, self.order.channels(step)])
        return mean, mean


def test_a_latent_can_be_refined_through_the_integers():
    """Soft rounding of z and y, gradients to y in evaluation, and the rate that codes where nothing is soft."""
    y = latent(0, 1, M, 8, 8).requires_grad_()
    soft = MODEL.estimate(y, rounding=lambda x: x + 0.1 * torch.sin(2 * torch.pi * x))
    (-soft["likelihoods"]["y"].log2().sum()).backward()
    assert y.grad.isfinite().all()
    assert y.grad.abs().sum() > 0


# --- no guard


def test_there_is_no_guard_and_one_checksum_however_long_the_stream():
    coded = MODEL.compress(latent(0, 1, M, 40, 30))
    [y], [_], [sums] = coded["strings"]
    assert len(y) > 512
    assert len(sums) == 5
    assert Checksums.from_bytes(sums, b"", MODEL.context.order.num_steps).steps[0] < 2**16


def test_damage_is_told_before_the_network_runs(monkeypatch):
    coded = MODEL.compress(latent(0, 1, M, 40, 30))
    [y], z, sums = coded["strings"]
    damaged = bytearray(y)
    damaged[len(y) // 2] ^= 8
    steps = []

    def forward(self, step, *rest):
        steps.append(step)
        return FORWARD(self, step, *rest)

    monkeypatch.setattr(CarriedStateContext, "forward", forward)
    with pytest.raises(
        DecodeMismatchError, match=r"^y.* decodes to other .* damaged; its table rows come from integers"
    ):
        MODEL.decompress([[bytes(damaged)], z, sums], coded["shape"])
    assert steps == []


FORWARD = CarriedStateContext.forward


def test_strings_of_the_other_kind_are_refused():
    guarded = MambaICEntropyModel(M, hyper_channels=HYPER, N=4, context=context()).eval()
    guarded.update()
    y = latent(0, 1, M, 6, 6)
    with pytest.raises(ArgumentError, match=r"strings must be \[y streams, z streams, checksums\], one of each"):
        MODEL.decompress(guarded.compress(y)["strings"], {"y": (6, 6), "hyper": (2, 2)})
    with pytest.raises(ArgumentError, match=r"strings must be \[y .*, guards\], got 3 lists: keep all"):
        guarded.decompress(MODEL.compress(y)["strings"], {"y": (6, 6), "hyper": (2, 2)})


def codec_of(model) -> ImageCodec:
    torch.manual_seed(9)
    g_a, g_s = nn.Conv2d(3, M, 16, stride=16), nn.ConvTranspose2d(M, 3, 16, stride=16)
    with torch.no_grad():
        g_a.weight.mul_(30)
    return ImageCodec(g_a, g_s, model).eval()


def test_a_file_says_that_integers_say_the_rows():
    codec = codec_of(MODEL)
    image = torch.randint(256, (3, 80, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = codec.encode(image)
    coded = CodedImage.from_bytes(data)
    assert data[5] == 16 + 4  # and the scan backend is named
    assert coded.exact
    assert len(coded.sections) == 3
    assert torch.equal(codec.decode(data), codec.image_of(codec.encode_with_latent(image)[1], (80, 112)))
    for other in (
        dataclasses.replace(coded, exact=False, sections=(*coded.sections, b"")),
        dataclasses.replace(coded, sections=(*coded.sections, b"")),
    ):
        with pytest.raises(CorruptStreamError, match="the file contradicts itself or this codec: strings must be"):
            codec.decode(other.to_bytes())


def test_the_fingerprint_is_of_the_integers_and_not_of_the_weights_behind_them():
    codec = codec_of(model_of())
    own = decoder_fingerprint(codec)
    with torch.no_grad():
        codec.latent_codec.scale_network.head[0].bias.add_(1)
    assert decoder_fingerprint(codec) == own
    codec.latent_codec.update(force=True)
    assert decoder_fingerprint(codec) != own


# --- where every other number is wrong


def symbols_of(model, coded):
    """What the decoder reads, step by step, and y_hat."""
    read, plain = [], model.coder

    class Watching:
        name = plain.name

        def decoder(self, stream):
            decoder = plain.decoder(stream)

            class Decoder:
                def decode(self, rows, tables):
                    read.append(decoder.decode(rows, tables).copy())
                    return read[-1]

                def finish(self):
                    decoder.finish()

            return Decoder()

    model.coder = Watching()
    try:
        y_hat = model.decompress(coded["strings"], coded["shape"])["y_hat"]
    finally:
        model.coder = plain
    return read, y_hat


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["carried-state", "channel-spatial", "no-wla"])
def test_symbols_are_exact_where_every_number_is_off_by_a_thousandth(name, seed):
    model = (
        MODEL
        if name == "carried-state"
        else model_of(context=context(window_size=None if name == "no-wla" else 4), scales="integer")
    )
    coded = model.compress(latent(seed, 1, M, 24, 17))
    expected, y_hat = symbols_of(model, coded)
    assert len(expected) == 1 + model.context.order.num_steps
    with drifting(model, DRIFT, seed):
        read, drifted = symbols_of(model, coded)
    assert all((a == b).all() for a, b in zip(read, expected, strict=True))
    off = (drifted - y_hat).abs().max()
    # a mean sees the drift of those before it, but a disturbance does not grow from step to step: 0.005 at most here
    assert 0 < off < DRIFT * y_hat.abs().max()


def test_garbage_where_the_same_network_runs_in_floating_point():
    guarded = model_of(scales=network(exact=False))
    coded = guarded.compress(latent(0, 1, M, 24, 17))
    with drifting(guarded, 1e-5):
        guarded.decompress(coded["strings"], coded["shape"])
    with drifting(guarded, DRIFT), pytest.raises(DecodeMismatchError):
        guarded.decompress(coded["strings"], coded["shape"])


def test_a_scale_that_is_no_number_is_told():
    guarded = model_of(scales=network(exact=False))
    with torch.no_grad():
        guarded.scale_network.head[1].bias[0] = float("nan")
    with pytest.raises(
        NonFiniteError,
        match=r"^step 1, channels 0 to 0: a scale is NaN .* the scale network",
    ):
        guarded.compress(latent(0, 1, M, 6, 6))


# --- the law of the kit


def test_the_law_says_how_much_drift_a_codec_bears():
    y = latent(0, 1, M, 16, 16)
    assert largest_drift(MODEL, y, [1e-4, DRIFT]) == DRIFT
    assert_agrees_under_drift(MODEL, y, DRIFT)
    guarded = model_of(scales="float")
    wider(guarded.scale_network)
    assert largest_drift(guarded, y, [1e-7, 1e-5, 1e-2]) == 1e-5
    with pytest.raises(LawBroken, match=r"drift: with every result off by up to 0\.01, .*DecodeMismatchError"):
        assert_agrees_under_drift(guarded, y, 1e-2)


class InFloat32(ScaleNetwork):
    """Planted fault: integers, but in float32, which rounds sums beyond 2^24."""

    def _body(self, state):
        return super()._body(state).float()


class WithAFloat(ScaleNetwork):
    """Planted fault: one number that is not whole, from a layer in floating point."""

    def __init__(self, *args, **keywords) -> None:
        super().__init__(*args, **keywords)
        self.last = nn.Linear(1, 1)

    def _levels(self, step, residuals, state):
        levels = super()._levels(step, residuals, state)
        return levels + self.last(levels.float()[..., None]).double()[..., 0]


@pytest.mark.parametrize("fault", [InFloat32, WithAFloat])
def test_the_law_catches_scales_that_only_seem_exact(fault):
    torch.manual_seed(4)
    faulty = wider(fault(ORDER, HYPER, width=12).eval())
    with pytest.raises(LawBroken, match=r"drift: with every result off by up to 0\.001"):
        assert_agrees_under_drift(model_of(scales=faulty), latent(0, 1, M, 24, 24), DRIFT)


def test_the_disturbance_is_of_modules_with_weights_and_ends():
    layer = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.ones(1, 3)
    before = layer(x)
    with drifting(layer, 0.1):
        assert not torch.equal(layer(x), before)
        torch.testing.assert_close(layer(x), before, rtol=0.11, atol=0)
    assert torch.equal(layer(x), before)
    gains = QualityGains(2, 1, 2)  # whose output is a NamedTuple
    plain = gains(0)
    with drifting(gains, 0.1):
        assert not torch.equal(gains(0).y, plain.y)
        assert gains(0).units == plain.units
    whole = nn.Linear(3, 3).double()
    with torch.no_grad():
        whole.weight.fill_(2)
        whole.bias.fill_(1)
    with drifting(whole, 0.1):
        assert whole(x.double()).tolist() == [[7, 7, 7]]
