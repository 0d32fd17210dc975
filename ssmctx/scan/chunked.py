"""The scan in plain torch, chunk by chunk: runs on any device, keeps states of one chunk only.

Forward and backward walk the sequence in chunks; within a chunk, exponentials, products and contractions are whole-
tensor operations and only
the recurrence itself steps. Backward keeps the state at each chunk's start and recomputes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmctx.scan.directions import from_sequences, scan_order, to_sequences

__all__ = ["cross_selective_scan"]

_CHUNK_ELEMENTS = 1 << 18
"""State elements that one chunk may hold. A fixed rule: it must never depend on the machine."""


def cross_selective_scan(
    u: Tensor, dt_raw: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, directions: Sequence[str]
) -> Tensor:
    """Chunked scan; arguments as `ssmctx.scan.cross_selective_scan` has them, all of one dtype."""
    _, height, width, _ = u.shape
    order = scan_order(height, width, directions).to(u.device)
    dt = F.softplus(dt_raw + dt_bias)
    v = _Scan.apply(to_sequences(u, order), to_sequences(dt, order), A, to_sequences(B, order), to_sequences(C, order))
    return from_sequences(v, order, height, width) + D.sum(0) * u


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


class _Scan(torch.autograd.Function):
    """v[l] = sum_n C[l, n] h[l, n]; u, dt (L, K, batch, d), A (K, d, N), B and C (L, K, batch, N)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        h = u.new_zeros(*u.shape[1:], A.shape[-1])
        v = torch.empty_like(u)
        starts = []
        for t in _chunks(len(u), h.numel()):
            starts.append(h)
            states, _ = _states(h, u[t], dt[t], A, B[t])
            v[t] = (states @ C[t, ..., None]).squeeze(-1)
            h = states[-1].clone()
        ctx.save_for_backward(u, dt, A, B, C, *starts)
        return v

    @staticmethod
    def backward(ctx: Any, dv: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        u, dt, A, B, C, *starts = ctx.saved_tensors
        du, ddt, dB, dC = torch.empty_like(u), torch.empty_like(dt), torch.empty_like(B), torch.empty_like(C)
        dA = torch.zeros_like(A)
        carry = torch.zeros_like(starts[0])  # gradient that reaches a chunk's last state from the next chunk
        for t, h in reversed(list(zip(_chunks(len(u), carry.numel()), starts, strict=True))):
            states, decay = _states(h, u[t], dt[t], A, B[t])
            dC[t] = (dv[t].unsqueeze(-2) @ states).squeeze(-2)
            grad = dv[t][..., None] * C[t][..., None, :]
            grad[-1] += carry
            steps = list(zip(grad.unbind(0), decay.unbind(0), strict=True))
            for (g, _), (g_next, a_next) in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
                torch.addcmul(g, a_next, g_next, out=g)
            carry = decay[0] * grad[0]
            dx = (grad @ B[t][..., None]).squeeze(-1)
            dB[t] = ((dt[t] * u[t]).unsqueeze(-2) @ grad).squeeze(-2)
            before = torch.cat([h[None], states[:-1]])
            exponent = grad.mul_(decay).mul_(before)  # gradient of dt * A
            dA += (exponent * dt[t][..., None]).sum((0, 2))
            ddt[t] = (exponent * A[:, None]).sum(-1) + dx * u[t]
            du[t] = dx * dt[t]
        return du, ddt, dA, dB, dC
