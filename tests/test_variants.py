"""The paper's variants: every registered block and context obeys the laws, uneven slices and all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_causal, assert_round_trip
from mambaic.codec import VARIANTS, MambaIC
from models import latent

from ssmctx import ChannelSpatialContext, MambaICEntropyModel, registry
from ssmctx.context import CodingOrder
from ssmctx.context.variants import elic_slices
from ssmctx.errors import ArgumentError, ShapeError, UnknownNameError

M = 20
CONTEXTS = (
    "cnn",
    "channel",
    "channel-spatial",
    "mambavc",
    "no-wla",
    "none",
    "transformer",
    "uneven",
    "window-16",
    "window-4",
)


def make(name: str):
    torch.manual_seed(4)
    return registry.contexts.create(name, M, d_state=2).eval()


@pytest.mark.parametrize("name", CONTEXTS)
@settings(max_examples=3)
@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_every_context_is_causal(name, height, width, seed):
    context = make(name)
    y_hat, side = latent(seed, 1, M, height, width), latent(seed + 1, 1, 2 * M, height, width)
    for step in range(context.order.num_steps):
        assert_causal(context, y_hat, side, step, seed + 2)


@pytest.mark.parametrize("name", CONTEXTS)
def test_every_context_codes(name):
    model = MambaICEntropyModel(M, hyper_channels=6, context=make(name), N=4).eval()
    model.update()
    assert_round_trip(model, latent(0, 2, M, 5, 9))


@given(
    slices=st.lists(st.integers(1, 5), min_size=1, max_size=6), passes=st.sampled_from([1, 2]), height=st.integers(1, 5)
)
def test_masks_partition_the_latent(slices, passes, height):
    order = CodingOrder(slices, passes)
    masks = [order.mask(step, (height, 4)).int() for step in range(order.num_steps)]
    assert order.num_steps == passes * len(slices)
    assert torch.equal(sum(masks), torch.ones(sum(slices), height, 4, dtype=torch.int32))


def test_slices_may_differ():
    context = ChannelSpatialContext(10, slices=[1, 2, 7], d_state=2).eval()
    y_hat, side = latent(0, 1, 10, 3, 4), latent(1, 1, 20, 3, 4)
    assert [context(2 * k, y_hat, side)[0].shape[1] for k in range(3)] == [1, 2, 7]
    assert sum(elic_slices(320)) == 320
    with pytest.raises(ArgumentError, match=r"slices must add up to M=10, got \[1, 2\]"):
        ChannelSpatialContext(10, slices=[1, 2])
    with pytest.raises(ArgumentError, match="M of at least 20, got 10"):
        elic_slices(10)
    with pytest.raises(ArgumentError, match="1 or 2 passes, got 3"):
        CodingOrder([2], passes=3)
    with pytest.raises(UnknownNameError, match=r"unknown block 'vs' \(did you mean 'vss'"):
        ChannelSpatialContext(10, block="vs")


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
