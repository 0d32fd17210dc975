"""Adapter to the CUDA kernel of the package mamba-ssm, for those who have it."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ssmctx.constants import constant
from ssmctx.errors import ArgumentError
from ssmctx.scan.backend import Backend
from ssmctx.scan.directions import from_sequences, scan_order, to_sequences
from ssmctx.scan.inputs import ScanInputs

__all__ = ["backend", "forward"]


def backend() -> Backend:
    """The `mamba_ssm` backend.

    Its kernel starts from zero states. To ask whether h0 is zero waits for the GPU and fails under vmap.
    """
    return Backend("mamba_ssm", unavailable, forward, devices=("cuda",), dtypes=(torch.float32,), max_states=256)


def unavailable() -> str | None:
    """Why the backend cannot run here; None when it can."""
    if not find_spec("mamba_ssm"):
        return "mamba-ssm is not installed: pip install 'ssmctx[cuda]'"
    return None if torch.cuda.is_available() else "no CUDA device"


def forward(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """v and the last state; see `ssmctx.scan.backend.Backend`.

    Raises:
        ArgumentError: h0 is not zero, which that kernel cannot take.
    """
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = inputs
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if bool(h0.any()):
        raise ArgumentError("scan backend 'mamba_ssm' starts from zero states, got others: choose another backend")
    order = constant(scan_order, u.shape[1], u.shape[2], directions, device=u.device)
    batch, count, channels, states = len(u), *A.shape
    # its layout is (batch, channels, L), directions as groups of channels
    x, dt, B, C = (to_sequences(t, order).permute(2, 1, 3, 0) for t in (u, dt_raw, B, C))
    v, last = selective_scan_fn(
        x.reshape(batch, count * channels, -1),
        dt.reshape(batch, count * channels, -1),
        A.flatten(0, 1),
        B.contiguous(),
        C.contiguous(),
        D.flatten(),
        delta_bias=dt_bias.flatten(),
        delta_softplus=softplus,
        return_last_state=True,
    )
    sequences = v.reshape(batch, count, channels, -1).permute(3, 1, 0, 2)
    merged = from_sequences(sequences, order, u.shape[1], u.shape[2])
    return merged, last.reshape(batch, count, channels, states)
