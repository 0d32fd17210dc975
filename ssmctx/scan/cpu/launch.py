"""The scan on CPUs: numba kernels, shared out over threads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssmctx import jit
from ssmctx.scan.backend import Backend
from ssmctx.scan.cpu.arrays import Gradients, Inputs
from ssmctx.scan.cpu.sizes import CHUNK, LANES, MAX_STATES
from ssmctx.scan.cpu.threads import share_out
from ssmctx.scan.inputs import ScanInputs

__all__ = ["backend", "backward", "forward", "forward_keeping"]

_FEW_TASKS = 8
"""Tasks (an image and a block of channels each) below which each direction is a task of its own."""

_LARGE = 1 << 22
"""Elements of u from which on this is so only with fewer tasks than threads."""


def backend() -> Backend:
    """The `cpu` backend."""
    return Backend(
        "cpu",
        jit.unavailable,
        forward,
        backward,
        devices=("cpu",),
        dtypes=(torch.float32,),
        max_states=MAX_STATES,
        low_rank=True,
        forward_keeping=forward_keeping,
        priority=10,
    )


def forward(inputs: ScanInputs, dt_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """v and the last state; see `ssmctx.scan.backend.Backend`."""
    v, last, _ = _forward(inputs, dt_weight, keep=False)
    return v, last


def forward_keeping(inputs: ScanInputs, dt_weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """With the states before each chunk of positions, (batch, K, chunks, N, d)."""
    return _forward(inputs, dt_weight, keep=True)


def _forward(inputs: ScanInputs, dt_weight: Tensor | None, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    from ssmctx.scan.cpu import kernels

    u, softplus = inputs.u, inputs.softplus
    parts, blocks = _split(u, inputs.directions)
    v, last = u.new_empty(parts, *u.shape), torch.empty_like(inputs.h0)
    (count, channels, states), length = inputs.A.shape, u[0, ..., 0].numel()
    starts = u.new_empty(len(u), count, -(-length // CHUNK) if keep else 0, states, channels)
    arrays, outputs = _arrays(inputs, dt_weight), (_maps(v, length), last.numpy(), starts.numpy())
    share_out(
        lambda taken: kernels.scan_forward(arrays, softplus, parts, taken, *outputs),
        parts * len(u) * blocks,
    )
    return _add_up(v), last, starts


def backward(
    dv: Tensor, dlast: Tensor, inputs: ScanInputs, dt_weight: Tensor | None = None, kept: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Gradients of the eight tensors, and of dt_weight; see `ssmctx.scan.backend.Backend`."""
    from ssmctx.scan.cpu import kernels

    starts = forward_keeping(inputs, dt_weight)[2] if kept is None else kept
    u, dt_raw, A, B, C, D, _, h0, directions, softplus = inputs
    parts, blocks = _split(u, directions)
    batch, (count, channels, states) = len(u), A.shape
    rank = 0 if dt_weight is None else dt_weight.shape[-1]
    du, draw = u.new_empty(parts, *u.shape), u.new_empty(blocks if rank else 1, *dt_raw.shape)
    dA, dweight = u.new_empty(batch, count, states, channels), u.new_empty(batch, count, rank, channels)
    dB, dC = u.new_empty(blocks, *B.shape), u.new_empty(blocks, *C.shape)
    dD, dbias, dh0 = u.new_empty(batch, *D.shape), u.new_empty(batch, *D.shape), torch.empty_like(h0)
    length = u[0, ..., 0].numel()
    arrays, incoming = _arrays(inputs, dt_weight), (_maps(dv, length), dlast.numpy(), starts.numpy())
    gradients = Gradients(
        u=_maps(du, length),
        raw=_maps(draw, length, count),
        dt_weight=dweight.numpy(),
        A=dA.numpy(),
        B=_maps(dB, length, count),
        C=_maps(dC, length, count),
        D=dD.numpy(),
        dt_bias=dbias.numpy(),
        h0=dh0.numpy(),
    )
    share_out(
        lambda taken: kernels.scan_backward(*incoming, arrays, softplus, parts, taken, gradients),
        parts * batch * blocks,
    )
    found = (_add_up(du), _add_up(draw), _summed(dA), _add_up(dB), _add_up(dC), dD.sum(0), dbias.sum(0), dh0)
    return found if dt_weight is None else (*found, _summed(dweight))


def _summed(parts: Tensor) -> Tensor:
    """(batch, K, rows, d) as (K, d, rows), summed over the batch."""
    return parts.sum(0).mT.contiguous()


def _split(u: Tensor, directions: Sequence[str]) -> tuple[int, int]:
    """Parts that the output is made in, and blocks of channels.

    With few blocks each direction is a task of its own, so that there is something to share out; the parts are then
    added up in the order in which one task would have added them, so that this changes no bit. Large images, whose
    parts take memory, are split only where threads would stand idle.
    """
    blocks = -(-u.shape[-1] // LANES)
    wanted = _FEW_TASKS if u.numel() < _LARGE else torch.get_num_threads()
    return (len(directions) if len(u) * blocks < wanted else 1), blocks


def _add_up(parts: Tensor) -> Tensor:
    """Sum over the first dimension, in order; no view of several parts, which would keep all of them in memory."""
    if len(parts) == 1:
        return parts[0]
    total = torch.add(parts[0], parts[1])
    for part in parts[2:]:
        total += part
    return total


def _maps(x: Tensor, length: int, count: int = 1) -> object:
    """As numpy, (maps, L, K, c): pixels in a row, all dimensions before them made one."""
    return x.view(-1, length, count, x.shape[-1]).numpy()


def _arrays(inputs: ScanInputs, dt_weight: Tensor | None) -> Inputs:
    """The kernels' inputs: pixels flat, A in units of ln 2 with channels last, directions as walks."""
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, _ = inputs
    import numpy as np

    height, width = u.shape[1:3]
    last = height * width - 1
    walks = {
        "row": (0, width, 1, width),
        "column": (0, height, width, 1),
        "row-reversed": (last, width, -1, -width),
        "column-reversed": (last, height, -width, -1),
    }
    # without a product of step sizes, one of rank 0; parameters are copied, for numpy() would forbid for good to resize
    # their storage, as FSDP does
    weight = u.new_empty(*D.shape, 0) if dt_weight is None else dt_weight
    weight = weight.mT.clone(memory_format=torch.contiguous_format)
    return Inputs(
        u=_maps(u, last + 1),
        raw=_maps(dt_raw, last + 1, len(directions)),
        dt_weight=weight.numpy(),
        A=(A / math.log(2)).mT.contiguous().numpy(),
        B=_maps(B, last + 1, len(directions)),
        C=_maps(C, last + 1, len(directions)),
        D=D.clone().numpy(),
        dt_bias=dt_bias.clone().numpy(),
        h0=h0.numpy(),
        walks=np.array([walks[name] for name in directions], dtype=np.int64),
    )
