"""The scan on CPUs: numba kernels, shared out over threads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssmctx import jit
from ssmctx.scan.backend import Backend
from ssmctx.scan.cpu.arrays import Gradients, Outputs, Scan
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

    u, (count, channels, states) = inputs.u, inputs.A.shape
    parts, blocks = _split(u, inputs.directions)
    v, last = u.new_empty(parts, *u.shape), torch.empty_like(inputs.h0)
    chunks = -(-u.shape[1] * u.shape[2] // CHUNK) if keep else 0
    starts = u.new_empty(u.shape[0], count, chunks, states, channels)
    outputs = Outputs(*_addresses(v, last))
    _run(kernels.scan_forward(), inputs, dt_weight, starts, parts, blocks, outputs)
    return _add_up(v), last, starts


def backward(
    dv: Tensor, dlast: Tensor, inputs: ScanInputs, dt_weight: Tensor | None = None, kept: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Gradients of the eight tensors, and of dt_weight; see `ssmctx.scan.backend.Backend`."""
    from ssmctx.scan.cpu import kernels

    starts = forward_keeping(inputs, dt_weight)[2] if kept is None else kept
    u, dt_raw, A, B, C, D, _, h0, directions, _ = inputs
    parts, blocks = _split(u, directions)
    states, rank = A.shape[-1], 0 if dt_weight is None else dt_weight.shape[-1]
    du, draw = u.new_empty(parts, *u.shape), u.new_empty(blocks if rank else 1, *dt_raw.shape)
    dB, dC, dh0 = u.new_empty(blocks, *B.shape), u.new_empty(blocks, *C.shape), torch.empty_like(h0)
    fixed = u.new_empty(u.shape[0], *D.shape, states + rank + 2)
    gradients = Gradients(*_addresses(dv, dlast, du, draw, dB, dC, fixed, dh0))
    _run(kernels.scan_backward(), inputs, dt_weight, starts, parts, blocks, gradients)
    # copied, for an operator of torch may not return views of each other
    dA, dweight, dD, dbias = (x.clone() for x in torch.split(fixed.sum(0), [states, rank, 1, 1], dim=-1))
    found = (_add_up(du), _add_up(draw), dA, _add_up(dB), _add_up(dC), dD[..., 0], dbias[..., 0], dh0)
    return found if dt_weight is None else (*found, dweight)


def _run(
    kernel: Any,
    inputs: ScanInputs,
    dt_weight: Tensor | None,
    starts: Tensor,
    parts: int,
    blocks: int,
    others: Outputs | Gradients,
) -> None:
    import numpy as np

    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = inputs
    (batch, height, width, channels), (count, _, states) = u.shape, A.shape
    weight = u.new_empty(0) if dt_weight is None else dt_weight
    walks = _walks(directions, height, width)
    tasks = parts * batch * blocks
    scan = Scan(
        0,
        0,
        batch,
        height * width,
        channels,
        count,
        states,
        0 if dt_weight is None else dt_weight.shape[-1],
        int(softplus),
        parts,
        starts.shape[2],
        walks.ctypes.data,
        *_addresses(u, dt_raw, weight, A, B, C, D, dt_bias, h0, starts),
    )
    call = np.array([*scan, *others], dtype=np.int64)
    share_out(kernel.ctypes, call, tasks)
    if call[Scan._fields.index("finished")] != tasks:  # a C function cannot raise
        raise MemoryError("the cpu scan found no memory for the arrays that each of its threads works on")


def _addresses(*tensors: Tensor) -> list[int]:
    return [x.data_ptr() for x in tensors]


@functools.lru_cache(maxsize=256)
def _walks(directions: tuple[str, ...], height: int, width: int) -> Any:
    """`Scan.walks`, a numpy array."""
    import numpy as np

    last = height * width - 1
    walks = {
        "row": (0, width, 1, width),
        "column": (0, height, width, 1),
        "row-reversed": (last, width, -1, -width),
        "column-reversed": (last, height, -width, -1),
    }
    return np.array([walks[name] for name in directions], dtype=np.int64)


def _split(u: Tensor, directions: Sequence[str]) -> tuple[int, int]:
    """Parts that the output is made in, and blocks of channels.

    With few blocks each direction is a task of its own, so that there is something to share out; the parts are then
    added up in the order in which one task would have added them, so that this changes no bit. Large images, whose
    parts take memory, are split only where threads would stand idle.
    """
    blocks = -(-u.shape[-1] // LANES)
    wanted = _FEW_TASKS if u.numel() < _LARGE else torch.get_num_threads()
    return (len(directions) if u.shape[0] * blocks < wanted else 1), blocks


def _add_up(parts: Tensor) -> Tensor:
    """Sum over the first dimension, in order; no view of several parts, which would keep all of them in memory."""
    if parts.shape[0] == 1:
        return parts[0]
    total = torch.add(parts[0], parts[1])
    for part in parts[2:]:
        total += part
    return total
