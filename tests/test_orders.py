"""Coding orders as data: any lattices, slices or passes outer, permuted; and what follows them: laws and windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import latent

from ssmctx import ChannelSpatialContext, CodingOrder, MambaICEntropyModel
from ssmctx.context import Lattice
from ssmctx.entropy.guard import Guard
from ssmctx.errors import ArgumentError
from ssmctx.testing import assert_any_size, assert_causal, assert_partition, assert_round_trip
from ssmctx.testing.strategies import law_settings, sizes, slicings

NAMED = ("one_pass", "checkerboard", "quad", "coarse_to_fine")


@st.composite
def tilings(draw):
    """Lattices that partition the plane: a tile that says of each cell in which pass it is coded."""
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    cells = draw(st.lists(st.integers(0, 5), min_size=height * width, max_size=height * width))
    rows = [cells[row * width : (row + 1) * width] for row in range(height)]
    return [Lattice(tuple(tuple(cell == p for cell in row) for row in rows)) for p in sorted(set(cells))]


@st.composite
def orders(draw):
    """Any order that can be made."""
    slices = draw(slicings(largest=3, most=3))
    passes = draw(st.one_of(st.sampled_from([1, 2, 4, 5]), tilings()))
    permutation = draw(st.none() | st.permutations(range(sum(slices))))
    return CodingOrder(slices, passes, passes_outer=draw(st.booleans()), permutation=permutation)


@law_settings()
@given(order=orders(), size=sizes(largest=9))
def test_the_masks_of_any_order_partition_a_latent_of_any_size(order, size):
    assert_partition(order, size)


@law_settings()
@given(order=orders(), size=sizes(largest=7))
def test_all_that_an_order_says_agrees_with_its_masks(order, size):
    coded = torch.zeros(order.num_channels, *size, dtype=torch.bool)
    for step in range(order.num_steps):
        mask = order.mask(step, size)
        own = order.channels(step)
        assert torch.equal(order.coded_mask(step, size), coded)
        assert torch.equal(mask[own], order.positions(step, size).expand_as(mask[own]))
        assert torch.equal(coded[own], order.coded_positions(step, size).expand_as(mask[own]))
        assert order.is_anchor(step) == (order.pass_index(step) == 0)
        coded |= mask
        if order.ends_slice(step):
            assert coded[own].all()
        if not order.passes_outer:
            assert coded[order.earlier_channels(step)].all()
        permutation = order.permutation or range(order.num_channels)
        seen = [*torch.arange(order.num_channels)[order.earlier_channels(step)], *torch.arange(order.num_channels)[own]]
        assert [int(channel) for channel in seen] == list(permutation)[: len(seen)]
    assert coded.all()


@law_settings()
@given(order=orders(), window=st.integers(1, 8), windows=st.integers(1, 3))
def test_indices_inside_windows_are_those_of_every_window(order, window, windows):
    size = (window, window * windows)
    for step in range(order.num_steps):
        indices = order.window_indices(step, window)
        positions = order.positions(step, size).view(window, windows, window).transpose(0, 1).flatten(1)
        if indices is None:
            sides = order.lattices[order.pass_index(step)].size
            assert any(window % side for side in sides) or positions.all()
        else:
            assert all(torch.equal(own.nonzero().flatten(), indices) for own in positions)


@given(order=orders())
def test_orders_are_values_that_can_be_printed(order):
    assert eval(repr(order), {"CodingOrder": CodingOrder, "Lattice": Lattice}) == order
    assert hash(order) == hash(CodingOrder(order.slices, order.lattices, passes_outer=order.passes_outer,
                                           permutation=order.permutation))  # fmt: skip
    assert order != order.slices


def test_the_named_orders_code_what_they_say():
    def passes(order):
        numbers = torch.stack([order.positions(step, (4, 4)).int() * step for step in range(order.num_steps)])
        return numbers.sum(0).tolist()

    assert passes(CodingOrder.one_pass([2])) == [[0] * 4] * 4
    assert passes(CodingOrder.checkerboard([2])) == [[0, 1, 0, 1], [1, 0, 1, 0]] * 2
    assert passes(CodingOrder.quad([2])) == [[0, 2, 0, 2], [3, 1, 3, 1]] * 2
    assert passes(CodingOrder.coarse_to_fine([2])) == [[0, 4, 2, 4], [4, 3, 4, 3], [2, 4, 1, 4], [4, 3, 4, 3]]
    assert [CodingOrder([1], n) for n in (1, 2, 4, 5)] == [getattr(CodingOrder, name)([1]) for name in NAMED]


def test_slices_or_passes_are_outer():
    order = CodingOrder.quad([3, 1])
    assert [(order.slice_index(t), order.pass_index(t)) for t in range(8)] == [(k, p) for k in (0, 1) for p in range(4)]
    order = CodingOrder.quad([3, 1], passes_outer=True)
    assert [(order.slice_index(t), order.pass_index(t)) for t in range(8)] == [(k, p) for p in range(4) for k in (0, 1)]


def test_a_permutation_that_changes_nothing_is_none():
    assert CodingOrder([2, 1], permutation=[0, 1, 2]) == CodingOrder([2, 1])
    order = CodingOrder([2, 1], permutation=[2, 0, 1])
    assert (order.channels(0), order.channels(2), order.earlier_channels(2)) == ([2, 0], [1], [2, 0])


def test_what_is_no_order_is_refused():
    left, right = Lattice(((True, False),)), Lattice(((False, True),))
    with pytest.raises(ArgumentError, match=r"must partition the plane; position \(0, 1\) is coded 0 times"):
        CodingOrder([2], [left])
    with pytest.raises(ArgumentError, match=r"position \(0, 0\) is coded 2 times"):
        CodingOrder([2], [left, right, left])
    with pytest.raises(ArgumentError, match="passes must be 1, 2, 4, 5 or a sequence of Lattice, got 3"):
        CodingOrder([2], 3)
    with pytest.raises(ArgumentError, match="a number or a sequence of Lattice"):
        CodingOrder([2], [])
    with pytest.raises(ArgumentError, match="a number or a sequence of Lattice"):
        CodingOrder([2], ["left"])
    with pytest.raises(ArgumentError, match=r"repeat after 1 x 99997 positions, too large a tile"):
        CodingOrder([2], [Lattice(((True,) * 99997,))])
    for tile in ((), ((),), ((False,),), ((True,), (True, False))):
        with pytest.raises(ArgumentError, match="rows of one length and a true cell"):
            Lattice(tile)
    for permutation in ([0, 1], [0, 1, 1], [1, 2, 3], [0, 1, 2, 3]):
        with pytest.raises(ArgumentError, match=r"permutation must hold each of 0\.\.2 once"):
            CodingOrder([2, 1], permutation=permutation)


def test_more_steps_than_a_file_can_tell_are_refused_when_the_order_is_made():
    assert CodingOrder.one_pass([1] * 16383).num_steps == 16383
    with pytest.raises(ArgumentError, match="16384 steps, a file stores 16383"):
        CodingOrder.one_pass([1] * 16384)
    with pytest.raises(ArgumentError, match="16384 steps"):
        CodingOrder.quad([1] * 4096)


# --- the laws, for a context in any order

M = 6
_ROWS = (Lattice(((True,), (False,), (False,))), Lattice(((False,), (True,), (True,))))
ORDERS = {
    **{name: getattr(CodingOrder, name)([3, 1, 2]) for name in NAMED},
    **{f"{name}, passes outer": getattr(CodingOrder, name)([3, 1, 2], passes_outer=True) for name in NAMED[1:]},
    "permuted": CodingOrder.quad([3, 3], permutation=[4, 0, 3, 1, 5, 2]),
    "permuted, passes outer": CodingOrder.checkerboard([1, 5], passes_outer=True, permutation=[5, 4, 3, 2, 1, 0]),
    "lattices of one's own": CodingOrder([2, 4], _ROWS, passes_outer=True),
}
WINDOWS = (4, 3, None)  # tiles of 2 and 4 cells divide the first and not the second

every_order = pytest.mark.parametrize("name", ORDERS)
every_window = pytest.mark.parametrize("window", WINDOWS)


def context_of(name, window=4, scan_backend="auto"):
    torch.manual_seed(1)
    context = ChannelSpatialContext(
        M, order=ORDERS[name], window_size=window, d_state=2, scan_backend=scan_backend
    ).eval()
    with torch.no_grad():
        for head in context.head:
            head[-1].weight *= 10  # so that scales are spread out
        context.first_channel.normal_()
    return context


def model_of(name, window=4, **more):
    torch.manual_seed(2)
    model = MambaICEntropyModel(M, hyper_channels=3, N=2, context=context_of(name, window, **more)).eval()
    model.update()
    return model


@every_window
@every_order
def test_a_context_is_causal_in_any_order(name, window):
    assert_causal(context_of(name, window), latent(1, 1, M, 5, 6), latent(2, 1, 2 * M, 5, 6))


@every_window
@every_order
def test_a_model_round_trips_in_any_order(name, window):
    model = model_of(name, window)
    assert_round_trip(model, latent(3, 2, M, 6, 5))
    assert_any_size(model, lambda height, width: latent(4, 1, M, height, width), [(1, 1), (1, 5), (4, 4), (7, 3)])


@every_order
def test_the_head_makes_the_same_at_some_positions_as_at_all(name, monkeypatch):
    context = context_of(name, window=4)
    order, y_hat, side = context.order, latent(5, 1, M, 6, 7), latent(6, 1, 2 * M, 6, 7)
    with torch.no_grad():
        some = [context(step, y_hat, side) for step in range(order.num_steps)]
        monkeypatch.setattr(CodingOrder, "window_indices", lambda *_: None)
        for step in range(order.num_steps):
            now = order.positions(step, (6, 7))
            for a, b in zip(some[step], context(step, y_hat, side), strict=True):
                torch.testing.assert_close(a[..., now], b[..., now], rtol=1e-5, atol=1e-6)


@every_order
def test_earlier_passes_of_all_slices_are_seen_where_passes_are_outer(name):
    context, size = context_of(name), (4, 4)
    y_hat = latent(7, 1, M, *size)
    for step in range(context.order.num_steps):
        coded = context.order.coded_mask(step, size)
        seen = torch.where(coded, y_hat, 0)[:, context.order.earlier_channels(step)]
        assert torch.equal(context.coded_slices(step, y_hat), seen)


@every_order
def test_bits_are_real_in_any_order(name):
    model, y = model_of(name), latent(8, 1, M, 24, 20)
    with torch.no_grad():
        for head in model.context.head:  # what latents of standard deviation 4 ask for, as in a trained model
            head[-1].weight /= 4
            head[-1].bias.chunk(2)[1].add_(4)
    coded = model.compress(y)
    estimate = -sum(p.double().log2().sum().item() for p in model(y)["likelihoods"].values())
    (y_stream,), (z_stream,), (checksums,), (guard,) = coded["strings"]
    bits = 8 * (len(y_stream) + len(z_stream))
    assert abs(bits - estimate) < 0.01 * estimate + 8 * 8
    assert len(checksums) in (5, 3 + 2 * model.context.order.num_steps)
    assert len(guard) < 40


@pytest.mark.parametrize("name", ["quad", "coarse_to_fine, passes outer", "permuted", "lattices of one's own"])
def test_another_scan_backend_decodes_in_any_order(name):
    y = latent(9, 1, M, 9, 8)
    coded = model_of(name, scan_backend="torch").compress(y)
    Guard.from_bytes(coded["strings"][3][0], y.numel())
    decoded = model_of(name, scan_backend="reference").decompress(coded["strings"], coded["shape"])["y_hat"]
    torch.testing.assert_close(decoded, coded["y_hat"], rtol=1e-3, atol=1e-3)


def test_an_order_comes_alone_and_has_the_models_channels():
    with pytest.raises(ArgumentError, match="order replaces num_slices, slices, spatial: give only order"):
        ChannelSpatialContext(M, num_slices=2, order=ORDERS["quad"])
    with pytest.raises(ArgumentError, match=r"the order must have M=8 channels, got 6"):
        ChannelSpatialContext(8, order=ORDERS["quad"])
