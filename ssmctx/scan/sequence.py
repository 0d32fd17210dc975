"""The selective scan of sequences, with the signature of mamba_ssm's `selective_scan_fn`."""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmctx.errors import ShapeError
from ssmctx.scan.checks import check_values
from ssmctx.scan.operator import scan

__all__ = ["selective_scan"]


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
    *,
    initial_state: Tensor | None = None,
    backend: str = "auto",
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: Literal[True],
    initial_state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Selective scan along sequences.

    $$ h_l = e^{\Delta_l A} h_{l-1} + \Delta_l B_l u_l, \qquad out_l = (C_l \cdot h_l + D u_l)\,\mathrm{SiLU}(z_l) $$

    Args:
        u: input.
        delta: step sizes, before bias and softplus.
        A: decay rates, real and negative.
        B: input weights, fixed or per position.
        C: output weights, fixed or per position.
        D: skip weights.
        z: gate.
        delta_bias: added to delta.
        delta_softplus: whether the sum goes through softplus.
        return_last_state: also return the state after the last position.
        initial_state: state before the first position; None is zero.
        backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Shape:
        u, delta, z (batch, d, L); A (d, N); B and C (d, N), (batch, N, L) or (batch, groups, N, L), of which group g
        serves the channels g * d / groups and on; D, delta_bias (d); states (batch, d, N).

    Returns:
        (batch, d, L) in u's dtype and, if asked for, the last state, float32 or wider.

    Raises:
        ShapeError: an argument's shape does not fit the others.
        ArgumentError: A is not negative.
        NonFiniteError: an argument holds NaN or an infinity.

    Source:
        Mamba (Gu and Dao, 2023), algorithm 2; MambaIC section 3.1, equations 7-9.

    Examples:
        >>> import torch
        >>> from ssmctx.scan import selective_scan
        >>> u = torch.randn(2, 8, 100); B = torch.randn(2, 16, 100)
        >>> selective_scan(u, torch.rand(2, 8, 100), -torch.rand(8, 16), B, B).shape
        torch.Size([2, 8, 100])
    """
    if u.dim() != 3 or u.numel() == 0:
        raise ShapeError(f"u must be (batch, d, L) with every size at least 1, got {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ShapeError(f"A must be ({channels}, N) for u {tuple(u.shape)}, got {tuple(A.shape)}")
    states = A.shape[1]
    D = u.new_zeros(channels) if D is None else D
    delta_bias = u.new_zeros(channels) if delta_bias is None else delta_bias
    h0 = u.new_zeros(batch, channels, states, dtype=A.dtype) if initial_state is None else initial_state
    expected = {
        "delta": (delta, (batch, channels, length)),
        "D": (D, (channels,)),
        "delta_bias": (delta_bias, (channels,)),
        "z": (u if z is None else z, (batch, channels, length)),
        "initial_state": (h0, (batch, channels, states)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ShapeError(f"{name} must be {shape} for u {tuple(u.shape)}, got {tuple(tensor.shape)}")
    check_values(u=u, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias, initial_state=h0)
    B, C = (_grouped(name, x, u, states) for name, x in (("B", B), ("C", C)))
    groups = max(B.shape[1], C.shape[1])
    outputs, lasts = [], []
    for g in range(groups):
        part = slice(g * channels // groups, (g + 1) * channels // groups)
        v, last = scan(
            u[:, part].mT[:, None],
            delta[:, part].mT[:, None, :, None],
            A[None, part],
            B[:, g % B.shape[1]].mT[:, None, :, None],
            C[:, g % C.shape[1]].mT[:, None, :, None],
            D[None, part],
            delta_bias[None, part],
            h0[:, None, part],
            ("row",),
            delta_softplus,
            backend,
        )
        outputs.append(v[:, 0].mT)
        lasts.append(last[:, 0])
    out = torch.cat(outputs, dim=1)
    if z is not None:
        out = out * F.silu(z)
    out = out.to(u.dtype)
    return (out, torch.cat(lasts, dim=1)) if return_last_state else out


def _grouped(name: str, x: Tensor, u: Tensor, states: int) -> Tensor:
    """Weights as (batch, groups, N, L)."""
    batch, channels, length = u.shape
    if tuple(x.shape) == (channels, states):  # fixed: a group per channel
        return x[None, :, :, None].expand(batch, -1, -1, length)
    if tuple(x.shape) == (batch, states, length):
        return x[:, None]
    if x.dim() == 4 and channels % x.shape[1] == 0 and (batch, x.shape[1], states, length) == tuple(x.shape):
        return x
    raise ShapeError(
        f"{name} must be ({channels}, {states}), ({batch}, {states}, {length}) or "
        f"({batch}, groups, {states}, {length}) with groups that divide {channels}, got {tuple(x.shape)}"
    )
