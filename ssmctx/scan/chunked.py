"""The scan in plain torch, chunk by chunk: runs on any device, keeps states of one chunk only.

Forward and backward walk the sequence in chunks; within a chunk, exponentials, products and contractions are
whole-tensor operations and only the recurrence itself steps. Backward finds the state at each chunk's start again and
recomputes the rest.

Results must not depend on the number of threads. Torch shares out a tensor by threads, and what does not fill a whole
vector of a thread's share goes through other instructions; so only operations are used for which both give the same
bits (softplus and sigmoid do not), and contractions are products and sums rather than BLAS calls.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmctx.constants import constant
from ssmctx.scan.backend import Backend
from ssmctx.scan.directions import from_sequences, scan_order, to_sequences
from ssmctx.scan.inputs import ScanInputs

__all__ = ["backend", "backward", "differentiable", "forward"]

_CHUNK_ELEMENTS = 1 << 18
"""State elements that one chunk may hold. A fixed rule: it must never depend on the machine."""


def backend() -> Backend:
    """The `torch` backend."""
    return Backend("torch", lambda: None, forward, backward, priority=1, differentiable=differentiable)


def forward(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """v and the last state; see `ssmctx.scan.backend.Backend`."""
    u, A, D, h0 = inputs.u, inputs.A, inputs.D, inputs.h0
    order, x, dt, B, C = _sequences(inputs)
    v = torch.empty_like(x)
    h = h0.transpose(0, 1)
    for t in _chunks(len(x), h.numel()):
        states, decay = _states(h, x[t], dt[t], A, B[t])
        torch.sum(torch.mul(states, C[t][..., None, :], out=decay), -1, out=v[t])
        h = states[-1].clone()
    return from_sequences(v, order, u.shape[1], u.shape[2]) + D.sum(0) * u, h.transpose(0, 1).contiguous()


def backward(dv: Tensor, dlast: Tensor, inputs: ScanInputs) -> tuple[Tensor, ...]:
    """Gradients of the eight tensors; see `ssmctx.scan.backend.Backend`."""
    u, dt_raw, A, B, C, D, dt_bias, h0, _, softplus = inputs
    order = _order(inputs)
    raw = to_sequences(dt_raw + dt_bias, order)
    dt = _softplus(raw) if softplus else raw
    x, g, B, C = (to_sequences(t, order) for t in (u, dv, B, C))
    dx, draw, dB, dC = torch.empty_like(x), torch.empty_like(dt), torch.empty_like(B), torch.empty_like(C)
    dA = torch.zeros_like(A)
    chunks, starts = list(_chunks(len(x), h0.numel())), [h0.transpose(0, 1)]
    for t in chunks[:-1]:
        starts.append(_states(starts[-1], x[t], dt[t], A, B[t])[0][-1].clone())
    carry = dlast.transpose(0, 1)  # gradient of a chunk's last state by what comes after it
    for t, h in zip(reversed(chunks), reversed(starts), strict=True):
        states, decay = _states(h, x[t], dt[t], A, B[t])
        dC[t] = (g[t][..., None] * states).sum(-2)
        grad = g[t][..., None] * C[t][..., None, :]
        grad[-1] += carry
        steps = list(zip(grad.unbind(0), decay.unbind(0), strict=True))
        for (now, _), (after, a) in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
            torch.addcmul(now, a, after, out=now)
        carry = decay[0] * grad[0]
        grad_dtx = (grad * B[t][..., None, :]).sum(-1)
        dB[t] = ((dt[t] * x[t])[..., None] * grad).sum(-2)
        exponent = grad.mul_(decay).mul_(torch.cat([h[None], states[:-1]]))  # gradient of dt * A
        dA += (exponent * dt[t][..., None]).sum((0, 2))
        draw[t] = (exponent * A[:, None]).sum(-1) + grad_dtx * x[t]
        dx[t] = grad_dtx * dt[t]
    if softplus:
        draw *= F.logsigmoid(raw).exp_()
    size = (u.shape[1], u.shape[2])
    du = from_sequences(dx, order, *size) + D.sum(0) * dv
    dD = (dv * u).sum((0, 1, 2)).expand_as(D).contiguous()
    maps = (_to_maps(t, order, *size) for t in (draw, dB, dC))
    draw_map, dB_map, dC_map = maps
    return du, draw_map, dA, dB_map, dC_map, dD, draw.sum((0, 2)), carry.transpose(0, 1).contiguous()


def differentiable(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """The same as `forward`, without overwriting anything and so with all states in memory.

    Autograd differentiates it any number of times, and the transforms of `torch.func` go through it.
    """
    u, A, D, h0 = inputs.u, inputs.A, inputs.D, inputs.h0
    order, x, dt, B, C = _sequences(inputs)
    decay = torch.exp(dt[..., None] * A[:, None])
    driven = (dt * x)[..., None] * B[..., None, :]
    h, states = h0.transpose(0, 1), []
    for a, b in zip(decay.unbind(0), driven.unbind(0), strict=True):
        h = torch.addcmul(b, a, h)
        states.append(h)
    v = (torch.stack(states) * C[..., None, :]).sum(-1)
    return from_sequences(v, order, u.shape[1], u.shape[2]) + D.sum(0) * u, h.transpose(0, 1).contiguous()


def _order(inputs: ScanInputs) -> Tensor:
    return constant(scan_order, *inputs.u.shape[1:3], inputs.directions, device=inputs.u.device)


def _sequences(inputs: ScanInputs) -> tuple[Tensor, ...]:
    """The order of the pixels, and in that order u, the step sizes, B and C."""
    order, dt = _order(inputs), inputs.dt_raw + inputs.dt_bias
    dt = _softplus(dt) if inputs.softplus else dt
    return order, *(to_sequences(x, order) for x in (inputs.u, dt, inputs.B, inputs.C))


def _softplus(x: Tensor) -> Tensor:
    return -F.logsigmoid(-x)


def _to_maps(sequences: Tensor, order: Tensor, height: int, width: int) -> Tensor:
    """(L, K, batch, c) sequences as (batch, H, W, K, c) maps."""
    maps = [from_sequences(sequences[:, k : k + 1], order[:, k : k + 1], height, width) for k in range(order.shape[1])]
    return torch.stack(maps, dim=3)


def _chunks(length: int, state_elements: int) -> Iterator[slice]:
    size = max(1, min(length, _CHUNK_ELEMENTS // state_elements))
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _states(h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """States after each position of a chunk, (T, K, batch, d, N), and their decays; h is the state before it."""
    decay = torch.exp(dt[..., None] * A[:, None])
    states = (dt * u)[..., None] * B[..., None, :]
    for a, x in zip(decay.unbind(0), states.unbind(0), strict=True):
        torch.addcmul(x, a, h, out=x)
        h = x
    return states, decay
