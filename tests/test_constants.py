"""Masks and indices are made once: the same whatever was asked for before, bounded, and in nobody's copies."""

import copy
import pickle
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ssmctx import CarriedStateContext, ChannelSpatialContext, CodingOrder, constants, registry
from ssmctx.constants import constant
from ssmctx.context import Lattice
from ssmctx.entropy.steps import coding_steps, drive

ORDERS = [CodingOrder.checkerboard([2, 1]), CodingOrder.quad([2, 1], passes_outer=True, permutation=[2, 0, 1])]


def ones(size, device):
    return torch.ones(size, device=device)


@pytest.fixture
def empty(monkeypatch):
    """A store of its own."""
    monkeypatch.setattr(constants, "_kept", constants._kept.__class__())
    monkeypatch.setattr(constants, "_bytes", 0)
    return constants._kept


def plain(order, step, size):
    """The positions of a step by the tile's definition, one by one."""
    tile = order.lattices[order.pass_index(step)].tile
    rows = [[tile[r % len(tile)][c % len(tile[0])] for c in range(size[1])] for r in range(size[0])]
    return torch.tensor(rows)


@given(
    asked=st.lists(
        st.tuples(st.sampled_from(ORDERS), st.integers(0, 3), st.integers(1, 6), st.integers(1, 6)), min_size=2
    )
)
def test_what_was_asked_for_before_changes_nothing(asked):
    for order, step, *size in asked:
        positions = plain(order, step, size)
        assert torch.equal(order.positions(step, size), positions)
        assert torch.equal(order.indices(step, size), positions.flatten().nonzero().flatten())
        assert order.positions(step, size, "meta").device.type == "meta"
        coded = [plain(order, t, size) for t in range(step) if order.slice_index(t) == order.slice_index(step)]
        assert torch.equal(order.coded_positions(step, size), sum(coded, torch.zeros(size, dtype=torch.bool)))


@given(permutation=st.permutations(range(5)), step=st.integers(0, 3))
def test_slices_are_the_channels_of_the_order(permutation, step):
    order, x = CodingOrder([2, 3], permutation=permutation), torch.randn(2, 5, 3, 4)
    assert torch.equal(order.select(step, x), x[:, order.channels(step)])
    assert torch.equal(order.select_earlier(step, x), x[:, order.earlier_channels(step)])
    assert torch.equal(order.split(x)[order.slice_index(step)], x[:, order.channels(step)])
    assert torch.equal(order.join(order.split(x)), x)


def test_the_same_is_made_once(empty):
    order = CodingOrder([2, 1])
    assert order.positions(0, (3, 4)) is CodingOrder([4]).positions(0, (3, 4), "cpu")
    assert order.indices(0, (3, 4)) is order.indices(2, torch.Size((3, 4)))
    assert order.positions(0, (3, 4)) is not order.positions(0, (4, 3))


def test_what_was_written_to_is_made_anew(empty):
    order = CodingOrder([2, 1])
    right = order.positions(0, (3, 4)).clone()
    order.positions(0, (3, 4)).logical_not_()
    with torch.inference_mode():
        order.positions(1, (3, 4))[:] = True
    assert torch.equal(order.positions(0, (3, 4)), right)
    assert torch.equal(order.positions(1, (3, 4)), ~right)


def test_a_store_does_not_grow_without_bound(empty, monkeypatch):
    monkeypatch.setattr(constants, "_MOST_BYTES", 8 << 10)
    for n in range(100):
        assert constant(ones, n).numel() == n
        assert len(empty) <= 8
    kept = constant(ones, 99)
    for n in range(7):
        constant(ones, n)
        assert constant(ones, 99) is kept  # what is used stays
    assert constant(ones, 10_000).numel() == 10_000  # larger than the store
    assert not empty
    assert constants._bytes == 0


