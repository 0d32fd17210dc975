"""What is computed at a step's positions only, or once for several steps, equals the plain formula."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SLICES, M, context, latent

from ssmctx import CodingOrder, WindowLocalAttention
from ssmctx.context import head
from ssmctx.entropy.steps import Step
from ssmctx.layers.windows import WindowGrid


def plain(model, step, y_hat, side):
    """The formula of `ChannelSpatialContext` as it stands there: everywhere, and all anew."""
    k, order = model.order.slice_index(step), model.order
    attention, first, activation, last = model.head[k]
    features = [model.first_channel[:, None, None].expand(len(y_hat), -1, *y_hat.shape[2:])]
    if k:
        features = [model.channel[k - 1](y_hat[:, : order.channels(step).start])]
    if model.spatial:
        anchors = y_hat[:, order.channels(step)] * order.positions(0, y_hat.shape[2:])
        spatial = model.spatial[k](anchors) if step % 2 else anchors.repeat(1, 2, 1, 1) * 0
        features.insert(0, spatial)
    return last(activation(first(attention(torch.cat([*features, side], 1))))).chunk(2, 1)


CONTEXTS = [
    context(**options).double()
    for options in ({}, {"window_size": None}, {"window_size": 5}, {"window_size": 8}, {"spatial": False})
]


def assert_equals_plain(model, size, step, seed):
    y_hat = latent(seed, 2, M, *size).double()
    side = latent(seed + 1, 2, 2 * M, *size).double()
    now = model.order.positions(step, size)
    for lean, expected in zip(model(step, y_hat, side), plain(model, step, y_hat, side), strict=True):
        torch.testing.assert_close(lean[..., now], expected[..., now], rtol=1e-9, atol=1e-9)


SIZES = st.tuples(st.integers(1, 17), st.integers(1, 17))


@settings(max_examples=40)
@given(model=st.sampled_from(CONTEXTS), size=SIZES, share=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**20))
@torch.no_grad()
def test_a_step_equals_the_plain_formula(model, size, share, seed):
    assert_equals_plain(model, size, int(share * model.order.num_steps), seed)


@pytest.mark.parametrize("step", [2, 3])
def test_the_equality_notices_the_other_pass(step, monkeypatch):
    """Planted fault: parameters are computed at the positions of the other pass."""
    model, right = CONTEXTS[0], CodingOrder.window_indices
    monkeypatch.setattr(CodingOrder, "window_indices", lambda self, step, *rest: right(self, step ^ 1, *rest))
    with pytest.raises(AssertionError, match="not close"):
        assert_equals_plain(model, (6, 7), step, 0)


@pytest.mark.parametrize("step", [4, 5])
@torch.no_grad()
def test_few_windows_at_once_change_nothing(step, monkeypatch):
    y_hat, side = latent(0, 2, M, 9, 14).double(), latent(1, 2, 2 * M, 9, 14).double()
    whole = CONTEXTS[0](step, y_hat, side)
    monkeypatch.setattr(head, "_MOST_AT_ONCE", 1)
    for one, other in zip(CONTEXTS[0](step, y_hat, side), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_copies_and_other_modes_compute_the_same_bits():
    model = context()
    y_hat, side = latent(0, 1, M, 7, 5), latent(1, 1, 2 * M, 7, 5)
    with torch.inference_mode():
        expected = [x.clone() for x in model(3, y_hat, side)]
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to("cpu").train().eval()):
        for x, y in zip(other(3, y_hat, side), expected, strict=True):
            assert torch.equal(x, y)
    sum(x.sum() for x in model(3, y_hat, side)).backward()  # what inference mode saw is no obstacle


@given(size=SIZES, window=st.integers(1, 6), shift=st.booleans(), data=st.data())
@torch.no_grad()
def test_attention_at_some_indices_is_the_attention_there(size, window, shift, data):
    torch.manual_seed(0)
    layer = WindowLocalAttention(6, window, num_heads=2, shift=shift).double()
    torch.nn.init.normal_(layer.position_bias)
    grid = WindowGrid(*size, window, window // 2 if shift else 0)
    windows = grid.split(torch.randn(2, 6, *size, dtype=torch.float64))
    indices = data.draw(st.lists(st.integers(0, window**2 - 1), min_size=1, unique=True).map(torch.tensor))
    padded = None if grid.padded() is None else grid.padded()[None]
    some, whole = (layer(windows, True, padded, chosen) for chosen in (indices[None], None))
    torch.testing.assert_close(some, whole[:, :, indices], rtol=1e-12, atol=1e-12)


@given(size=SIZES, window=st.integers(1, 9), data=st.data())
def test_windows_put_an_image_together_again(size, window, data):
    grid = WindowGrid(*size, window, data.draw(st.integers(0, window - 1)))
    x = torch.randn(2, 3, *size)
    tokens, padded = grid.split(x), grid.padded()
    assert torch.equal(grid.join(tokens), x)
    assert int((torch.zeros(tokens.shape[1:3], dtype=torch.bool) if padded is None else padded).sum()) == (
        tokens.shape[1] * window**2 - x[0, 0].numel()
    )
    if padded is not None:
        assert not tokens[:, padded].any()


@given(size=SIZES, step=st.integers(0, 2 * SLICES - 1))
def test_a_step_gathers_and_scatters_its_positions(size, step):
    order = CodingOrder([M // SLICES] * SLICES)
    positions = order.positions(step, size)
    x = torch.randn(2, 2, *size)
    found = Step(step, order, x, x, None)
    assert torch.equal(found.gather(x), x[..., positions])
    assert torch.equal(found.scatter(found.gather(x)), x.where(positions, 0))


def test_nothing_of_the_other_pass_is_asked_of_the_head():
    """Half the positions go through the head's first convolution in each pass."""
    model, counts = context(), []
    model.head[0][1].register_forward_hook(lambda module, inputs, output: counts.append(output[0, 0].numel()))
    with torch.no_grad():
        for step in (0, 1):
            model(step, latent(0, 1, M, 8, 12), latent(1, 1, 2 * M, 8, 12))
    assert counts == [48, 48]
