"""The factorised prior is CompressAI's."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from priors import layout, pair, updated

from ssmctx.entropy.factorized_prior import FactorizedPrior
from ssmctx.errors import ArgumentError, ShapeError

FILTERS = [(3, 3, 3, 3), (3,), (2, 5), ()]


@pytest.mark.parametrize("filters", FILTERS)
def test_the_state_dict_is_that_of_compressai(filters):
    theirs, ours = pair(5, filters=filters, init_scale=7, tail_mass=1e-6)
    assert layout(ours) == layout(theirs)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    theirs.update()
    ours.update()
    assert layout(ours) == layout(theirs)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=2, rtol=0)


@given(
    st.integers(1, 4),
    st.sampled_from(FILTERS),
    st.sampled_from([(), (3,), (2, 5), (1, 2, 3)]),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(0.1, 100),
    st.booleans(),
    st.integers(0, 1000),
)
def test_likelihoods_and_gradients_are_those_of_compressai(channels, filters, spatial, dtype, scale, training, seed):
    theirs, ours = (model.to(dtype) for model in pair(channels, seed, filters=filters))
    z = scale * torch.randn(2, channels, *spatial, dtype=dtype)
    results = []
    for model in (theirs, ours):
        x = z.clone().requires_grad_()
        torch.manual_seed(seed)
        z_hat, p = model(x, training=training)
        assert z_hat.dtype == p.dtype == dtype
        p.sum().backward()
        results.append([z_hat, p, x.grad, *(w.grad for w in model.parameters() if w.grad is not None)])
    for name, a, b in zip(["z_hat", "p", *["gradient"] * 99], *results, strict=False):
        tolerance = {"atol": 2e-6, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 1e-12, "rtol": 1e-10}
        torch.testing.assert_close(b, a, msg=lambda m, name=name: f"{name}: {m}", **tolerance)
    torch.testing.assert_close(ours.likelihood(results[0][0]), results[0][1], **tolerance)


def test_the_auxiliary_loss_is_that_of_compressai_and_trains_quantiles_only():
    theirs, ours = pair()
    torch.testing.assert_close(ours.loss(), theirs.loss())
    for model in (theirs, ours):
        model.loss().backward()
    torch.testing.assert_close(ours.quantiles.grad, theirs.quantiles.grad)
    assert [name for name, p in ours.named_parameters() if p.grad is not None] == ["quantiles"]
    assert ours.medians().shape == (1, 3, 1, 1)
    assert not ours.medians().requires_grad
    assert torch.equal(ours.medians().flatten(), ours.quantiles[:, 0, 1])


def test_compressai_loads_updates_and_trains_it():
    from compressai.models import CompressionModel

    class Model(CompressionModel):
        def __init__(self, seed):
            super().__init__()
            self.prior = pair(3, seed)[1]

    source, target = Model(1), Model(2)
    torch.testing.assert_close(source.aux_loss(), source.prior.loss())
    assert source.update(force=True, update_quantiles=True)
    assert not source.update()
    target.load_state_dict(source.state_dict())
    target.load_state_dict(source.state_dict())
    assert target.prior.tables().fingerprint() == source.prior.tables().fingerprint()
    old = {}  # the names of older versions of CompressAI
    for name, value in source.state_dict().items():
        for kind, short in [("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")]:
            name = name.replace(kind, short)
        old[name] = value
    target = Model(3)
    target.load_state_dict(old)
    assert target.prior.tables().fingerprint() == source.prior.tables().fingerprint()
    assert torch.equal(target.prior.matrices[0], source.prior.matrices[0])


def test_autocast_does_not_reach_the_likelihoods():
    prior = updated()
    z = 3 * torch.randn(2, 3, 4, 4)
    expected = prior(z, training=False)
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(prior(z, training=False), expected, strict=True):
            assert torch.equal(a, b)
        narrow = prior(z.bfloat16(), training=True)
    assert narrow[0].dtype == narrow[1].dtype == torch.float32
    assert prior(z.half())[1].dtype == torch.float32


def test_z_is_left_as_it_was():
    prior, z = updated(), torch.randn(2, 3, 4)
    kept = z.clone()
    prior(z), prior.likelihood(z), prior(z, training=False)
    assert torch.equal(z, kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels must be an integer of at least 1, got 0"),
        ({"channels": 2, "filters": (3, 0)}, "filters must be an integer of at least 1, got 0"),
        ({"channels": 2, "init_scale": 0}, "init_scale must be a number above 0, got 0"),
        ({"channels": 2, "init_scale": -1.0}, r"init_scale must be a number above 0, got -1\.0"),
        ({"channels": 2, "tail_mass": 0.0}, r"tail_mass must lie between 0 and 1, got 0\.0"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        FactorizedPrior(**arguments)


def test_wrong_shapes_are_told():
    with pytest.raises(ShapeError, match=r"expects z \(batch, 3, \.\.\.\), got \(2, 4, 5\)"):
        FactorizedPrior(3)(torch.ones(2, 4, 5))


def test_compressai_is_not_imported():
    code = """
import sys
import numpy as np, torch
from ssmctx import registry
from ssmctx.entropy.factorized_prior import FactorizedPrior
prior = FactorizedPrior(2)
prior(torch.randn(1, 2, 3, 3))[1].sum().backward()
prior.loss().backward()
prior.update(force=True, update_quantiles=True)
FactorizedPrior(2).load_state_dict(prior.state_dict())
coder = registry.coders.create("rans")
encoder = coder.encoder()
encoder.encode(np.array([3, -2], np.int16), np.array([0, 1], np.uint8), prior.tables())
decoder = coder.decoder(encoder.finish())
print(*decoder.decode(np.array([0, 1], np.uint8), prior.tables()))
print("compressai" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["3", "-2", "False"]
