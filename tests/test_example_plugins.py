"""Parts that other packages register can be trained and used by name, without a change to the example."""

import pytest
import torch
from mambaic.checkpoint import load_model
from mambaic.codec import MambaIC, find_variant
from mambaic_full import main
from sample_images import write_photos
from torch import nn

from ssmctx import CodingOrder, ContextModel, registry
from ssmctx.errors import ArgumentError, CheckpointError


class Pointwise(nn.Module):
    """A block of another package: one 1x1 convolution with a residual."""

    def __init__(self, dim):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        return x + self.conv(x)


class Quad(ContextModel):
    """A context of another package: mean and scale from what is coded of the slice, in four passes."""

    def __init__(self, M):
        super().__init__(CodingOrder.quad([M]))
        self.net = nn.Conv2d(3 * M, 2 * M, 3, padding=1)

    def forward(self, step, y_hat, side, state=None):
        mean, scale = self.net(torch.cat([self.coded_anchors(step, y_hat), side], dim=1)).chunk(2, 1)
        return mean, scale.exp()


@pytest.fixture
def plugins(monkeypatch):
    for kind, name, part in ((registry.blocks, "pointwise", Pointwise), (registry.contexts, "my-quad", Quad)):
        monkeypatch.setitem(kind._targets, name, part)


@pytest.mark.parametrize("variant", ["context-my-quad", "main-pointwise", "hyper-pointwise"])
def test_a_plugin_is_trained_and_codes(plugins, tmp_path, variant):
    photos = write_photos(tmp_path / "photos")
    out = tmp_path / "x.pt"
    flags = ["--data", photos, "--out", out, "--steps", 1, "--batch-size", 2, "--crop", 64, "--variant", variant]
    assert main(["train", *map(str, flags)]) == 0
    source, coded, back = next(photos.glob("*.png")), tmp_path / "1.sic", tmp_path / "1.png"
    assert main(["compress", str(source), str(coded), "--checkpoint", str(out)]) == 0
    assert main(["decompress", str(coded), str(back), "--checkpoint", str(out)]) == 0
    assert load_model(out).variant == variant


def test_without_the_plugin_the_checkpoint_says_what_is_missing(plugins, tmp_path, monkeypatch):
    from mambaic.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "x.pt", MambaIC("tiny", "context-my-quad"), {})
    monkeypatch.delitem(registry.contexts._targets, "my-quad")
    with pytest.raises(CheckpointError, match="cannot be used here: unknown variant 'context-my-quad'; known"):
        load_model(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["context-nothing", "main-nothing", "all-pointwise", "quad", ""])
def test_unknown_variants_list_what_there_is(name):
    with pytest.raises(ArgumentError, match=r"unknown variant .*context-NAME with a registered context \(.*cnn.*\)"):
        find_variant(name)
