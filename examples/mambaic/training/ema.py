"""A running average of the weights, which codes a little better than the weights of any one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    r"""A copy of `model` whose `update_parameters(model)` moves it towards the model.

    $$ \bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta, \quad d = \min(\text{decay}, \tfrac{1 + n}{10 + n}) $$

    n counts the updates; the smaller d of the first ones lets the average forget the start.
    """

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        n = int(updates)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=update)
