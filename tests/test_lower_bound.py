"""The lower bound is CompressAI's, and goes where torch goes."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from priors import layout

from ssmctx.entropy.lower_bound import LowerBound


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9), st.booleans())
def test_the_lower_bound_is_that_of_compressai(values, up):
    from compressai.ops import LowerBound as Theirs

    results = []
    for bound in (Theirs(0.11), LowerBound(0.11)):
        assert layout(bound) == [("bound", torch.float32, (1,))]
        x = torch.tensor(values, requires_grad=True)
        y = bound(bound(x))
        (y.square() * (-1 if up else 1)).sum().backward()
        results.append((y, x.grad))
    for theirs, ours in zip(*results, strict=True):
        assert torch.equal(theirs, ours)


def test_the_lower_bound_compiles_maps_and_differentiates_twice():
    bound, x = LowerBound(0.11), torch.tensor([0.01, 0.11, 2.0])

    def cost(x):
        return -bound(x).pow(3).sum()

    gradient = torch.func.grad(cost)
    expected = -3 * x.clamp(min=bound.bound).square()
    torch.testing.assert_close(gradient(x), expected)
    torch.testing.assert_close(torch.vmap(gradient)(x.repeat(2, 1)), expected.repeat(2, 1))
    torch.testing.assert_close(torch.func.grad(lambda x: gradient(x).sum())(x)[2], torch.tensor(-12.0))
    leaf = x.clone().requires_grad_()
    torch.compile(cost, backend="aot_eager", fullgraph=True)(leaf).backward()
    torch.testing.assert_close(leaf.grad, expected)
    assert bound.to("meta")(x.to("meta")).shape == x.shape
