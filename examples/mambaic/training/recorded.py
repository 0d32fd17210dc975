"""CUDA graphs of a training step's transforms: what g_a and g_s ask of a GPU, both ways, is recorded and replayed."""

from __future__ import annotations

import torch
from torch import Tensor

from mambaic.codec import MambaIC
from ssmctx.constants import holding
from ssmctx.layers.transforms import pad_image

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class RecordedTransforms:
    """g_a and g_s of a model as CUDA graphs, for crops of one shape at a time.

    A GPU then need not wait for the host, which launches some thousand kernels a step. In evaluation mode, and in
    copies of the model that are made from its state, they compute as before.

    Args:
        model: in training mode, on a CUDA device.
        precision: "bf16" and "fp16" compute as under `torch.autocast`, "no" in float32.
    """

    def __init__(self, model: MambaIC, precision: str) -> None:
        self._model, self._dtype = model, _DTYPES.get(precision)
        self._shape: torch.Size | None = None

    def fit(self, x: Tensor) -> None:
        """Record anew if crops x (batch, 3, H, W) have another shape than those before."""
        x = pad_image(x, self._model.stride)
        if x.shape == self._shape:
            return
        g_a, g_s = self._model.g_a, self._model.g_s
        for module in (g_a, g_s):
            module.__dict__.pop("forward", None)  # a recording stands there
        y = g_a(x[:1]).detach()
        y_hat = y.new_zeros(len(x), *y.shape[1:], dtype=x.dtype).requires_grad_()
        autocast = torch.autocast(x.device.type, self._dtype, enabled=self._dtype is not None, cache_enabled=False)
        with autocast, holding() as self._constants:
            torch.cuda.make_graphed_callables((g_a, g_s), ((torch.zeros_like(x),), (y_hat,)))
        self._shape = x.shape
