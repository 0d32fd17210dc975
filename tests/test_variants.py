"""The paper's variants: every registered block and context obeys the laws, uneven slices and all."""

import pytest
import torch
from mambaic.codec import VARIANTS, MambaIC
from models import latent

from ssmctx import ChannelSpatialContext, registry
from ssmctx.context import CodingOrder
from ssmctx.context.variants import elic_slices
from ssmctx.errors import ArgumentError, ShapeError, UnknownNameError

M = 20


def test_slices_may_differ():
    context = ChannelSpatialContext(10, slices=[1, 2, 7], d_state=2).eval()
    y_hat, side = latent(0, 1, 10, 3, 4), latent(1, 1, 20, 3, 4)
    assert [context(2 * k, y_hat, side)[0].shape[1] for k in range(3)] == [1, 2, 7]
    assert sum(elic_slices(320)) == 320
    with pytest.raises(ArgumentError, match=r"slices must add up to M=10, got \[1, 2\]"):
        ChannelSpatialContext(10, slices=[1, 2])
    with pytest.raises(ArgumentError, match="M of at least 20, got 10"):
        elic_slices(10)
    with pytest.raises(ArgumentError, match="passes must be 1, 2, 4, 5 or a sequence of Lattice, got 3"):
        CodingOrder([2], passes=3)
    with pytest.raises(UnknownNameError, match=r"unknown block 'vs' \(did you mean 'vss'"):
        ChannelSpatialContext(10, block="vs")
    with pytest.raises(ArgumentError, match="attention_width needs attention: give a window_size"):
        ChannelSpatialContext(10, window_size=None, attention_width=8)
    with pytest.raises(ArgumentError, match="attention_width must be an integer of at least 1, got 0"):
        ChannelSpatialContext(10, attention_width=0)
    with pytest.raises(UnknownNameError, match="unknown block"):
        ChannelSpatialContext(10, num_slices=1, spatial=False, block="nonsense")


@pytest.mark.parametrize("name", ["cnn", "transformer", "vss", "window-attention"])
def test_every_block_takes_any_size_and_learns(name):
    torch.manual_seed(0)
    block = registry.blocks.create(name, 8)
    for size in [(1, 1), (3, 11)]:
        x = torch.randn(2, 8, *size, requires_grad=True)
        y = block(x)
        assert y.shape == x.shape
        y.square().sum().backward()
        assert x.grad.isfinite().all()
    with pytest.raises(ShapeError, match=r"\(batch, 8, H, W\)"):
        block(torch.randn(2, 7, 3, 3))


@pytest.mark.parametrize("name", ["cnn", "transformer", "vss"])
def test_dropped_branches(name):
    block = registry.blocks.create(name, 8, drop_path=0.5).train()
    x = torch.randn(64, 8, 2, 2)
    untouched = (block(x) == x).flatten(1).all(1).sum()
    assert 15 < untouched < 49
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_the_codec_trains_and_codes(variant):
    torch.manual_seed(0)
    model = MambaIC("tiny", variant).train()
    x = torch.rand(1, 3, 40, 50)
    out = model(x)
    (out["x_hat"].mean() - sum(p.log().sum() for p in out["likelihoods"].values())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.g_a.named_parameters())
    model.eval().update()
    coded = model.compress(x)
    decoded = model.latent_codec.decompress(coded["strings"], coded["shape"])["y_hat"]
    assert torch.equal(decoded, coded["y_hat"])


def test_an_unknown_variant_lists_them():
    with pytest.raises(ArgumentError, match="unknown variant 'mamba'; known: mambaic, mambavc, context-none"):
        MambaIC("tiny", "mamba")


def test_narrow_attention_attends_to_the_window_and_has_fewer_weights():
    torch.manual_seed(0)
    context, whole = (ChannelSpatialContext(20, attention_width=width).eval() for width in (16, None))
    assert sum(p.numel() for p in context.head.parameters()) < sum(p.numel() for p in whole.head.parameters())
    y_hat, side = torch.randn(1, 20, 8, 16), torch.randn(1, 40, 8, 16)
    other = side.clone()
    other[..., 7, 7] += 1  # of the left window
    before, after = (context(0, y_hat, s)[0][..., 0, ::2] for s in (side, other))
    assert (before != after)[..., :4].any()
    assert torch.equal(before[..., 4:], after[..., 4:])