def test_neither_modules_nor_copies_nor_pickles_hold_any():
    torch.manual_seed(0)
    for context in (ChannelSpatialContext(6, 2, 4), CarriedStateContext(6, 2, 4)):
        before, size = pickle.dumps(context.order), len(pickle.dumps(context))
        keys = list(context.state_dict())
        y_hat, side = torch.randn(1, 6, 5, 7), torch.randn(1, 12, 5, 7)
        expected = context(3, y_hat, side)
        assert (pickle.dumps(context.order), len(pickle.dumps(context))) == (before, size)
        assert list(context.state_dict()) == keys
        for other in (copy.deepcopy(context), pickle.loads(pickle.dumps(context))):
            assert all(map(torch.equal, other(3, y_hat, side), expected))


def test_what_inference_mode_made_serves_training(empty):
    context, size = CarriedStateContext(6, 2, 4), (5, 7)
    y_hat, side = torch.randn(1, 6, *size), torch.randn(1, 12, *size, requires_grad=True)
    with torch.inference_mode():
        context(3, y_hat, side)
    assert empty
    sum(x.sum() for x in context(3, y_hat, side)).backward()


class Counts(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_nothing_is_kept_of_what_is_traced_or_transformed(empty):
    with Counts():
        constant(ones, 3)
    torch.func.vmap(lambda x: x * constant(ones, 3))(torch.ones(2, 3))
    torch.func.grad(lambda x: (x * constant(ones, 3)).sum())(torch.ones(3))
    torch.jit.trace(lambda x: x * constant(ones, 3), torch.ones(3), check_trace=False)
    torch._dynamo.reset()
    torch.compile(lambda x: x * constant(ones, 3), backend="eager", fullgraph=True)(torch.ones(3))
    assert not empty


def test_a_default_device_is_one_of_several(empty):
    assert constant(ones, 3).device.type == "cpu"
    with torch.device("meta"):
        assert constant(ones, 3).device.type == "meta"
    assert constant(ones, 3).device.type == "cpu"


def test_threads_get_the_same_numbers(empty, monkeypatch):
    monkeypatch.setattr(constants, "_MOST_BYTES", 4 << 10)  # so that they push out each other's
    lattice, wrong = Lattice(((True, False), (False, True))), []

    def work(seed):
        random = torch.Generator().manual_seed(seed)
        for _ in range(300):
            size = tuple(torch.randint(1, 5, (2,), generator=random).tolist())
            rows, columns = (torch.arange(n) for n in size)
            if not torch.equal(lattice.positions(size), (rows[:, None] + columns) % 2 == 0):
                wrong.append(size)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert constants._bytes == 1024 * len(empty)


class Waits(TorchDispatchMode):
    """What a GPU would be waited for: values read by Python, sizes that depend on values, tensors made on the CPU."""

    READ = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.lift_fresh.default")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if str(operator) in self.READ:
            self.seen.append(str(operator))
        return operator(*args, **(kwargs or {}))


def waits_of_a_loop(context, monkeypatch):
    """Of the second walk over a latent, whose masks and indices are there."""
    side = torch.randn(1, 40, 8, 16)
    monkeypatch.setattr(constants, "_tracing", lambda: False)  # which a dispatch mode counts as
    for _ in range(2):
        with torch.no_grad(), Waits() as waits:
            drive(coding_steps(context, side), lambda step: step.value(step.mean).round())
    return waits.seen


@pytest.mark.parametrize("name", registry.contexts.names())
def test_the_coding_loop_waits_for_no_gpu(name, monkeypatch):
    """Only coders do: a step's symbols go to the CPU, where words are written."""
    assert waits_of_a_loop(registry.contexts.create(name, M=20), monkeypatch) == []


def test_a_context_that_reads_a_value_waits(monkeypatch):  # the planted fault
    class Reads(ChannelSpatialContext):
        def forward(self, step, y_hat, side, state=None):
            mean, scale = super().forward(step, y_hat, side, state)
            return (mean, scale) if scale.max() > -1 else (mean, scale.abs())

    assert "aten._local_scalar_dense.default" in waits_of_a_loop(Reads(20), monkeypatch)
