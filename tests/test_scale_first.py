"""Contexts whose scales depend on side information alone: one call of the coder, the same streams, the same laws."""

from __future__ import annotations

import pytest
import torch
from models import M, context, latent
from torch import nn

from ssmctx import CarriedStateContext, CodingOrder, ContextModel, MambaICEntropyModel, registry
from ssmctx.context import ScaleFirst
from ssmctx.context.hyper_only import HyperOnlyContext
from ssmctx.entropy import RansCoder
from ssmctx.entropy.steps import in_coding_order
from ssmctx.errors import DecodeMismatchError, ShapeError
from ssmctx.testing import LawBroken, assert_causal, assert_round_trip

ORDERS = [
    CodingOrder.one_pass([M]),
    CodingOrder.checkerboard([4, 6]),
    CodingOrder.checkerboard([4, 6], passes_outer=True, permutation=[*range(1, M), 0]),
    CodingOrder.coarse_to_fine([1, 9]),
]


class CountsCalls(RansCoder):
    """How many times a decoder is asked for symbols."""

    calls = 0

    def decoder(self, stream):
        decoder, coder = super().decoder(stream), self

        class Counting:
            def decode(self, rows, tables):
                coder.calls += 1
                return decoder.decode(rows, tables)

            def finish(self):
                decoder.finish()

        return Counting()


class InSteps(ContextModel):
    """The same scales, but asked for step by step."""

    def __init__(self, inner) -> None:
        super().__init__(inner.order)
        self.inner = inner

    def begin(self, side):
        return self.inner.begin(side)

    def forward(self, step, y_hat, side, state=None):
        return self.inner(step, y_hat, side, state)


def model_of(context_model, **changes) -> MambaICEntropyModel:
    torch.manual_seed(2)
    model = MambaICEntropyModel(M, hyper_channels=6, N=4, context=context_model, **changes).eval()
    with torch.no_grad():
        model.h_s.scales[-1].weight *= 20  # scales spread out
    model.update()
    return model


def scale_first(order=None) -> ScaleFirst:
    torch.manual_seed(5)
    made = ScaleFirst(CarriedStateContext(M, dim=8, order=order or ORDERS[1])).eval()
    with torch.no_grad():
        for head in made.context.head:
            head[-1].weight.normal_(std=0.3)
        made.network[-1].weight.normal_(std=0.3)
    return made


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_one_call_decodes_y_and_the_streams_are_those_of_scales_in_steps(order):
    model = model_of(scale_first(order))
    y = latent(0, 1, M, 13, 10)
    coded = model.compress(y)
    assert_round_trip(model, latent(1, 2, M, 5, 7))
    in_steps = model_of(InSteps(model.context))
    assert in_steps.compress(y)["strings"] == coded["strings"]
    for one, calls in ((model, 1), (in_steps, order.num_steps)):
        one.coder = CountsCalls()
        assert torch.equal(one.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])
        assert one.coder.calls == calls + 1  # and one for z


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_scales_come_in_coding_order(order):
    scale = latent(0, 1, M, 5, 7)
    masks = [order.mask(step, (5, 7)) for step in range(order.num_steps)]
    by_step = [scale[0][order.channels(t)][:, order.positions(t, (5, 7))].flatten() for t in range(len(masks))]
    assert torch.equal(in_coding_order(scale, order), torch.cat(by_step))


@pytest.mark.parametrize("quality", [None, 0, 1.5])
def test_a_gain_multiplies_scales_that_come_first(quality):
    model, in_steps = (model_of(wrap(scale_first()), qualities=3) for wrap in (lambda c: c, InSteps))
    y = latent(3, 1, M, 9, 8)
    coded = model.compress(y, quality)
    assert coded["strings"] == in_steps.compress(y, quality)["strings"]
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], model(y, quality)["y_hat"])


def test_the_registered_one_has_the_means_of_the_context_that_it_is_named_after():
    made = registry.contexts.create("carried-state-scale-first", M)
    plain = registry.contexts.create("carried-state", M)
    assert {n: p.shape for n, p in made.context.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    spread = list(range(1, M + 1))
    made = registry.contexts.create("carried-state-scale-first", M, spread=spread, num_slices=2, dim=8)
    assert made.order == CarriedStateContext(M, 2, 8, spread=spread).order


def test_training_reaches_the_network_of_the_scales():
    model = model_of(scale_first()).train()
    out = model(latent(0, 2, M, 8, 8))
    (-out["likelihoods"]["y"].log2().sum()).backward()
    assert model.context.network[0].weight.grad.abs().sum() > 0


def test_the_hyperprior_alone_is_scale_first():
    side = latent(0, 1, 2 * M, 4, 4)
    assert torch.equal(HyperOnlyContext(M).scales(side), side[:, M:])
    assert context().scales(side) is None


def test_a_context_that_refines_refines_still():
    class Refines(CarriedStateContext):
        def refine(self, step, y_hat, side, state=None):
            return y_hat[:, self.order.channels(step)] + (type(state).__name__ != "ScaleFirstState")

    model = model_of(ScaleFirst(Refines(M, dim=8, num_slices=2)))
    y = latent(0, 1, M, 6, 6)
    coded = model.compress(y)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])
    assert not torch.equal(
        model_of(ScaleFirst(CarriedStateContext(M, dim=8, num_slices=2)))(y)["y_hat"], coded["y_hat"]
    )


def test_the_causal_law_tells_scales_that_are_not_those_of_the_steps():
    class Other(ScaleFirst):
        def forward(self, step, y_hat, side, state=None):
            mean, scale = super().forward(step, y_hat, side, state)
            return mean, scale * (1 + 1e-6 * step)

    y_hat, side = latent(0, 1, M, 5, 6), latent(1, 1, 2 * M, 5, 6)
    assert_causal(scale_first(), y_hat, side)
    with pytest.raises(LawBroken, match=r"step 1: the scale, .* when all scales are asked for at once"):
        assert_causal(Other(CarriedStateContext(M, dim=8)).eval(), y_hat, side)


def test_scales_of_another_shape_are_told():
    wrong = ScaleFirst(CarriedStateContext(M, dim=8), network=nn.Conv2d(2 * M, 1, 1))
    wrong.scales = lambda side, state=None: side
    with pytest.raises(ShapeError, match=r"ScaleFirst: scales must return a tensor of shape \(1, 10, 4, 4\)"):
        model_of(wrong)(latent(0, 1, M, 4, 4))


def test_damage_is_told_at_the_step_or_for_y():
    model = model_of(scale_first())
    coded = model.compress(latent(0, 1, M, 20, 20))
    [y], z, sums, guard = coded["strings"]
    assert len(sums[0]) == 3 + 2 * 4
    damaged = bytearray(y)
    damaged[len(y) // 2] ^= 8
    with pytest.raises(DecodeMismatchError, match=r"step|y decodes to other symbols"):
        model.decompress([[bytes(damaged)], z, sums, guard], coded["shape"])
    with pytest.raises(DecodeMismatchError, match="y decodes to other symbols"):
        model.decompress([[y[:-8]], z, sums, guard], coded["shape"])
