"""ImageCodec: images of any size to files and back, with our latent codec and with CompressAI's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from models import context
from torch import nn

from ssmctx import ImageCodec, MambaICEntropyModel
from ssmctx.codec.streams import check_shape, split_streams
from ssmctx.entropy import CodedImage
from ssmctx.errors import ArgumentError, CorruptStreamError, ModelMismatchError, NotUpdatedError, ShapeError
from ssmctx.stages import StageTimes, observe
from ssmctx.testing import assert_any_size, assert_round_trip
from ssmctx.testing.cases import Image
from ssmctx.testing.strategies import law_settings, sizes

M, STRIDE = 10, 8


def codec_of(seed=2, **changes):
    torch.manual_seed(seed)
    latent_codec = MambaICEntropyModel(M, hyper_channels=6, N=4, context=context(), **changes)
    g_a, g_s = nn.Conv2d(3, M, STRIDE, stride=STRIDE), nn.ConvTranspose2d(M, 3, STRIDE, stride=STRIDE)
    codec = ImageCodec(g_a, g_s, latent_codec, stride=STRIDE).eval()
    with torch.no_grad():
        g_a.weight *= 30
        for head in latent_codec.context.head:
            head[-1].weight *= 10
    codec.update()
    return codec


CODEC = codec_of()


def image_of(height, width, seed=0):
    return (Image(height, width, seed=seed).tensor()[0] * 255).round().to(torch.uint8)


# --- sizes, forms, what agrees with what


@law_settings()
@given(size=sizes(largest=41))
def test_an_image_of_any_size_comes_back_in_its_size_and_as_estimated(size):
    image = image_of(*size)
    data = CODEC.encode(image)
    decoded = CODEC.decode(data)
    assert decoded.shape == image.shape
    assert decoded.dtype == torch.uint8
    assert CODEC.encode(image.permute(1, 2, 0).contiguous().numpy()) == data
    expected = CODEC(image[None] / 255)["x_hat"].detach().clamp(0, 1)
    assert torch.equal(decoded, (expected[0] * 255).round().to(torch.uint8))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 23)])
def test_the_encoder_knows_what_the_file_decodes_to(size):
    image = image_of(*size)
    data, y_hat = CODEC.encode_with_latent(image)
    assert data == CODEC.encode(image)
    assert torch.equal(CODEC.image_of(y_hat, size), CODEC.decode(data))
    assert torch.equal(CODEC.reconstruct(y_hat, size), CODEC(image[None] / 255)["x_hat"].detach().clamp(0, 1))


def test_tensors_keep_the_laws():
    assert_round_trip(CODEC, Image(17, 30, batch=2).tensor())
    assert_any_size(CODEC, lambda h, w: Image(h, w).tensor(), [(1, 1), (1, 9), (8, 16), (15, 17)])


def test_views_and_strided_images_are_taken():
    image = image_of(20, 22)
    flipped = image.permute(1, 2, 0).numpy()[::-1, ::2]
    assert CODEC.encode(np.ascontiguousarray(flipped)) == CODEC.encode(flipped)


@pytest.mark.parametrize("training", [False, True])
def test_modes_stay_as_they_were_and_change_nothing(training):
    codec, image = codec_of(), image_of(12, 21)
    codec.train(training)
    codec.g_s.eval()
    before = {name: part.training for name, part in codec.named_modules()}
    data = codec.encode(image)
    assert data == CODEC.encode(image)
    assert torch.equal(codec.decode(data), CODEC.decode(data))
    assert {name: part.training for name, part in codec.named_modules()} == before


def test_what_is_no_image_is_refused():
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    for image in (pixels[0], pixels[:1], pixels.numpy(), pixels[:, :0], pixels[None], "a.png", None):
        with pytest.raises(ShapeError, match=r"a uint8 tensor \(3, H, W\) or a uint8 array \(H, W, 3\), got"):
            CODEC.encode(image)
    for image in (
        torch.zeros(3, 4, 4),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), object),
    ):
        with pytest.raises(ArgumentError, match=r"uint8 values, 0 to 255, got .*: round and convert"):
            CODEC.encode(image)
    with pytest.raises(ShapeError, match=r"ImageCodec expects x \(batch, 3, H, W\)"):
        CODEC(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ArgumentError, match="ImageCodec: stride must be an integer of at least 1, got 0"):
        ImageCodec(nn.Identity(), nn.Identity(), nn.Identity(), stride=0)
    small = ImageCodec(CODEC.g_a, nn.Conv2d(M, 3, 1), CODEC.latent_codec, STRIDE)
    with pytest.raises(ShapeError, match=r"g_s gives an image of \(2, 2\) pixels where \(9, 9\) are needed"):
        small(torch.zeros(1, 3, 9, 9))


def test_an_image_without_tables_is_not_coded():
    codec = ImageCodec(CODEC.g_a, CODEC.g_s, MambaICEntropyModel(M, hyper_channels=6, N=4), STRIDE)
    with pytest.raises(NotUpdatedError, match=r"update\(\)"):
        codec.encode(image_of(8, 8))


def test_decompress_needs_the_size_of_the_image():
    coded = CODEC.compress(image_of(9, 12)[None] / 255)
    for shape in ({}, None, {"x": 9}, {"x": (9,)}, {"x": (9.0, 12)}, {"x": (0, 12)}, {"x": "ab"}):
        with pytest.raises(ArgumentError, match=r'shape must hold the size of x as "x": \(H, W\)'):
            CODEC.decompress(coded["strings"], shape)
    for shape in ({"y": 3}, {"y": (2.0, 2), "hyper": (1, 1)}, {"y": "ab", "hyper": (1, 1)}, {"hyper": (1, 1)}):
        with pytest.raises(ArgumentError, match=r'shape must be \{"y": \(H, W\), "hyper": \(h, w\)\}'):
            CODEC.decompress(coded["strings"], {**shape, "x": (9, 12)})
    for strings in (None, b"abcd", [b"y", b"z", b"c", b"g"], [[b"y"], [b"z"], [b"c"], [b"g", b"h"]]):
        with pytest.raises(ArgumentError, match=r"strings must be \[y streams, z streams, checksums, guards\]"):
            CODEC.decompress(strings, coded["shape"])


# --- who decodes whose files


def test_files_of_a_better_encoder_are_read_by_the_old_decoder():
    better, image = codec_of(), image_of(30, 25)
    with torch.no_grad():
        better.g_a.weight += 0.5 * torch.randn_like(better.g_a.weight)
        for weight in better.latent_codec.h_a.parameters():
            weight += 0.1 * torch.randn_like(weight)
    data = better.encode(image)
    assert data != CODEC.encode(image)
    assert torch.equal(CODEC.decode(data), better.decode(data))


def _another_g_s(codec):
    codec.g_s.bias.data += 1e-6


def _another_context(codec):
    next(codec.latent_codec.context.parameters()).data += 1e-6


def _another_h_s(codec):
    next(codec.latent_codec.h_s.parameters()).data += 1e-6


def _other_medians(codec):
    codec.latent_codec.entropy_bottleneck.quantiles.data += 0.01


def _another_stride(codec):
    codec.stride = 2 * STRIDE


@pytest.mark.parametrize("change", [_another_g_s, _another_context, _another_h_s, _other_medians, _another_stride])
def test_another_decoder_refuses(change):
    data, codec = CODEC.encode(image_of(16, 16)), codec_of()
    assert codec.decode(data).shape == (3, 16, 16)
    change(codec)
    with pytest.raises(ModelMismatchError, match=r"the file was written with model .* this codec has .* checkpoint"):
        codec.decode(data)


def test_other_tables_refuse():
    data = CODEC.encode(image_of(16, 16))
    codec = codec_of(distribution="laplace")
    with pytest.raises(ModelMismatchError):
        codec.decode(data)


def test_a_codec_of_one_rate_takes_no_quality():
    image = image_of(8, 8)
    with pytest.raises(ArgumentError, match="has one rate, got quality=1"):
        CODEC.encode(image, quality=1)
    data = dataclasses.replace(CodedImage.from_bytes(CODEC.encode(image)), quality=256).to_bytes()
    with pytest.raises(CorruptStreamError, match=r"contradicts itself or this codec: .* has one rate"):
        CODEC.decode(data)


# --- what a file may say


def _file(codec, image, **changes):
    return dataclasses.replace(CodedImage.from_bytes(codec.encode(image)), **changes).to_bytes()


@pytest.mark.parametrize(
    "shape",
    [
        {"y": (2**14, 2**14), "hyper": (1, 1)},
        {"y": (2, 3), "hyper": (2, 10**9)},
        {"y": (2, 0), "hyper": (1, 1)},
        {"y": (2, -3), "hyper": (1, 1)},
        {"y": 7, "hyper": (1, 1)},
        {"latent": [(10**6, 8, 8), (1, 8, 8)]},
        {"y": [], "hyper": (1, 1)},
        {"y": (1, 2, 3, 4)},
    ],
)
def test_sizes_that_no_encoder_writes_are_refused_before_anything_is_decoded(shape, monkeypatch):
    data = _file(CODEC, image_of(16, 20), shape=shape)
    monkeypatch.setattr(CODEC.latent_codec, "decompress", lambda *_: pytest.fail("decoded"))
    with pytest.raises(CorruptStreamError, match=r"the header says latents of .* cells for \(16, 24\) pixels: damaged"):
        CODEC.decode(data)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"latent": (2, 3)},
        {"y": (2, 3)},
        {"y": (16, 24), "hyper": (1, 1)},
        {"y": (2, 3), "hyper": (2, 3), "quality": (1, 1)},
    ],
)
def test_sizes_that_contradict_the_codec_are_refused(shape):
    with pytest.raises(CorruptStreamError, match="contradicts itself or this codec"):
        CODEC.decode(_file(CODEC, image_of(16, 20), shape=shape))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64])
def test_another_number_of_sections_is_refused(count):
    sections = (CodedImage.from_bytes(CODEC.encode(image_of(16, 20))).sections * 16)[:count]
    with pytest.raises(CorruptStreamError, match="contradicts itself or this codec: strings must be"):
        CODEC.decode(_file(CODEC, image_of(16, 20), sections=sections))


def test_any_shape_that_a_codec_gives_is_told_as_it_is():
    shape = {"y": [(4, 2, 3), (2, 2, 3)], "hyper": torch.Size((1, 1)), "more": {"w": (5, 6)}}
    assert check_shape(shape) == {"y": [(4, 2, 3), (2, 2, 3)], "hyper": (1, 1), "more": {"w": (5, 6)}}
    told = CodedImage(b"8 bytes.", 64, 64, (b"s",), shape=check_shape(shape))
    assert check_shape(dict(CodedImage.from_bytes(told.to_bytes()).shape), (64, 64)) == check_shape(shape)
    for wrong in ({"y": "ab"}, {"y": (1, 2.0)}, {3: (1, 2)}, {"y": None}, {"y": ((1, 2), 3)}):
        with pytest.raises(ArgumentError, match="a file tells sizes of latents"):
            check_shape(wrong)


class Batches(nn.Module):
    """A latent codec that is given one image and writes two streams of a kind."""

    def compress(self, y):
        return {"strings": [[b"a", b"b"]], "shape": y.shape[2:]}


def test_a_file_holds_one_image():
    codec = ImageCodec(CODEC.g_a, CODEC.g_s, Batches(), STRIDE)
    with pytest.raises(ArgumentError, match=r"the streams of one image, .*; the latent codec gave \[\[b'a', b'b'\]\]"):
        codec.encode(image_of(8, 8))
    for strings in ([[b"a"], [b"b", b"c"]], [[[b"a"]]], [b"ab"], [["text"]]):
        with pytest.raises(ArgumentError, match="a file holds the streams of one image"):
            split_streams(strings)
    with pytest.raises(ShapeError):
        CODEC.encode(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


# --- CompressAI's codecs


@pytest.fixture(params=["hyperprior", "elic", "cheng"])
def compressai_codec(request):
    pytest.importorskip("compressai")
    from gallery import compressai_codecs as codecs

    if request.param == "hyperprior":
        width = codecs.M
        torch.manual_seed(1)
        g_a, g_s = nn.Conv2d(3, width, 16, stride=16), nn.ConvTranspose2d(width, 3, 16, stride=16)
        codec = ImageCodec(g_a, g_s, codecs.hyperprior(), stride=64)
    else:
        model = {"elic": codecs.elic_model, "cheng": codecs.cheng}[request.param]()
        codec = ImageCodec(model.g_a, model.g_s, model.latent_codec, stride=64)
    codec.eval().update()
    return codec


@pytest.mark.parametrize("size", [(1, 1), (40, 70)])
def test_a_codec_of_compressai_writes_files(compressai_codec, size):
    image = image_of(*size)
    data, y_hat = compressai_codec.encode_with_latent(image)
    coded = CodedImage.from_bytes(data)
    assert coded.shape is not None
    assert len(coded.sections) >= 2
    decoded = compressai_codec.decode(data)
    assert decoded.shape == image.shape
    assert torch.equal(decoded, compressai_codec.image_of(y_hat, size))
    x = image[None] / 255
    out = compressai_codec.compress(x)
    again = compressai_codec.decompress(out["strings"], out["shape"])["x_hat"]
    assert torch.equal(decoded, (again[0] * 255).round().to(torch.uint8))
    with pytest.raises(ModelMismatchError):
        CODEC.decode(data)
    with pytest.raises(ModelMismatchError):
        compressai_codec.decode(CODEC.encode(image))


def test_a_codec_of_compressai_has_one_rate_and_does_not_ignore_a_quality(compressai_codec):
    image = image_of(20, 20)
    for call in (compressai_codec, compressai_codec.compress):
        with pytest.raises(ArgumentError, match="LatentCodec has one rate, got quality=2: leave it out"):
            call(image[None] / 255, quality=2)
    with pytest.raises(CorruptStreamError, match="has one rate"):
        compressai_codec.decode(_file(compressai_codec, image, quality=512))


# --- who observes


class Told(list):
    """An observer that keeps what it is told."""

    def begin(self, stage, index):
        self.append(("begin", stage, index))

    def end(self, stage, index):
        self.append(("end", stage, index))


def test_observers_are_told_every_stage():
    image, told = image_of(16, 16), Told()
    with observe(told):
        data = CODEC.encode(image)
    stages = {stage for _, stage, _ in told}
    assert stages == {"g_a", "h_a", "h_s", "context", "guard", "coder", "transfer"}
    steps = range(CODEC.latent_codec.context.order.num_steps)
    assert [index for kind, stage, index in told if (kind, stage) == ("begin", "context")][1 : len(steps) + 1]
    assert {index for _, stage, index in told if stage == "context"} == {None, *steps}
    encoded = len(told)
    with observe(told):
        CODEC.decode(data)
    assert {stage for _, stage, _ in told[encoded:]} == {"h_s", "context", "guard", "coder", "transfer", "g_s"}
    with observe(told), observe(again := Told()):
        CODEC(image[None] / 255)
    assert {stage for _, stage, _ in again} == {"g_a", "h_a", "entropy_bottleneck", "h_s", "context", "g_s"}
    assert told[-len(again) :] == again
    open_stages = []
    for kind, stage, index in told:  # they nest
        if kind == "begin":
            open_stages.append((stage, index))
        else:
            assert open_stages.pop() == (stage, index)
    assert not open_stages
    CODEC.decode(data)
    assert told[-len(again) :] == again, "nobody observes any more"


def test_stages_end_where_one_fails():
    told = Told()
    with observe(told), pytest.raises(ShapeError):
        ImageCodec(CODEC.g_a, nn.Conv2d(M, 3, 1), CODEC.latent_codec, STRIDE).decompress(
            *(CODEC.compress(image_of(9, 9)[None] / 255)[key] for key in ("strings", "shape"))
        )
    assert [kind for kind, *_ in told].count("begin") == [kind for kind, *_ in told].count("end")


def test_stage_times_count_what_is_inside_once(monkeypatch):
    times = StageTimes("cpu")
    clock = iter(range(100))
    monkeypatch.setattr(times, "now", lambda: float(next(clock)))
    times.begin("outer", None)
    times.begin("inner", 3)
    times.end("inner", 3)
    times.end("outer", None)
    assert times.seconds == {"outer": 2.0, "inner": 1.0}
    real = StageTimes("cpu")
    with observe(real):
        CODEC.encode(image_of(8, 8))
    assert set(real.seconds) == {"g_a", "h_a", "h_s", "context", "guard", "coder", "transfer"}
    assert all(seconds >= 0 for seconds in real.seconds.values())


def test_a_file_in_any_bytes_decodes_and_nothing_else():
    data = CODEC.encode(image_of(9, 11))
    for other in (bytearray(data), memoryview(data)):
        assert torch.equal(CODEC.decode(other), CODEC.decode(data))
    with pytest.raises(ArgumentError, match="decode takes the content of a file as bytes, got str"):
        CODEC.decode("photo.sic")


def test_an_image_of_whole_numbers_is_not_taken_for_one_in_0_to_1():
    for method in (CODEC, CODEC.compress):
        with pytest.raises(ArgumentError, match=r"floating point in \[0, 1\], got torch.uint8: divide by 255"):
            method(image_of(9, 11)[None])


def test_the_shape_that_was_given_is_told():
    with pytest.raises(ShapeError, match=r"got ndarray of shape \(20, 33, 4\); of a PIL image, numpy.asarray"):
        CODEC.encode(np.zeros((20, 33, 4), np.uint8))


class Echo(nn.Module):
    """A latent codec with a quality, which it writes into its stream."""

    def compress(self, y, quality=0.0):
        return {"strings": [[repr(quality).encode()]], "shape": {"y": tuple(y.shape[2:])}}

    def decompress(self, strings, shape, quality=0.0):
        assert strings[0][0].decode() == repr(quality)
        return {"y_hat": torch.zeros(1, M, *shape["y"])}


def test_a_quality_is_coded_as_the_file_stores_it():
    codec = ImageCodec(CODEC.g_a, CODEC.g_s, Echo(), stride=STRIDE)
    assert codec.decode(codec.encode(image_of(9, 11), quality=0.3)).shape == (3, 9, 11)
    of_rates = codec_of(qualities=2)
    assert of_rates.encode(image_of(9, 11), quality=torch.tensor(0.5)) == of_rates.encode(image_of(9, 11), quality=0.5)
    for quality in (-1, "high", float("nan")):
        with pytest.raises(ArgumentError, match="a file stores a quality from 0 on, one number, got"):
            codec.encode(image_of(9, 11), quality=quality)
