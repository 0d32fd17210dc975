"""The released layout obeys the laws: causal, one loop with its refinement, bit-exact at any size."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import latent
from released import SLICES, M, released_context, released_entropy_model

from ssmctx import CodingOrder, ContextModel, registry
from ssmctx.compat.released import ReleasedMambaIC
from ssmctx.context.released import ReleasedContext
from ssmctx.entropy.steps import coding_steps, drive
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.layers.checkerboard import CheckerboardConv2d
from ssmctx.layers.gated_attention import GatedAttention, ResidualUnit
from ssmctx.testing import LawBroken, assert_causal, assert_round_trip

STEPS = 2 * SLICES
CONTEXT, MODEL = released_context(), released_entropy_model()


def test_it_is_registered():
    assert isinstance(registry.contexts.create("released", 10, d_state=2), ReleasedContext)


@settings(max_examples=4)
@given(height=st.integers(1, 18), width=st.integers(1, 18), seed=st.integers(0, 2**20))
def test_it_is_causal(height, width, seed):
    y_hat, side = latent(seed, 1, M, height, width), latent(seed + 1, 1, 2 * M, height, width)
    assert_causal(CONTEXT, y_hat, side)


class SeesNonAnchors(ReleasedContext):
    """Planted fault: the second pass reads its whole slice through the checkerboard convolution."""

    def forward(self, step, y_hat, side, state=None):
        mean, scale = super().forward(step, y_hat, side, state)
        k = self.order.slice_index(step)
        return mean + 1e-6 * self.anchors[k](y_hat[:, self.order.channels(step)]).chunk(2, 1)[0] * (step % 2), scale


class RefinesTooEarly(ReleasedContext):
    """Planted fault: the support reads the slice that it is about to predict."""

    def _supports(self, step, y_hat, side, state):
        mean_support, support = super()._supports(step, y_hat, side, state)
        return mean_support, [x + self.order.select(step, y_hat).mean() for x in support]


@pytest.mark.parametrize(
    ("leak", "steps"), [(SeesNonAnchors, range(1, STEPS, 2)), (RefinesTooEarly, range(0, STEPS, 2))]
)
def test_the_law_catches_a_leak(leak, steps):
    leaky = leak(M, SLICES, d_state=2).eval()
    y_hat, side = latent(0, 1, M, 5, 6), latent(1, 1, 2 * M, 5, 6)
    for step in steps:
        with pytest.raises(LawBroken, match=f"step {step}: the (mean|scale), .* moved with"):
            assert_causal(leaky, y_hat, side, steps=[step])


# 8x8 is the latent of a 128x128 image, where the authors' code fails
@pytest.mark.parametrize(("batch", "height", "width"), [(2, 1, 1), (1, 8, 8), (1, 9, 13)])
def test_it_round_trips(batch, height, width):
    assert_round_trip(MODEL, latent(width, batch, M, height, width))


@pytest.mark.parametrize("size", [(1, 1), (31, 50), (128, 128)])
@torch.no_grad()
def test_the_codec_round_trips_images(size):
    torch.manual_seed(0)
    model = ReleasedMambaIC(4, 6, (0, 1, 0, 1), num_slices=2, hyper_channels=4, d_state=2).eval()
    model.update()
    x = torch.rand(1, 3, *size)
    coded = model.compress(x)
    decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
    assert decoded.shape == x.shape
    assert torch.equal(decoded, model(x)["x_hat"].clamp(0, 1))
    y_hat = model.latent_codec.decompress(coded["strings"], coded["shape"])["y_hat"]
    assert torch.equal(model.g_s(y_hat)[..., : size[0], : size[1]].clamp(0, 1), decoded)
    with pytest.raises(ArgumentError, match='shape must hold the size of x as "x"'):
        model.decompress(coded["strings"], {key: coded["shape"][key] for key in ("y", "hyper")})


class Halves(ContextModel):
    """Predicts nothing and halves what is decoded; keeps what it was shown."""

    def __init__(self):
        super().__init__(CodingOrder([1, 2]))
        self.shown = []

    def forward(self, step, y_hat, side, state=None):
        self.shown.append(y_hat)
        zero = torch.zeros_like(y_hat[:, self.order.channels(step)])
        return zero, zero + 1

    def refine(self, step, y_hat, side, state=None):
        return y_hat[:, self.order.channels(step)] / 2


def test_refinement_reaches_later_steps_and_leaves_symbols_alone():
    context, symbols = Halves(), []

    def quantised(step):
        symbols.append(torch.full_like(step.mean, 4.0))
        return symbols[-1]

    y_hat = drive(coding_steps(context, torch.zeros(1, 6, 2, 2)), quantised)
    assert torch.equal(y_hat, torch.full((1, 3, 2, 2), 2.0))
    assert all((q == 4).all() for q in symbols)
    # anchors are shown as coded within their slice, refined afterwards
    assert [shown[0, 0].tolist() for shown in context.shown] == [
        [[0, 0], [0, 0]],
        [[4, 0], [0, 4]],
        [[2, 2], [2, 2]],
        [[2, 2], [2, 2]],
    ]


@pytest.mark.parametrize(
    ("skipped", "message"),
    [({0}, "decodes to other symbols"), ({SLICES - 1}, "decompress gives another y_hat than compress")],
)
def test_the_law_catches_refinement_on_one_side_only(monkeypatch, skipped, message):
    """Planted fault: the decoder leaves out the refinement of some slices."""
    model = copy.deepcopy(MODEL)
    decode, refine = model._decode, ReleasedContext.refine

    def sometimes(self, step, *arguments):
        return None if self.order.slice_index(step) in skipped else refine(self, step, *arguments)

    def faulty(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReleasedContext, "refine", sometimes)
            return decode(*arguments)

    monkeypatch.setattr(model, "_decode", faulty)
    with pytest.raises(LawBroken, match=message):
        assert_round_trip(model, latent(0, 1, M, 6, 7))


def test_training_gradients_reach_every_parameter():
    model = copy.deepcopy(MODEL).train()
    out = model(latent(0, 2, M, 6, 5).requires_grad_())
    rate = sum(-p.log2().sum() for p in out["likelihoods"].values())
    (rate + out["y_hat"].square().sum() + model.aux_loss()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_the_checkerboard_convolution_sees_the_other_colour_only():
    layer = CheckerboardConv2d(2, 3)
    x = torch.randn(1, 2, 6, 7, requires_grad=True)
    anchors = CodingOrder([2]).positions(0, (6, 7))
    (layer(x) * ~anchors).sum().backward()
    assert torch.equal((x.grad != 0)[0, 0], anchors)
    assert "taps" not in layer.state_dict()


def test_gated_attention_takes_any_size():
    layer = GatedAttention(5, width=32).eval()
    for size in [(1, 1), (8, 8), (3, 21)]:
        assert layer(torch.randn(2, 5, *size)).shape == (2, 5, *size)


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="M must be a multiple of num_slices, got M=10, num_slices=3"):
        ReleasedContext(10, 3)
    with pytest.raises(ShapeError, match=r"ReleasedContext expects side of shape \(1, 12, 4, 4\)"):
        CONTEXT.refine(1, torch.zeros(1, M, 4, 4), torch.zeros(1, M, 4, 4))
    with pytest.raises(ArgumentError, match="kernel_size must be odd, got 4"):
        CheckerboardConv2d(2, 3, 4)
    with pytest.raises(ArgumentError, match="dim must be at least 2, got 1"):
        ResidualUnit(1)
    with pytest.raises(ArgumentError, match="width must be a multiple of 16, got 40"):
        GatedAttention(5, width=40)
    with pytest.raises(ArgumentError, match=r"depths must be four integers .* got \(1, 2\)"):
        ReleasedMambaIC(2, 4, (1, 2))
    with pytest.raises(ShapeError, match=r"ReleasedMambaIC expects x \(batch, 3, H, W\)"):
        ReleasedMambaIC(2, 4, (0, 0, 0, 0), 2, 4)(torch.zeros(1, 1, 4, 4))
