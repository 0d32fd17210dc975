"""The demonstration and the bundled checkpoint."""

import json

import pytest
import torch
from mambaic.checkpoint import load_model
from mambaic.classical import CODECS, of_size
from mambaic.demo import CHECKPOINT, HELD_OUT, photographs
from mambaic.images import read_image
from mambaic.measure import psnr
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
    data = codec.encode(pixels)
    decoded = codec.decode(data)
    jpeg = of_size("jpeg", pixels, len(data))
    assert psnr(decoded, pixels) > psnr(jpeg.pixels, pixels) + 0.5


def test_the_figures_beside_the_checkpoint_are_those_of_its_files(shared):
    """Of one image, within what another machine may round otherwise."""
    figures = json.loads(CHECKPOINT.with_suffix(".json").read_text())
    name, first = next(iter(figures["images"].items()))
    pixels = read_image(shared / "data" / "kodak" / name)
    codec = load_model(CHECKPOINT)
    data, y_hat = codec.encode_with_latent(pixels)
    assert len(data) == pytest.approx(first["bytes"][0], rel=0.01)
    decoded = codec.image_of(y_hat, pixels.shape[1:])
    assert psnr(decoded, pixels) == pytest.approx(first["psnr-rgb"][0], abs=0.05)
