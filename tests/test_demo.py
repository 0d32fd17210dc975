"""The demonstration and the checkpoint that comes along."""

import pytest
import torch
from mambaic.classical import CODECS, of_size
from mambaic.demo import photographs
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
