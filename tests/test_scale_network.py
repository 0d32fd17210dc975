"""Scales from integers: the same rows by any device, thread count, layout and kernel; a proof that nothing rounds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import M, latent
from torch import nn
from torch.nn.utils import parametrizations, prune

from ssmctx import CarriedStateContext, CodingOrder, MambaICEntropyModel
from ssmctx.context.order import Lattice
from ssmctx.distributions import Laplace, ScaleGrid
from ssmctx.entropy import ScaleNetwork
from ssmctx.entropy.gains import Gain, QualityGains
from ssmctx.entropy.scale_network import integer_conv
from ssmctx.entropy.scale_network.integer_conv import LARGEST_ACTIVATION, IntegerConv2d
from ssmctx.entropy.scale_network.neighbours import coded_taps, neighbourhoods
from ssmctx.entropy.scale_network.steps import scale_steps
from ssmctx.entropy.steps import drive
from ssmctx.errors import (
    ArgumentError,
    CheckpointError,
    NonFiniteError,
    NotUpdatedError,
    ShapeError,
)

HYPER, SIZE = 6, torch.Size((13, 10))
ORDER = CarriedStateContext(M, dim=8).order


def wider(made: ScaleNetwork, factor: float = 10) -> ScaleNetwork:
    """The network with heads that spread levels out."""
    with torch.no_grad():
        for head in made.head:
            head.weight.mul_(factor)
    return made


def network(order: CodingOrder = ORDER, **changes) -> ScaleNetwork:
    torch.manual_seed(4)
    made = wider(ScaleNetwork(order, HYPER, width=12, **changes).eval())
    made.update()
    return made


def symbols(seed: int = 0, batch: int = 1, most: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, (batch, HYPER, 4, 3), generator=generator).float()


def walked(made: ScaleNetwork, z: torch.Tensor, gain: Gain = Gain(), frozen=False, most=20) -> torch.Tensor:  # noqa: B008
    """Scales of all steps, or rows of frozen ones, in coding order, where y's symbols are random ones."""
    found = []
    random = torch.Generator().manual_seed(most)

    def q(scales):
        found.append(scales.values.flatten(1))
        one = torch.randint(-most, most + 1, scales.values.shape[1:], generator=random)
        return one.to(scales.values.device).expand_as(scales.values)

    drive(scale_steps(made, z, gain, SIZE, frozen), q)
    return torch.cat(found, 1)


def scale_of(made: ScaleNetwork, z: torch.Tensor, gain: Gain = Gain()) -> torch.Tensor:  # noqa: B008
    return walked(made, z, gain)


def rows_of(made: ScaleNetwork, z: torch.Tensor, gain: Gain = Gain(), frozen=True) -> torch.Tensor:  # noqa: B008
    values = walked(made, z, gain, frozen)
    return values.long() if frozen else made.grid.index(values)


def model_of(**changes) -> MambaICEntropyModel:
    torch.manual_seed(2)
    keywords = {"context": CarriedStateContext(M, dim=8), "N": 4, "hyper_channels": HYPER, "scales": network()}
    model = MambaICEntropyModel(M, **{**keywords, **changes}).eval()
    with torch.no_grad():
        for head in getattr(model.context, "head", []):
            head[-1].weight.normal_(std=0.3)  # means depend on what was decoded
    model.update()
    return model


# --- the same integers


