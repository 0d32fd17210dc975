"""Small models for the tests."""

from __future__ import annotations

import torch
from torch import nn

from ssmctx import ChannelSpatialContext, MambaICEntropyModel

M, SLICES, HYPER = 10, 5, 6


def context(**changes) -> ChannelSpatialContext:
    torch.manual_seed(1)
    return ChannelSpatialContext(**{"M": M, "num_slices": SLICES, "d_state": 3, "window_size": 4, **changes}).eval()


def entropy_model(context_model: nn.Module | None = None) -> MambaICEntropyModel:
    """An untrained model whose scales are spread out, ready to code."""
    torch.manual_seed(2)
    model = MambaICEntropyModel(M, hyper_channels=HYPER, context=context_model or context(), N=4).eval()
    with torch.no_grad():
        for head in model.context.head:
            head[-1].weight *= 10
    model.update()
    return model


def latent(seed: int, *shape: int) -> torch.Tensor:
    return 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
