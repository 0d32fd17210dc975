"""Coding tables and the auxiliary loss of any latent codec, CompressAI's included."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.distributions import ScaleGrid

__all__ = ["aux_loss", "update_tables"]

_GRID = ScaleGrid()  # CompressAI's scales


def update_tables(codec: Any, force: bool = True, update_quantiles: bool = False) -> bool:
    """Build a codec's coding tables: by its own `update`, or that of each part that has one.

    A bare latent codec of CompressAI has no `update`; its entropy models get what `CompressionModel.update` gives.

    Args:
        codec: a model or latent codec; or what holds one.
        force: build them again if they exist.
        update_quantiles: compute the quantiles of factorised priors first.

    Returns:
        Whether anything was built.
    """
    if callable(getattr(codec, "update_scale_table", None)):
        levels = torch.linspace(math.log(_GRID.minimum), math.log(_GRID.maximum), _GRID.levels)
        return bool(codec.update_scale_table(levels.exp().tolist(), force=force))
    if callable(getattr(codec, "update", None)) and not isinstance(codec, (nn.ModuleDict, nn.ParameterDict)):
        options = {"update_quantiles": True} if update_quantiles else {}
        return bool(codec.update(force=force, **options))
    parts = list(codec.children()) if isinstance(codec, nn.Module) else []
    return any([update_tables(part, force, update_quantiles) for part in parts])  # noqa: C419 - all of them


def aux_loss(codec: nn.Module) -> Tensor:
    """The sum of the losses that fit the quantiles of factorised priors; zero where there are none."""
    # a Tensor and no Parameter where they are pruned or parametrised
    priors: list[Any] = [m for m in codec.modules() if isinstance(getattr(m, "quantiles", None), Tensor)]
    losses = [prior.loss() for prior in priors]
    return torch.stack(losses).sum() if losses else torch.zeros(())