def in_numpy(made: ScaleNetwork, z: torch.Tensor, q: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """The network's rows in int64, written out; q gives the residuals of a step from its rows."""
    state, order = made.state_dict(), made.order

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        weight, bias = (state[f"{name}.whole_{part}"].numpy().astype(np.int64) for part in ("weight", "bias"))
        side = weight.shape[-1]
        padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
        return (np.einsum("oikl,ihwkl->ohw", weight, windows) + bias[:, None, None] + (1 << 13)) >> 14

    def shuffled(x: np.ndarray) -> np.ndarray:
        c, h, w = x.shape
        return x.reshape(c // 4, 2, 2, h, w).transpose(0, 3, 1, 4, 2).reshape(c // 4, 2 * h, 2 * w)

    def relu(x: np.ndarray) -> np.ndarray:
        return np.clip(x, 0, LARGEST_ACTIVATION)

    def taken(name: str, x: np.ndarray) -> np.ndarray:
        return layer(name, np.minimum(abs(x), 15) << 10)

    f = z[0].numpy().astype(np.int64) << 10
    f = shuffled(layer("body.2", relu(shuffled(layer("body.1", relu(layer("body.0", f)))))))
    f = np.clip(f[:, : SIZE[0], : SIZE[1]], -LARGEST_ACTIVATION, LARGEST_ACTIVATION)
    group = 1 if order.passes_outer else order.passes
    coded = np.zeros((M, *SIZE), np.int64)
    of_step: list[np.ndarray] = []
    rows = []
    for step in range(order.num_steps):
        if step and step % group == 0:
            k, own = step // group - 1, order.channels(step - 1)
            before = coded[own] * order.positions(step - 1, SIZE).numpy() if order.passes_outer else coded[own]
            update = layer(f"mix.{k}", relu(f + taken(f"added.{k}", before)))
            f = np.clip(f + update, -LARGEST_ACTIVATION, LARGEST_ACTIVATION)
        own = order.channels(step)
        now = f + taken(f"added_later.{step}", coded[own]) if step % group else f
        levels = layer(f"head.{step}", relu(layer(f"hidden.{step}", relu(now))))
        half = 1 << (made.level_bits - 1)
        positions = order.positions(step, SIZE).numpy()
        of_step = np.clip((levels + half) >> made.level_bits, 0, made.grid.levels - 1)[:, positions]
        rows.append(of_step.flatten())
        slice_of = coded[own]
        slice_of[:, positions] = q(step, of_step)
        coded[own] = slice_of
    return np.concatenate(rows)


ORDERS = [
    ORDER,
    CodingOrder.one_pass([4, 6]),
    CodingOrder.checkerboard([4, 6], passes_outer=True),
    CodingOrder.coarse_to_fine([3, 7], permutation=[9, 0, 2, 4, 6, 8, 1, 3, 5, 7]),
]
NETWORKS = [network(order) for order in ORDERS]
NETWORK = NETWORKS[0]


@settings(max_examples=25)
@given(which=st.integers(0, 3), seed=st.integers(0, 999), most=st.sampled_from([1, 9, 300, 2**15 - 1]))
def test_rows_are_those_of_int64(which, seed, most):
    made, z = NETWORKS[which], symbols(seed, most=most)

    def q(step, rows):
        return (rows * 7 + np.arange(rows.size).reshape(rows.shape) * 5 + step) % (2 * most + 1) - most

    found = []

    def from_rows(scales):
        found.append(scales.values.flatten().numpy())
        return torch.from_numpy(q(scales.index, scales.values[0].numpy()))[None]

    drive(scale_steps(made, z, Gain(), SIZE, frozen=True), from_rows)
    assert np.array_equal(np.concatenate(found), in_numpy(made, z, q))


LATTICES = [Lattice(((True, False),)), Lattice(((False, True), (False, False), (False, False))), Lattice(((True,),))]
"""Passes whose tiles differ in size; here the last one codes anew what the others did, which an order may not."""


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("size", [(7, 10), (1, 1), (3, 2)])
def test_a_convolution_at_some_positions_is_that_of_all(step, size):
    coded = sum(lattice.positions(size) for lattice in LATTICES[:step]) > 0
    x = torch.randint(-9, 10, (2, 3, *size), generator=torch.Generator().manual_seed(step)).double() * coded
    conv = IntegerConv2d(3, 4, 3, 9)
    conv.freeze()
    expected = conv(x, frozen=True)[..., LATTICES[step].positions(size)]
    taps = coded_taps(LATTICES, step)
    around = neighbourhoods(x.permute(0, 2, 3, 1), LATTICES[step], taps)
    assert torch.equal(conv(around, True, taps).mT, expected)


def test_taps_are_those_through_which_something_is_seen():
    quad, fine = CodingOrder.quad([4]).lattices, CodingOrder.coarse_to_fine([4]).lattices
    assert [coded_taps(quad, step) for step in (1, 2, 3)] == [(0, 2, 6, 8), (1, 3, 5, 7), (0, 1, 2, 3, 5, 6, 7, 8)]
    assert [coded_taps(fine, step) for step in (1, 2, 3, 4)] == [(), (), (0, 2, 6, 8), (1, 3, 5, 7)]


def by_matmul(x, weight, bias, padding):
    columns = F.unfold(x, weight.shape[-1], padding=padding)
    return (weight.flatten(1) @ columns).unflatten(2, x.shape[2:]) + bias[:, None, None]


def in_another_order(x, weight, bias, padding):
    """Input channels summed one by one, last first."""
    parts = [F.conv2d(x[:, i : i + 1], weight[:, i : i + 1], padding=padding) for i in reversed(range(x.shape[1]))]
    return sum(parts, bias[:, None, None])


@pytest.mark.parametrize("most", [9, 2**15 - 1])
@pytest.mark.parametrize("conv", [by_matmul, in_another_order])
def test_rows_do_not_depend_on_how_sums_are_made(monkeypatch, conv, most):
    z = symbols(most=most)
    expected = rows_of(NETWORK, z)
    assert len(expected.unique()) > 2
    monkeypatch.setattr(integer_conv, "F", Functional(conv, one_by_one))
    assert torch.equal(rows_of(NETWORK, z), expected)


class Functional(NamedTuple):
    """In place of torch.nn.functional."""

    conv2d: Callable
    linear: Callable


def one_by_one(x, weight, bias):
    """Input channels summed one by one, last first."""
    return sum((x[..., i : i + 1] * weight[:, i] for i in reversed(range(x.shape[-1]))), bias)


def test_rows_do_not_depend_on_threads_layout_or_batch():
    z = symbols(batch=3)
    expected = rows_of(NETWORK, z)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for form in (z, z.contiguous(memory_format=torch.channels_last), z.flip(3).flip(3), z.double()):
                assert torch.equal(rows_of(NETWORK, form), expected)
            assert torch.equal(torch.cat([rows_of(NETWORK, one) for one in z.split(1)]), expected)
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu"):
        assert torch.equal(rows_of(NETWORK, z), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("most", [9, 2**15 - 1])
def test_rows_on_cuda_are_those_of_the_cpu(most):
    z = symbols(batch=2, most=most)
    expected = rows_of(NETWORK, z)
    on_cuda = copy.deepcopy(NETWORK).cuda()
    for form in (z, z.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(rows_of(on_cuda, form.cuda()).cpu(), expected)


def test_a_context_of_means_needs_a_scale_network():
    context = CarriedStateContext(M, dim=8, means_only=True)
    message = "CarriedStateContext predicts means only: take the scales from a scale network, scales='integer'"
    with pytest.raises(ArgumentError, match=message):
        MambaICEntropyModel(M, N=4, hyper_channels=HYPER, context=context)
    made, y = model_of(context=context), latent(1, 1, M, 9, 7)
    coded = made.compress(y)
    assert torch.equal(made.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])


@pytest.mark.parametrize("scales", [None, "integer"])
def test_quantiles_that_are_computed_leave_the_symbols_of_z_to_a_scale_network(scales):
    """It was trained on symbols about the medians of training; others would be new to it."""
    model, y = model_of(scales=scales), 3 * latent(1, 1, M, 21, 18)
    with torch.no_grad():
        model.entropy_bottleneck.quantiles += 0.4
    rate = model(y)["likelihoods"]["y"].log2().sum()
    outer = model.entropy_bottleneck.quantiles[:, 0, ::2].clone()
    model.update(force=True, update_quantiles=True)
    assert not torch.equal(model.entropy_bottleneck.quantiles[:, 0, ::2], outer)
    assert torch.equal(model(y)["likelihoods"]["y"].log2().sum(), rate) == (scales is not None)
    coded = model.compress(y)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])


# --- the proof


def worst(conv: IntegerConv2d) -> float:
    """The largest sum that inputs within their bound can make, in exact integers."""
    weight, bias = (conv.state_dict()[f"whole_{name}"].numpy().astype(object) for name in ("weight", "bias"))
    return max((abs(w).sum() * conv.largest + abs(b)) for w, b in zip(weight, bias, strict=True))


@given(exponent=st.floats(-3, 12), seed=st.integers(0, 99), largest=st.sampled_from([9, LARGEST_ACTIVATION, 2**28]))
def test_no_weights_pass_the_proof_and_overflow(exponent, seed, largest):
    torch.manual_seed(seed)
    conv = IntegerConv2d(2, 3, 3, largest)
    with torch.no_grad():
        conv.weight.mul_(10**exponent)
        conv.bias.normal_(std=10**exponent)
    weight = (conv.weight.detach().double() * 2**14).abs()
    if (weight.sum((1, 2, 3)) * largest).max() > 2**53 or weight.max() > 2**31:
        with pytest.raises(ArgumentError, match=r"sums up to .* could occur, float64 holds integers below 2\^53"):
            conv.freeze()
        return
    try:
        bound = conv.freeze()
    except ArgumentError:  # by its bias, or by a hair
        assert weight.sum((1, 2, 3)).max() * largest + conv.bias.abs().max().item() * 2**24 > 2**52
        return
    assert worst(conv) <= bound < 2**53
    state = conv.state_dict()
    for o in range(3):  # inputs at their bound, with the signs of the weights
        x = largest * state["whole_weight"][o].sign()[None].double()
        terms = state["whole_weight"][o].numpy().astype(object) * x[0].numpy().astype(np.int64).astype(object)
        expected = terms.sum() + int(state["whole_bias"][o])
        weight, bias = state["whole_weight"].double(), state["whole_bias"].double()
        for sums in (by_matmul(x, weight, bias, 1), in_another_order(x, weight, bias, 1)):
            assert int(sums[0, o, 1, 1].item()) == expected
        assert int(conv(x, frozen=True)[0, o, 1, 1].item()) == (expected + (1 << 13)) >> 14


@pytest.mark.parametrize("layer", ["body.0", "body.2", "added.0", "mix.0", "added_later.3", "hidden.1", "head.4"])
def test_a_network_that_could_overflow_is_refused(layer):
    made = network()
    with torch.no_grad():
        made.get_submodule(layer).weight.mul_(1e9)
    with pytest.raises(ArgumentError, match=r"sums up to .* could occur, float64 holds integers below 2\^53"):
        made.update(force=True)


def test_the_bounds_are_stored_and_hold():
    for name, layer in NETWORK.named_modules():
        if isinstance(layer, IntegerConv2d):
            assert NETWORK.state_dict()[f"{name}.bound"].item() == worst(layer) + 2**13
    made = network()
    state = made.state_dict()
    state["body.1.whole_weight"] = state["body.1.whole_weight"] + 1
    made.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"the checkpoint's integers can sum up to .* it is damaged"):
        rows_of(made, symbols())
    state["body.1.whole_weight"] = state["body.1.whole_weight"][:1]
    made.load_state_dict(state)
    with pytest.raises(CheckpointError, match="integers of shape"):
        rows_of(made, symbols())


