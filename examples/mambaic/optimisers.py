"""The two optimisers of a codec: of its weights, and of the quantiles of its factorised prior."""

from __future__ import annotations

import torch
from torch import nn


def adams(model: nn.Module, lr: float, aux_lr: float) -> tuple[torch.optim.Adam, torch.optim.Adam]:
    """Adam for all weights but the quantiles, and Adam for these, which `aux_loss` trains."""
    named = dict(sorted(model.named_parameters()))
    quantiles = [name for name in named if name.endswith(".quantiles")]
    weights = [weight for name, weight in named.items() if name not in quantiles]
    return (
        torch.optim.Adam(weights, lr=lr, fused=True),
        torch.optim.Adam([named[name] for name in quantiles], lr=aux_lr, fused=True),
    )
