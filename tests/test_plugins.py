"""Four plug-ins of under 60 lines, with public names only, and the kit on all of them."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path

import pytest
import torch
from plugins import distribution, quad_context, two_qualities
from torch import nn

from ssmctx import ImageCodec, MambaICEntropyModel, registry
from ssmctx.entropy import CodedImage
from ssmctx.errors import StreamError
from ssmctx.testing import Image, Latent, assert_causal, assert_distribution, assert_state_dict
from ssmctx.testing.suite import CodecLaws

FOLDER = Path(__file__).parent / "plugins"
PLUGINS = [path for path in sorted(FOLDER.glob("*.py")) if path.name != "__init__.py"]
PUBLIC = (Path(__file__).parent / "public_api.txt").read_text()
M = 8


@pytest.fixture(scope="module", autouse=True)
def _registered():
    """What the plug-ins register ends with this module."""
    before = {kind: dict(kind._targets) for kind in (registry.contexts, registry.distributions)}
    quad_context.register()
    distribution.register()
    yield
    for kind, targets in before.items():
        kind._targets.clear()
        kind._targets.update(targets)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_a_plugin_is_short_and_uses_public_names_only(path):
    assert len(path.read_text().splitlines()) < (40 if path.stem == "distribution" else 60)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "ssmctx":
            for name in node.names:
                module = importlib.import_module(node.module)
                is_public = name.name in module.__all__ or f"\n{node.module}.{name.name}." in PUBLIC
                assert is_public, f"{path.name} imports {node.module}.{name.name}, which is not public"
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[:2] != "__")
    assert len(PLUGINS) == 4


def _model(**changes):
    return MambaICEntropyModel(M, hyper_channels=4, N=2, **changes)


class TestQuadContext(CodecLaws):
    channels = M
    make = staticmethod(functools.partial(_model, context="quad"))


class TestDistribution(CodecLaws):
    channels = M
    make = staticmethod(functools.partial(_model, num_slices=2, distribution="student-4"))


class OneQuality(nn.Module):
    """A codec of two qualities at one of them, since the kit codes without keywords."""

    def __init__(self, quality):
        super().__init__()
        self.codec, self.quality = two_qualities.two_qualities(), quality

    def forward(self, x):
        return self.codec(x, quality=self.quality)

    def compress(self, x):
        return self.codec.compress(x, quality=self.quality)

    def decompress(self, strings, shape):
        return self.codec.decompress(strings, shape)

    def update(self, force=False):
        return self.codec.update(force)


class TestLowerQuality(CodecLaws):
    largest = 40
    make = staticmethod(functools.partial(OneQuality, 0))


class TestHigherQuality(CodecLaws):
    largest = 40
    make = staticmethod(functools.partial(OneQuality, 1))


def test_the_context_is_causal_and_its_state_changes_nothing():
    torch.manual_seed(0)
    context = quad_context.QuadContext(M).eval()
    assert_causal(context, Latent(M, 5, 6, batch=2).tensor(), Latent(2 * M, 5, 6, batch=2, seed=1).tensor())
    assert isinstance(context.begin(torch.zeros(1, 2 * M, 3, 3)), quad_context.State)


def test_the_distribution_is_one():
    assert_distribution(distribution.Student())
    assert_distribution(registry.distributions.create("student-4"))


def test_the_distribution_is_in_files():
    torch.manual_seed(0)

    def codec(law):
        torch.manual_seed(0)
        g_a, g_s = nn.Conv2d(3, M, 8, stride=8), nn.ConvTranspose2d(M, 3, 8, stride=8)
        made = ImageCodec(g_a, g_s, _model(num_slices=2, distribution=law), stride=8).eval()
        made.update()
        return made

    image = (Image(20, 30).tensor()[0] * 255).to(torch.uint8)
    student = codec("student-4")
    data, y_hat = student.encode_with_latent(image)
    assert torch.equal(codec(distribution.Student()).decode(data), student.image_of(y_hat, (20, 30)))
    with pytest.raises(StreamError):
        codec("gaussian").decode(data)
    assert_state_dict(functools.partial(_model, num_slices=2, distribution="student-4"), Latent(M, 5, 4).tensor())


def test_a_codec_of_compressai_writes_files_and_reads_them():
    pytest.importorskip("compressai")
    from gallery import compressai_codecs
    from plugins.compressai_files import with_files

    codec, twin = (with_files(compressai_codecs.elic_model()) for _ in range(2))
    for size in ((1, 1), (50, 70)):
        image = (Image(*size).tensor()[0] * 255).round().to(torch.uint8)
        data = codec.encode(image)
        x_hat = codec(image[None] / 255)["x_hat"].detach().clamp(0, 1)
        decoded = twin.decode(data)
        assert torch.equal(decoded, codec.decode(data))
        assert (decoded / 255 - x_hat[0]).abs().max() < 0.51 / 255
        assert codec.encode(image.permute(1, 2, 0).numpy()) == data


def test_two_qualities_train_and_code():
    torch.manual_seed(0)
    codec = two_qualities.two_qualities()
    two_qualities.train(codec, [Image(64, 64, batch=4, seed=seed).tensor() for seed in range(10)])
    image = (Image(120, 136, seed=99).tensor()[0] * 255).round().to(torch.uint8)
    files = [codec.encode(image, quality=quality) for quality in (0, 0.5, 1)]
    assert [CodedImage.from_bytes(data).quality for data in files] == [0, 128, 256]
    for quality, data in zip((0, 0.5, 1), files, strict=True):
        expected = codec(image[None] / 255, quality=quality)["x_hat"].detach().clamp(0, 1)
        assert torch.equal(codec.decode(data), (expected[0] * 255).round().to(torch.uint8))
    gains = codec.latent_codec.gains.log_y
    assert (gains[1] > gains[0]).all()
