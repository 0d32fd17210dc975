"""The coding order: masks partition the latent, anchors first."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmctx import CodingOrder
from ssmctx.errors import ArgumentError

sizes = st.integers(1, 9)


@given(slices=st.lists(st.integers(1, 5), min_size=1, max_size=5), passes=st.integers(1, 2), height=sizes, width=sizes)
def test_the_masks_of_all_steps_partition_the_latent(slices, passes, height, width):
    order = CodingOrder(slices, passes)
    masks = torch.stack([order.mask(step, (height, width)) for step in range(order.num_steps)])
    assert masks.shape == (passes * len(slices), sum(slices), height, width)
    assert (masks.sum(0) == 1).all()
    for step, mask in enumerate(masks):
        channel, row, column = mask.nonzero().unbind(1)
        assert passes == 1 or ((row + column) % 2 == step % 2).all()
        assert sorted(set(channel.tolist())) in ([], list(range(order.num_channels))[order.channels(step)])


def test_orders_are_values():
    order = CodingOrder([2, 1])
    assert order == CodingOrder((2, 1))
    assert hash(order) == hash(CodingOrder((2, 1)))
    assert order not in (CodingOrder([1, 2]), CodingOrder([2, 1], passes=1), [2, 1])
    assert eval(repr(CodingOrder([2, 1], passes=1))) == CodingOrder([2, 1], passes=1)
    assert [CodingOrder([2, 1], passes=1).is_anchor(step) for step in range(2)] == [True, True]


def test_bad_arguments():
    with pytest.raises(ArgumentError, match=r"slices of at least 1 channel each, got \[3, 0\]"):
        CodingOrder([3, 0])
    for slices in ([], 5, [2.5, 1], ["2"]):
        with pytest.raises(ArgumentError, match="a sequence of slices of at least 1 channel each, got"):
            CodingOrder(slices)
    with pytest.raises(ArgumentError, match=r"a number or a sequence of Lattice, got 3\.0"):
        CodingOrder([2], 3.0)
    with pytest.raises(ArgumentError, match=r"step must lie in 0\.\.3, got 4"):
        CodingOrder([1, 1]).channels(4)
