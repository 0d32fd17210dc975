"""The tables of the factorised prior: CompressAI's, and the same integers everywhere."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from priors import pair, updated

from ssmctx.entropy.factorized_prior import FactorizedPrior
from ssmctx.entropy.factorized_prior import tables as exact
from ssmctx.errors import ArgumentError, NonFiniteError


def trained(seed, channels=24, steps=200):
    """A prior of CompressAI on channels of many spreads; the quantiles are on their way."""
    theirs, _ = pair(channels, seed)
    spread = torch.logspace(-1.3, 1.5, channels)[:, None]
    shift = torch.randn(channels, 1) * spread
    quantiles = theirs.quantiles
    net = torch.optim.Adam([p for p in theirs.parameters() if p is not quantiles], lr=1e-2)
    aux = torch.optim.Adam([quantiles], lr=5e-2)
    for _ in range(steps):
        z = torch.randn(32, channels, 4) * spread + shift
        (-theirs(z)[1].log2().mean()).backward()
        net.step()
        net.zero_grad()
        theirs.loss().backward()
        aux.step()
        aux.zero_grad()
    return theirs.eval()


@pytest.mark.parametrize("settle", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tables_are_those_of_compressai(seed, settle):
    """Their masses are float32. Where one of them rounds to another count, so does the total, and the row with it."""
    theirs = trained(seed)
    ours = FactorizedPrior(24)
    ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        assert model.update(force=True, update_quantiles=settle)
    torch.testing.assert_close(ours.quantiles, theirs.quantiles, atol=1e-3, rtol=1e-4)
    assert torch.equal(ours._offset, theirs._offset)
    assert torch.equal(ours._cdf_length, theirs._cdf_length)
    apart = (ours._quantized_cdf - theirs._quantized_cdf).abs()
    assert ours._quantized_cdf.shape == theirs._quantized_cdf.shape
    assert (apart > 0).float().mean() < 0.05
    assert (apart > 2).any(1).sum() <= 2
    # and where they compute in float64, none is apart by more than the float32 numbers that their quantising takes
    wide = copy.deepcopy(theirs).double()
    with torch.no_grad():
        wide.quantiles.copy_(ours.quantiles)
    wide.update(force=True)
    assert torch.equal(ours._cdf_length, wide._cdf_length)
    assert (ours._quantized_cdf != wide._quantized_cdf).any(1).sum() <= 1


def test_golden_tables():
    """A change here makes other tables of the same weights: two releases that call update() no longer agree."""
    prior = FactorizedPrior(4)
    with torch.no_grad():
        for parameter in prior.parameters():
            steps = torch.arange(parameter.numel()).reshape(parameter.shape)
            parameter.copy_((steps * 37 % 64 - 32) / 32)
    prior.update(force=True, update_quantiles=True)
    assert prior.tables().fingerprint().hex() == GOLDEN
    assert prior.quantiles[:, 0, 1].tolist() == GOLDEN_MEDIANS


GOLDEN = "be843b65a596b44b"
GOLDEN_MEDIANS = [2.5901942253112793, -0.7148832082748413, 0.45262277126312256, -0.4600733518600464]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (exact.exp, math.exp),
        (exact.tanh, math.tanh),
        (exact.sigmoid, lambda x: 1 / (1 + math.exp(-x))),
        (exact.softplus, lambda x: max(x, 0) + math.log1p(math.exp(-abs(x)))),
    ],
)
@given(x=st.floats(-600, 600) | st.floats(-3, 3))
def test_functions_are_right_to_the_last_bits(ours, theirs, x):
    np.testing.assert_allclose(ours(np.array([x])), theirs(x), rtol=1e-15 * max(4, abs(x)), atol=3e-16)


@given(st.integers(0, 1000))
def test_tables_follow_the_likelihood(seed):
    prior = updated(2, seed).double()
    tables = prior.tables()
    for row in range(2):
        length = int(tables.lengths[row])
        symbols = torch.arange(length - 2) + float(tables.offsets[row])
        z = prior.medians() + symbols[None, None, None]
        counts = np.diff(tables.cdfs[row, :length])[:-1]
        np.testing.assert_allclose(counts, 2**16 * prior.likelihood(z)[0, row, 0].detach(), atol=length + 2)


@pytest.mark.parametrize(("name", "what"), [("quantiles", "quantiles"), ("biases.1", "weights")])
def test_numbers_that_are_not_finite_are_told(name, what):
    prior = FactorizedPrior(3)
    dict(prior.named_parameters())[name].data[1] = math.nan
    with pytest.raises(NonFiniteError, match=f"{what} must be finite"):
        prior.update()


def test_quantiles_far_apart_are_told():
    prior = FactorizedPrior(3)
    prior.quantiles.data[1, 0, 2] = 1e5
    with pytest.raises(ArgumentError, match=r"channel 1 must lie within 16 bits .* update_quantiles=True"):
        prior.update()


def test_a_row_without_mass_still_codes():
    """Quantiles that miss the distribution leave it to the escape."""
    prior = updated()
    prior.quantiles.data[0] = torch.tensor([1000.0, 1001.0, 1002.0])
    prior.update(force=True)
    assert prior.tables().cdfs[0].tolist()[:5] == [0, 1, 2, 3, 65536]
