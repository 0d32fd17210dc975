"""The scan as its equation reads: one pixel after the other, in any floating dtype.

Slow; the other backends are tested against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmctx.scan.backend import Backend
from ssmctx.scan.directions import scan_order
from ssmctx.scan.inputs import ScanInputs

__all__ = ["backend", "forward"]


def backend() -> Backend:
    """The `reference` backend."""
    return Backend("reference", lambda: None, forward)


def forward(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """v and the last state; see `ssmctx.scan.backend.Backend`."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = inputs
    _, height, width, _ = u.shape
    total = torch.zeros_like(u).flatten(1, 2)
    last = []
    for k, order in enumerate(scan_order(height, width, directions).unbind(1)):
        dt = dt_raw[..., k, :] + dt_bias[k]
        dt = F.softplus(dt) if softplus else dt
        pixels = [x.flatten(1, 2).unbind(1) for x in (u, dt, B[..., k, :], C[..., k, :])]
        h = h0[:, k]
        v: list[Tensor] = [torch.empty(0)] * (height * width)
        for pixel in order.tolist():
            u_l, dt_l, B_l, C_l = (x[pixel] for x in pixels)
            h = torch.exp(dt_l[..., None] * A[k]) * h + (dt_l * u_l)[..., None] * B_l[:, None]
            v[pixel] = (h * C_l[:, None]).sum(-1) + D[k] * u_l
        total = total + torch.stack(v, dim=1)
        last.append(h)
    return total.view(u.shape), torch.stack(last, dim=1)
