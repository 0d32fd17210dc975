"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmctx.errors import ArgumentError

__all__ = ["check_drop_path", "drop_path"]


def check_drop_path(owner: str, probability: float) -> None:
    """Raise ArgumentError unless the probability is in [0, 1)."""
    if not 0 <= probability < 1:
        raise ArgumentError(f"{owner}: drop_path must lie in [0, 1), got {probability!r}")


def drop_path(branch: Tensor, probability: float, training: bool) -> Tensor:
    """Stochastic depth: in training, zero the branch of some samples and scale up the others."""
    if not training or probability == 0:
        return branch
    keep = torch.rand(branch.shape[0], 1, 1, 1, device=branch.device) >= probability
    return branch * keep / (1 - probability)
