"""Priors for tests: ours beside CompressAI's, and one in a model."""

from __future__ import annotations

import torch
from torch import nn

from ssmctx.distributions import Gaussian
from ssmctx.entropy.factorized_prior import FactorizedPrior
from ssmctx.entropy.stored_tables import StoredTables


def pair(channels=3, seed=0, **kwargs):
    """CompressAI's and ours, with the same weights, none of them special."""
    from compressai.entropy_models import EntropyBottleneck

    torch.manual_seed(seed)
    theirs = EntropyBottleneck(channels, **kwargs)
    torch.manual_seed(seed)
    ours = FactorizedPrior(channels, **kwargs)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))
    with torch.no_grad():
        for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
            a.add_(torch.randn_like(a) / 2)
            b.copy_(a)
    return theirs, ours


def updated(channels=3, seed=0):
    _, prior = pair(channels, seed)
    prior.update(update_quantiles=True)
    return prior


def layout(module):
    return [(name, value.dtype, value.shape) for name, value in module.state_dict().items()]


class Parent(nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior
        self.stored = StoredTables(Gaussian().tables(), "gaussian")
