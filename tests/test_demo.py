"""The demonstration and the bundled checkpoint."""

import json

import pytest
import torch
from mambaic.bundled import bundled_path
from mambaic.checkpoint import load_model
from mambaic.demo import CHECKPOINT, HELD_OUT, photographs
from mambaic.evaluation.classical import CODECS, of_size
from mambaic.images.dial import on_dial
from mambaic.images.image_files import read_image
from mambaic.images.measure import psnr
from PIL import features


@pytest.mark.parametrize("codec", CODECS)
def test_the_best_file_of_a_size(codec):
    if not features.check(CODECS[codec].feature):
        pytest.skip(f"this Pillow has no {codec}")
    pixels = photographs()["astronaut"][:, :128, :128]
    small, large = (of_size(codec, pixels, size) for size in (1500, 6000))
    assert small.bytes <= 1500 < large.bytes <= 6000
    assert psnr(small.pixels, pixels) < psnr(large.pixels, pixels)
    assert small.pixels.shape == large.pixels.shape == pixels.shape
    assert large.pixels.dtype == torch.uint8
    assert of_size(codec, pixels, 1).quality == 1  # none is so small: the smallest


def test_a_format_that_pillow_lacks_is_none(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert of_size("avif", torch.zeros(3, 8, 8, dtype=torch.uint8), 100) is None


def test_the_checkpoint_that_comes_along_beats_jpeg():
    """On a photograph that it was not trained on, at the size of its own file."""
    codec = load_model(CHECKPOINT)
    pixels = photographs()[HELD_OUT][:, :256, :256]
    data = codec.encode(pixels, on_dial(codec, None))
    decoded = codec.decode(data)
    jpeg = of_size("jpeg", pixels, len(data))
    assert psnr(decoded, pixels) > psnr(jpeg.pixels, pixels) + 2


@pytest.mark.parametrize(("name", "quality"), [("tiny", None), ("base", 0.0)])
def test_the_figures_beside_a_checkpoint_are_those_of_its_files(shared, name, quality):
    """Of one image at the lowest quality, within what another machine may round otherwise."""
    checkpoint = bundled_path(name)
    figures = json.loads(checkpoint.with_suffix(".json").read_text())
    image, first = next(iter(figures["images"].items()))
    pixels = read_image(shared / "data" / "kodak" / image)
    codec = load_model(checkpoint)
    data, y_hat = codec.encode_with_latent(pixels, quality)
    assert len(data) == pytest.approx(first["bytes"][0], rel=0.01)
    decoded = codec.image_of(y_hat, pixels.shape[1:])
    assert psnr(decoded, pixels) == pytest.approx(first["psnr-rgb"][0], abs=0.05)
