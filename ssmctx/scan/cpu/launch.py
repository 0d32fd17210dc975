"""The scan on CPUs: numba kernels, shared out over threads."""

from __future__ import annotations

import functools
from array import array
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
    outputs = Outputs(v.data_ptr(), last.data_ptr())
    _run(kernels.scan_forward(), inputs, dt_weight, starts, parts, blocks, outputs)
    return _add_up(v), last, starts


def backward(
    dv: Tensor, dlast: Tensor, inputs: ScanInputs, dt_weight: Tensor | None = None, kept: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """Gradients of the eight tensors, and of dt_weight; see `ssmctx.scan.backend.Backend`."""
    from ssmctx.scan.cpu import kernels

    starts = forward_keeping(inputs, dt_weight)[2] if kept is None else kept
    u, dt_raw, A, B, C, D, _, h0, directions, _ = inputs
    parts, blocks = _split(u, directions)
    states, rank = A.shape[-1], 0 if dt_weight is None else dt_weight.shape[-1]
    du, dh0 = u.new_empty(parts, *u.shape), torch.empty_like(h0)
    fixed = u.new_empty(u.shape[0], *D.shape, states + rank + 2)
    if dt_weight is None:
        weights = [dt_raw.new_empty(1, *dt_raw.shape), B.new_empty(blocks, *B.shape), C.new_empty(blocks, *C.shape)]
        of_weights = [x.data_ptr() for x in weights]
    else:
        weights = [u.new_empty(blocks, *dt_raw.shape[:-1], rank + 2 * states)]
        first, size = weights[0].data_ptr(), u.element_size()
        of_weights = [first, first + rank * size, first + (rank + states) * size]
    pointers = [x.data_ptr() for x in (dv, dlast, du, fixed, dh0)]
    gradients = Gradients(*pointers[:3], *of_weights, *pointers[3:])
    _run(kernels.scan_backward(), inputs, dt_weight, starts, parts, blocks, gradients)
    # copied, for an operator of torch may not return views of each other
    dA, dweight, dD, dbias = (x.clone() for x in fixed.sum(0).split_with_sizes([states, rank, 1, 1], dim=-1))
    draw, *others = map(_add_up, weights)
    dB, dC = others or (None, None)
    found = (_add_up(du), draw, dA, dB, dC, dD[..., 0], dbias[..., 0], dh0)
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
    u, dt_raw, A, B, C, D, dt_bias, h0, directions, softplus = inputs
    (batch, height, width, channels), (count, _, states) = u.shape, A.shape
    if dt_weight is None:
        rank, rows = 0, (channels, states)
    else:
        rank = dt_weight.shape[-1]
        rows = (rank + 2 * states,) * 2
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
        rank,
        int(softplus),
        parts,
        starts.shape[2],
        *rows,
        walks.buffer_info()[0],
        u.data_ptr(),
        dt_raw.data_ptr(),
        0 if dt_weight is None else dt_weight.data_ptr(),
        *(x.data_ptr() for x in (A, B, C, D, dt_bias, h0, starts)),
    )
    call = array("q", (*scan, *others))
    share_out(kernel.ctypes, call, tasks)
    if call[Scan._fields.index("finished")] != tasks:  # a C function cannot raise
        raise MemoryError("the cpu scan found no memory for the arrays that each of its threads works on")


@functools.lru_cache(maxsize=256)
def _walks(directions: tuple[str, ...], height: int, width: int) -> array[int]:
    """`Scan.walks`."""
    last = height * width - 1
    walks = {
        "row": (0, width, 1, width),
        "column": (0, height, width, 1),
        "row-reversed": (last, width, -1, -width),
        "column-reversed": (last, height, -width, -1),
    }
    return array("q", [number for name in directions for number in walks[name]])


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
    first, *others = parts.unbind()
    if not others:
        return first
    total = first + others[0]
    for part in others[1:]:
        total += part
    return total
