"""Law 1: what a step predicts depends on earlier steps only, whatever else y_hat holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import SLICES, M, context, latent

from ssmctx import ChannelSpatialContext
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.testing import LawBroken, assert_causal

STEPS = 2 * SLICES


@given(height=st.integers(1, 12), width=st.integers(1, 12), batch=st.integers(1, 2), seed=st.integers(0, 2**20))
def test_channel_spatial_context_is_causal(height, width, batch, seed):
    y_hat, side = latent(seed, batch, M, height, width), latent(seed + 1, batch, 2 * M, height, width)
    assert_causal(CONTEXT, y_hat, side)


CONTEXT = context()


class SeesOwnAnchorsEarly(ChannelSpatialContext):
    """Planted fault: the anchor pass reads the slice that it is about to code."""

    def forward(self, step, y_hat, side, state=None):
        mean, scale = super().forward(step, y_hat, side, state)
        return mean + 1e-6 * y_hat[:, self.order.channels(step)], scale


class SeesNonAnchors(ChannelSpatialContext):
    """Planted fault: the second pass reads its whole slice, not the anchors alone."""

    def forward(self, step, y_hat, side, state=None):
        mean, scale = super().forward(step, y_hat, side, state)
        return mean, scale + 1e-6 * y_hat[:, self.order.channels(step)] * (step % 2)


class SeesNextSlice(ChannelSpatialContext):
    """Planted fault: the channel feature takes one slice too many."""

    def _channel_feature(self, step, y_hat):
        return super()._channel_feature(step, y_hat) + y_hat[:, self.order.channels(step)].mean()


@pytest.mark.parametrize(
    ("leak", "steps"),
    [
        (SeesOwnAnchorsEarly, range(STEPS)),
        (SeesNonAnchors, range(1, STEPS, 2)),
        (SeesNextSlice, range(0, STEPS, 2)),
    ],
)
def test_the_law_catches_a_leak(leak, steps):
    leaky = leak(M, SLICES, d_state=3, window_size=4).eval()
    y_hat, side = latent(0, 1, M, 5, 6), latent(1, 1, 2 * M, 5, 6)
    for step in steps:
        with pytest.raises(LawBroken, match=f"step {step}: the (mean|scale), .* moved with the symbols of step"):
            assert_causal(leaky, y_hat, side, steps=[step])


def test_what_is_coded_is_used():
    """The other side of causality: earlier symbols do reach later predictions."""
    y_hat, side = latent(0, 1, M, 5, 6), latent(1, 1, 2 * M, 5, 6)
    for step in range(1, STEPS):
        changed = torch.where(CONTEXT.order.mask(step - 1, (5, 6)), y_hat + 1, y_hat)
        assert not torch.equal(CONTEXT(step, y_hat, side)[0], CONTEXT(step, changed, side)[0])


def test_table_a1_widths():
    layers = ChannelSpatialContext()
    assert layers.order.slices == (64,) * 5
    assert [f[1].weight.shape for f in layers.channel] == [(128, 64 * k, 3, 3) for k in range(1, 5)]
    assert [f[1].weight.shape for f in layers.spatial] == [(128, 64, 3, 3)] * 5
    assert [h[0].dim for h in layers.head] == [128 + 128 + 640] * 5
    assert [[conv.out_channels for conv in h if isinstance(conv, torch.nn.Conv2d)] for h in layers.head] == [
        [256, 128]
    ] * 5
    assert layers.first_channel.shape == (128,)
    assert layers.head[0][0].window_size == 8


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="M must be a multiple of num_slices, got M=10, num_slices=3"):
        ChannelSpatialContext(10, 3)
    with pytest.raises(ShapeError, match=r"expects y_hat of shape \(batch, 10, H, W\)"):
        CONTEXT(0, torch.zeros(1, 9, 4, 4), torch.zeros(1, 20, 4, 4))
    for shape in [(10, 4, 4), (1, 10, 4, 4, 1), (0, 10, 4, 4), (1, 10, 4, 0)]:
        with pytest.raises(ShapeError, match=r"expects y_hat of shape .* every size at least 1, got"):
            CONTEXT(0, torch.zeros(shape), torch.zeros(1, 20, 4, 4))
    with pytest.raises(ShapeError, match=r"expects side of shape \(1, 20, 4, 4\) .*got \(1, 20, 4, 5\)"):
        CONTEXT(0, torch.zeros(1, 10, 4, 4), torch.zeros(1, 20, 4, 5))
    with pytest.raises(ArgumentError, match=r"step must lie in 0\.\.9, got 10"):
        CONTEXT(10, torch.zeros(1, 10, 4, 4), torch.zeros(1, 20, 4, 4))