def test_weights_that_are_no_numbers_are_refused():
    made = network()
    with torch.no_grad():
        made.body[0].bias[0] = math.nan
    with pytest.raises(NonFiniteError, match="weights must be finite to become integers"):
        made.update(force=True)


# --- training and freezing


@pytest.mark.parametrize("quality", [None, 1.5])
def test_training_sees_the_scales_that_code(quality):
    """Up to the rounding of float32, and to that of a level to its row."""
    torch.manual_seed(0)
    gain = Gain() if quality is None else QualityGains(M, HYPER, 3)(quality)
    z = symbols()
    levels = scale_of(NETWORK.train(), z, gain).log() / NETWORK.grid.spacing
    tabled = scale_of(NETWORK.eval(), z, gain).log() / NETWORK.grid.spacing
    assert (levels - tabled).abs().max() < 0.51
    assert levels.unique().numel() > 64  # in training scales lie between


def test_gradients_reach_every_weight_and_z():
    made = network().train()
    z = symbols().requires_grad_()
    scale_of(made, z).log().square().sum().backward()
    for name, weight in made.named_parameters():
        assert weight.grad.abs().sum() > 0, name
    assert z.grad.abs().sum() > 0


def test_rounding_passes_gradients_as_the_float_network_has_them():
    exact, plain = network().train(), network(exact=False).train()
    grads = []
    for made in (exact, plain):
        scale_of(made, symbols()).log().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in made.parameters()]))
    assert (grads[0] - grads[1]).norm() < 0.02 * grads[1].norm()


