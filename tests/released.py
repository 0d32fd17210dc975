"""Small models and state dicts in the released layout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ssmctx import MambaICEntropyModel
from ssmctx.compat.released import ReleasedMambaIC
from ssmctx.compat.released_keys import released_layout
from ssmctx.context.released import ReleasedContext

M, SLICES = 6, 3
SIZES = {"N": 2, "M": 4, "depths": (1, 0, 2, 1), "num_slices": 2, "hyper_channels": 3, "d_state": 2}


def released_context() -> ReleasedContext:
    """An untrained context whose predictions and refinements are far from zero."""
    torch.manual_seed(3)
    context = ReleasedContext(M, SLICES, d_state=2).eval()
    with torch.no_grad():
        for layer in [*context.mean_head, *context.scale_head]:
            layer.out_conv.weight *= 10
        for layer in context.residual:
            layer[-1].weight *= 10
    return context


def released_entropy_model() -> MambaICEntropyModel:
    torch.manual_seed(2)
    model = MambaICEntropyModel(M, hyper_channels=4, context=released_context(), N=2).eval()
    model.update()
    return model


def released_state_dict(model: ReleasedMambaIC) -> dict[str, Tensor]:
    """What the authors' code would have saved for `model`."""
    weights = model.state_dict()
    state_dict: dict[str, Tensor] = {}
    for name, key in released_layout(model).items():
        if key.same_as:
            state_dict[name] = state_dict[key.same_as]
        elif key.value is not None:
            state_dict[name] = key.value.float()
        elif key.ours:
            state_dict[name] = weights[key.ours].reshape(key.shape or weights[key.ours].shape)
        else:
            state_dict[name] = torch.zeros(key.shape or (0,))
    return state_dict


def filler(shared: Path) -> ModuleType:
    """The rule that the golden vectors' weights and inputs were filled by."""
    spec = importlib.util.spec_from_file_location("fill", shared / "golden" / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    return fill
