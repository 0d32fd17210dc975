"""What a codec is before training: wavelets, behind which every block changes nothing yet."""

import pytest
import skimage.data
import torch
from mambaic.codec import PRESETS, VARIANTS, MambaIC
from mambaic.images.image_files import to_float
from mambaic.images.measure import psnr
from torch import nn


@pytest.fixture(scope="module")
def photograph():
    return torch.from_numpy(skimage.data.astronaut()[:256, :256].copy()).permute(2, 0, 1)


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
@torch.no_grad()
def test_an_untrained_codec_shows_the_image(preset, photograph):
    model = MambaIC(preset).eval()
    y = model.g_a(to_float(photograph))
    assert psnr(model.image_of(y.round(), (256, 256)), photograph) > 24
    assert 1 < y.std() < 8  # several quantisation steps, so that rounding does not lose it


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_every_block_starts_as_the_identity(variant):
    model = MambaIC("small", variant)
    x = torch.rand(1, 2 * PRESETS["small"].N, 9, 7)
    blocks = [m for m in [*model.g_a, *model.g_s] if not isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert blocks
    for block in blocks:
        torch.testing.assert_close(block.eval()(x), x)


@torch.no_grad()
def test_padding_does_not_reach_the_wavelets():
    """An image of one colour stays one, up to the small random rest of the weights."""
    model = MambaIC("tiny").eval()
    x = torch.full((1, 3, 64, 64), 0.8)
    assert (model.g_s(model.g_a(x)) - x).abs().max() < 0.1