def test_a_network_trains_towards_the_scales_of_the_data():
    """Two kinds of symbols of z and two scales, and a second slice as wide as the first turns out to be."""
    torch.manual_seed(0)
    made = ScaleNetwork(CodingOrder.one_pass([1, 1]), 1, width=8).train()
    optimizer = torch.optim.Adam(made.parameters(), 2e-2)

    def scales(z, y):
        found = []

        def q(own):
            found.append(own.values)
            return y[:, own.index : own.index + 1].flatten(2)

        drive(scale_steps(made, z, Gain(), (12, 12)), q)
        return torch.cat(found, 1)

    def images(count):
        z = torch.randint(0, 2, (count, 1, 3, 3)).float()
        wide = torch.where(torch.rand(count, 1, 1, 1) > 0.5, 8.0, 1.0)
        first = torch.where(z > 0, 8.0, 0.5).repeat_interleave(4, 2).repeat_interleave(4, 3) * wide
        return z, wide, torch.round(torch.cat([first, wide.expand_as(first)], 1) * torch.randn(count, 2, 12, 12))

    for _ in range(150):
        z, _, y = images(8)
        loss = -Laplace().likelihood(y.flatten(2), scales(z, y)).log2().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.eval().update()
    z, wide, y = images(16)
    found = scales(z, y)[:, 1].mean(1)
    assert found[wide.flatten() > 4].mean() > 4
    assert found[wide.flatten() < 4].mean() < 2


