"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["drop_path"]


def drop_path(branch: Tensor, probability: float, training: bool) -> Tensor:
    """Stochastic depth: in training, zero the branch of some samples and scale up the others."""
    if not training or probability == 0:
        return branch
    keep = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= probability
    return branch * keep / (1 - probability)
