"""What a file of an easy image spends beyond its symbols: nothing for steps and groups that hold nothing."""

from pathlib import Path

import pytest
import torch
from mambaic.checkpoint import load_model

from ssmctx.entropy import CodedImage

CHECKPOINT = Path(__file__).parents[1] / "examples" / "mambaic" / "checkpoints" / "tiny-mse-0.0035.pt"


@pytest.fixture(scope="module")
def codec():
    return load_model(CHECKPOINT)


@pytest.mark.parametrize(("value", "size"), [(0, (1, 1)), (255, (64, 64)), (128, (17, 40))])
def test_an_easy_image_takes_few_bytes_beyond_its_estimate(codec, value, size):
    """27 of header, a checksum for z and one for y, a guard of two bytes; two streams of at least 8 bytes."""
    image = torch.full((3, *size), value, dtype=torch.uint8)
    data = codec.encode(image)
    sections = CodedImage.from_bytes(data).sections
    assert [len(section) for section in sections[2:]] == [5, 2]
    assert len(data) - sum(map(len, sections)) == 27
    with torch.no_grad():
        likelihoods = codec(image[None].float() / 255)["likelihoods"]
    estimate = float(sum(-p.log2().sum() for p in likelihoods.values())) / 8
    assert len(data) <= estimate + 48


def test_a_hard_image_names_each_step(codec):
    image = torch.randint(256, (3, 128, 160), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    sections = CodedImage.from_bytes(codec.encode(image)).sections
    assert len(sections[2]) == 3 + 2 * codec.latent_codec.context.order.num_steps