def test_what_codes_is_what_was_frozen_until_the_next_update():
    made = network()
    before = rows_of(made, symbols())
    with torch.no_grad():
        made.head[0].bias.add_(1)
    assert torch.equal(rows_of(made, symbols()), before)
    assert not torch.equal(rows_of(made, symbols(), frozen=False), before)
    assert not made.update()
    assert torch.equal(rows_of(made, symbols()), before)
    assert made.update(force=True)
    assert not torch.equal(rows_of(made, symbols()), before)


def test_integers_travel_in_the_state_dict_and_survive_what_happens_to_weights():
    z, expected = symbols(), rows_of(NETWORK, symbols())
    other = ScaleNetwork(ORDER, HYPER, width=12).eval()
    other.load_state_dict(NETWORK.state_dict())
    assert torch.equal(rows_of(other, z), expected)
    assert torch.equal(rows_of(copy.deepcopy(NETWORK).half().float(), z), expected)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert torch.equal(rows_of(other, z), expected)


def test_qualities_without_their_integers_are_refused():
    model = model_of(scales="integer", qualities=2)
    for name in ("offsets", "factors"):
        model.scale_network._hold({name: torch.empty(0, dtype=torch.int32)})
    with pytest.raises(NotUpdatedError, match=r"no gains yet: call update\(force=True\) of the model"):
        model.compress(latent(0, 1, M, 4, 4), quality=1)


