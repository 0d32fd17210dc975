"""CarriedStateContext equals its formula, whatever the order, and a step costs only what it codes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import latent

from ssmctx import CarriedStateContext, CodingOrder, MambaICEntropyModel
from ssmctx.context.carried_state import growing_slices
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.testing import assert_causal, assert_round_trip

M = 6
ORDERS = [
    CodingOrder.one_pass([2, 4]),
    CodingOrder.checkerboard([1, 2, 3]),
    CodingOrder.checkerboard([2, 4], passes_outer=True, permutation=[5, 0, 3, 1, 4, 2]),
    CodingOrder.coarse_to_fine([6]),
]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    spread = [0.5, 1, 2, 3, 1, 1]
    made = [
        CarriedStateContext(M, dim=8, order=order, spread=spread, means_only=means_only).double()
        for means_only in (False, True)
        for order in ORDERS
    ]
    for model in made:
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def mixed(mix, psi):
    """x + W2 ReLU(W1 LN(DWConv(x))), channels first."""
    return psi + mix.update(mix.conv(psi).movedim(1, 3)).movedim(3, 1)


def plain(model, step, y_hat, side):
    """The formula of the class as it stands there: everywhere, channels first, and all anew."""
    order, size, s = model.order, y_hat.shape[2:], model.log_spread.exp()[:, None, None]

    def coded(steps):
        own = order.channels(steps[0])
        parts = []
        for t in steps:
            now, (predicted, _) = order.positions(t, size).double(), plain(model, t, y_hat, side)
            miss = ((y_hat[:, own] - predicted).abs() / s[own])[:, : 0 if model.means_only else None]
            parts.append(torch.cat([y_hat[:, own] / s[own], miss, torch.ones_like(y_hat[:, :1])], 1) * now)
        return sum(parts)

    mean, log_scale = side.chunk(2, dim=1)
    first, activation, second, mix = model.init
    known = mean / s if model.means_only else torch.cat([mean / s, log_scale], 1)
    psi = mixed(mix, second(activation(first(known.movedim(1, 3)))).movedim(3, 1))
    group = 1 if order.passes_outer else order.passes
    for k in range(step // group):
        psi = mixed(model.mix[k], psi + model.added[k](coded(range(k * group, k * group + group))))
    if step % group:
        psi = psi + model.added_later[str(step)](coded(range(step - step % group, step)))
        psi = psi + model.update_later[str(step)](psi.movedim(1, 3)).movedim(3, 1)
    change, own = model.head[step](psi.movedim(1, 3)).movedim(3, 1), order.channels(step)
    if model.means_only:
        return mean[:, own] + change * s[own], torch.ones_like(change)
    delta, log_delta = change.chunk(2, dim=1)
    return mean[:, own] + delta * s[own], (log_scale[:, own] + log_delta).clamp(max=8).exp()


def assert_equals_plain(model, step, size, seed):
    y_hat, side = latent(seed, 2, M, *size).double(), latent(seed + 1, 2, 2 * M, *size).double()
    now = model.order.positions(step, size)
    for found, expected in zip(model(step, y_hat, side), plain(model, step, y_hat, side), strict=True):
        torch.testing.assert_close(found[..., now], expected[..., now], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_equality_notices_other_misses(models, monkeypatch):
    """Planted fault: a prediction is compared with its own side information, not with itself."""
    right = CarriedStateContext._coded

    def wrong(self, step, positions, y_hat, state):
        return right(self, step, positions, y_hat, replace(state, predicted=dict(enumerate(state.means))))

    monkeypatch.setattr(CarriedStateContext, "_coded", wrong)
    with pytest.raises(AssertionError):
        assert_equals_plain(models[1], 3, (5, 6), 0)


@settings(max_examples=30)
@given(
    which=st.integers(0, 2 * len(ORDERS) - 1),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    share=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**20),
)
@torch.no_grad()
def test_a_step_equals_the_plain_formula(models, which, size, share, seed):
    model = models[which]
    assert_equals_plain(model, int(share * model.order.num_steps), size, seed)


@torch.no_grad()
@pytest.mark.parametrize("step", [2, 3])
def test_the_equality_notices_what_is_added_elsewhere(models, monkeypatch, step):
    """Planted fault: what was coded is added one column further."""
    right = CarriedStateContext._coded
    monkeypatch.setattr(CarriedStateContext, "_coded", lambda *given: right(*given).roll(1, 3))
    with pytest.raises(AssertionError):
        assert_equals_plain(models[1], step, (5, 6), 0)


@torch.no_grad()
def test_causal_and_symmetric_with_any_order(models):
    for model in models:
        assert_causal(model, latent(4, 1, M, 5, 6).double(), latent(5, 1, 2 * M, 5, 6).double())
    codec = MambaICEntropyModel(M, hyper_channels=4, N=4, context=CarriedStateContext(M, dim=8, order=ORDERS[2]))
    codec.update()
    assert_round_trip(codec.eval(), latent(6, 2, M, 5, 6))


@torch.no_grad()
def test_steps_of_one_walk_add_each_slice_once(models):
    model, size = models[1], (4, 5)
    y_hat, side = latent(1, 1, M, *size).double(), latent(2, 1, 2 * M, *size).double()
    calls = []
    hooks = [mix.register_forward_hook(lambda *_: calls.append(1)) for mix in model.mix]
    state = model.begin(side)
    walked = [model(step, y_hat, side, state) for step in range(model.order.num_steps)]
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(model.order.slices) - 1
    for step, (mean, scale) in enumerate(walked):
        alone = model(step, y_hat, side)
        assert torch.equal(mean, alone[0])
        assert torch.equal(scale, alone[1])


def test_it_begins_as_the_hyperprior():
    model = CarriedStateContext(M, dim=8)
    side = latent(3, 1, 2 * M, 4, 4)
    mean, scale = model(0, torch.zeros(1, M, 4, 4), side)
    assert torch.equal(mean[:, :, ::2, ::2], side[:, :1, ::2, ::2])
    torch.testing.assert_close(scale[:, :, ::2, ::2], side[:, M : M + 1, ::2, ::2].exp())


def test_a_known_spread_gives_the_order():
    model = CarriedStateContext(M, num_slices=2, dim=8, spread=[0.1, 5, 0.3, 4, 0.2, 1])
    assert model.order == CodingOrder.checkerboard([2, 4], permutation=[1, 3, 5, 2, 4, 0])
    assert CarriedStateContext(M, num_slices=2, dim=8).order == CodingOrder.checkerboard([2, 4])


def test_it_can_be_made_on_the_meta_device():
    with torch.device("meta"):
        made = CarriedStateContext(M, dim=8, spread=[0.1, 5, 0.3, 4, 0.2, 1])
    model = CarriedStateContext(M, dim=8, spread=[0.1, 5, 0.3, 4, 0.2, 1])
    made = made.to_empty(device="cpu")
    made.load_state_dict(model.state_dict())
    y_hat, side = latent(7, 1, M, 4, 4), latent(8, 1, 2 * M, 4, 4)
    for one, other in zip(made(3, y_hat, side), model(3, y_hat, side), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("M", range(1, 40))
def test_growing_slices_grow_and_add_up(M):
    for num_slices in range(1, M + 1):
        slices = growing_slices(M, num_slices)
        assert sum(slices) == M
        assert min(slices) >= 1
        assert len(slices) == num_slices


def test_what_is_wrong_is_said():
    with pytest.raises(ArgumentError, match="the order must have M=6 channels, got 5"):
        CarriedStateContext(M, order=CodingOrder([5]))
    with pytest.raises(ArgumentError, match="order replaces num_slices"):
        CarriedStateContext(M, num_slices=2, order=CodingOrder([6]))
    with pytest.raises(ArgumentError, match="num_slices must be an integer from 1 to M=6, got 7"):
        CarriedStateContext(M, num_slices=7)
    with pytest.raises(ArgumentError, match=r"num_slices must be an integer from 1 to M=6, got 2\.0"):
        CarriedStateContext(M, num_slices=2.0)
    for wrong in (0, float("inf"), float("nan")):
        with pytest.raises(ArgumentError, match="spread must hold M=6 finite positive numbers"):
            CarriedStateContext(M, spread=[1, 1, 1, 1, 1, wrong])
    with pytest.raises(ArgumentError, match="dim"):
        CarriedStateContext(M, dim=0)
    with pytest.raises(ShapeError, match="expects side of shape"):
        CarriedStateContext(M, dim=8)(0, torch.zeros(1, M, 4, 4), torch.zeros(1, M, 4, 4))
