"""Symbols of 1 and -1 that become 0 where bits are worth it: fewer bytes, exact round trips, files that cost less."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mambaic.bundled import load_bundled
from models import M, latent
from sample_images import sample_image
from test_refine import cost

from ssmctx import MambaICEntropyModel
from ssmctx.codec import refine as refinement
from ssmctx.codec.refine import Recipe, lambda_at
from ssmctx.distributions import Gaussian, Laplace
from ssmctx.entropy.zeroing import ZEROINGS, rounded
from ssmctx.errors import ArgumentError


@given(
    r=st.floats(-4, 4),
    scale=st.floats(0.11, 8),
    zeroing=st.floats(0, 2),
    law=st.sampled_from([Laplace(), Gaussian()]),
)
def test_the_rule_is_that_of_its_formula(r, scale, zeroing, law):
    found = rounded(torch.tensor([r]), torch.tensor([scale]), law, zeroing).item()
    nearest = torch.round(torch.tensor(r)).item()
    zero, one = (law.likelihood(torch.tensor([x]), torch.tensor([scale])).item() for x in (0.0, 1.0))
    gain = zeroing * math.log(2) / 6 * math.log2(zero / one)
    more = r**2 - (r - nearest) ** 2
    if abs(gain - more) < 1e-5:
        return
    assert found == (0 if abs(nearest) == 1 and zeroing and more < gain else nearest)


def test_zero_is_plain_rounding_and_halves_stay():
    r = torch.tensor([0.5, -0.5, 1.5, -1.4, 0.7])
    assert torch.equal(rounded(r, torch.full_like(r, 1e-3), Laplace(), 0.0), torch.round(r))


def coding_model(**changes) -> MambaICEntropyModel:
    torch.manual_seed(1)
    model = MambaICEntropyModel(M, N=4, hyper_channels=6, context="none", distribution="laplace", **changes).eval()
    model.update()
    return model


@pytest.mark.parametrize("scales", [None, "integer", "float"])
@pytest.mark.parametrize("quality", [None, 1.5])
def test_fewer_bytes_and_exact_round_trips(quality, scales):
    model, y = coding_model(qualities=None if quality is None else 3, scales=scales), latent(2, 2, M, 24, 18) / 4
    sizes = []
    for zeroing in ZEROINGS:
        coded = model.compress(y, quality, zeroing)
        decoded = model.decompress(coded["strings"], coded["shape"])
        assert torch.equal(decoded["y_hat"], coded["y_hat"])
        sizes.append(sum(map(len, coded["strings"][0])))
    assert sizes == sorted(set(sizes), reverse=True)


def test_what_cannot_be():
    model, y = coding_model(), latent(2, 1, M, 4, 4)
    with pytest.raises(ArgumentError, match=r"zeroing must be a number from 0 on, got -0\.1"):
        model.compress(y, zeroing=-0.1)
    with pytest.raises(ArgumentError, match="got nan"):
        model.compress(y, zeroing=math.nan)


def test_an_effort_tries_it_and_keeps_what_costs_least(monkeypatch):
    codec, image = load_bundled("base"), sample_image(90, 130)
    monkeypatch.setattr(refinement, "EFFORTS", (None, Recipe(1, rate=1e-6)))  # a refinement that does nothing
    costs = []
    for quality in (0, 5):
        lmbda = lambda_at(codec.lmbda, quality)
        plain, tried = (codec.encode(image, quality, effort) for effort in (0, 1))
        costs.append(cost(codec, tried, image, lmbda) / cost(codec, plain, image, lmbda))
    assert costs[0] < 0.99  # at a low rate it pays
    assert max(costs) <= 1