def test_coding_without_update_is_refused():
    made = ScaleNetwork(ORDER, HYPER, width=12).eval()
    rows_of(made, symbols(), frozen=False)
    with pytest.raises(NotUpdatedError, match=r"the scale network has no integers yet: call update\(\)"):
        rows_of(made, symbols())


def test_pruned_and_normalised_weights_are_frozen_as_they_are_used():
    made = network()
    prune.random_unstructured(made.body[1], "weight", 0.5)
    parametrizations.weight_norm(made.body[2])
    made.update(force=True)
    assert torch.equal(rows_of(made, symbols()), rows_of(made, symbols(), frozen=False))
    assert (made.state_dict()["body.1.whole_weight"] == 0).float().mean() > 0.4


def test_a_layer_in_a_wrapper_is_refused():
    class Adapter(nn.Module):
        def __init__(self, module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x, frozen=False):
            return self.module(x, frozen) * 1.01

    made = network()
    made.body[1] = Adapter(made.body[1])
    with pytest.raises(ArgumentError, match="a layer of the scale network is wrapped in Adapter"):
        made.update(force=True)


# --- gains, grids, shapes


def test_a_gain_is_an_offset_in_integers():
    gains = QualityGains(M, HYPER, 3)
    with torch.no_grad():
        gains.log_z.normal_(std=0.3)
    made = network()
    made.update(gains, force=True)
    assert made.offsets.shape[:2] == (513, M)
    for quality in (0, 1, 2, 0.7):
        gain = gains(quality)
        assert torch.equal(rows_of(made, symbols(), gain), rows_of(made, symbols(), gain, frozen=False))
        moved = Gain(torch.full_like(gain.y, math.nan), torch.full_like(gain.z, math.nan), gain.units)
        assert torch.equal(rows_of(made, symbols(), moved), rows_of(made, symbols(), gain))  # no float enters
    unit_z = Gain(gains(2).y, torch.ones(1, HYPER, 1, 1))
    scale = scale_of(made.train(), symbols()).detach()
    factor = scale_of(made, symbols(), unit_z)[(scale > 0.2) & (scale < 20)] / scale[(scale > 0.2) & (scale < 20)]
    assert factor.median().item() == pytest.approx(math.sqrt(2), rel=2e-3)


@pytest.mark.parametrize("grid", [ScaleGrid(levels=32), ScaleGrid(0.05, 64, 200), ScaleGrid(0.5, 2, 2)])
def test_any_grid(grid):
    made = network(grid=grid)
    rows = rows_of(made, symbols())
    assert rows.min() >= 0
    assert rows.max() < grid.levels
    assert torch.equal(rows_of(made, symbols(), frozen=False), rows)
    model = model_of(scales="integer", distribution=Laplace(grid=grid))
    coded = model.compress(latent(0, 1, M, 5, 7))
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])


def test_what_does_not_fit_is_said():
    with pytest.raises(ShapeError, match=r"makes 4 cells of y of one of z, along each side: \(16, 12\) here"):
        next(scale_steps(NETWORK, symbols(), Gain(), (17, 10)))
    with pytest.raises(ArgumentError, match="scale network must be made for order, hyper_channels and grid"):
        model_of(scales=ScaleNetwork(ORDERS[1], HYPER))
    with pytest.raises(ArgumentError, match="scales are 'integer', 'float' or a ScaleNetwork, got 'int'"):
        model_of(scales="int")
    with pytest.raises(ArgumentError, match="scales from integers need no guard; leave guard_band out"):
        model_of(guard_band=0.001)
    with pytest.raises(ArgumentError, match="width must be an integer of at least 1, got 0"):
        ScaleNetwork(ORDER, HYPER, width=0)
