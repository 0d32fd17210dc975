"""The scan as its equation reads: one pixel after the other, in any floating dtype. Slow, and the truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmctx.scan.directions import scan_order

__all__ = ["cross_selective_scan"]


def cross_selective_scan(
    u: Tensor, dt_raw: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, directions: Sequence[str]
) -> Tensor:
    """Sequential scan; arguments as `ssmctx.scan.cross_selective_scan` has them, all of one dtype."""
    batch, height, width, channels = u.shape
    total = torch.zeros_like(u).flatten(1, 2)
    for k, order in enumerate(scan_order(height, width, directions).unbind(1)):
        dt = F.softplus(dt_raw[..., k, :] + dt_bias[k]).flatten(1, 2)
        u_k, B_k, C_k = u.flatten(1, 2), B[..., k, :].flatten(1, 2), C[..., k, :].flatten(1, 2)
        h = u.new_zeros(batch, channels, A.shape[-1])
        v: list[Tensor] = [torch.empty(0)] * (height * width)
        for pixel in order.tolist():
            decay = torch.exp(dt[:, pixel, :, None] * A[k])
            h = decay * h + (dt[:, pixel] * u_k[:, pixel])[..., None] * B_k[:, pixel, None, :]
            v[pixel] = (h * C_k[:, pixel, None, :]).sum(-1) + D[k] * u_k[:, pixel]
        total = total + torch.stack(v, dim=1)
    return total.view(u.shape)
