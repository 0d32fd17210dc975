"""The selective scan of sequences, with the signature of mamba_ssm's `selective_scan_fn`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmctx.errors import ShapeError
from ssmctx.scan.checks import check_shapes, check_values
from ssmctx.scan.operator import scan

__all__ = ["selective_scan"]

_CHANNELS = 64
"""Channels that are scanned in one call where B or C is fixed: their states take N times a channel's memory."""


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
        u: input, (batch, d, L).
        delta: step sizes before bias and softplus, (batch, d, L).
        A: decay rates, real and negative, (d, N).
        B: input weights: fixed (d, N), per position (batch, N, L), or per position and group (batch, groups, N, L), of
            which group g serves the d / groups channels from g * d / groups on.
        C: output weights, in any of B's forms, its own number of groups included.
        D: skip weights, (d,); None is zero.
        z: gate, (batch, d, L); None is no gate.
        delta_bias: added to delta, (d,); None is zero.
        delta_softplus: whether the sum goes through softplus.
        return_last_state: also return the state after the last position.
        initial_state: state before the first position, (batch, d, N); None is zero.
        backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Returns:
        (batch, d, L) in u's dtype and, if asked for, the last state (batch, d, N), float32 or wider.

    Raises:
        ShapeError: an argument's shape does not fit the others.
        ArgumentError: a value of A that is not negative, a tensor on another device, or not floating point.
        NonFiniteError: an argument holds NaN or an infinity.
        UnknownNameError: an unknown backend.
        BackendUnavailableError: the named backend cannot take this scan.

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
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ShapeError(f"A must be ({channels}, N) with N at least 1 for u {tuple(u.shape)}, got {tuple(A.shape)}")
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
    check_shapes(expected, u)
    check_values(u=u, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias, initial_state=h0)
    _check_weights("B", B, u, states)
    _check_weights("C", C, u, states)

    def scan_shared(x: _Channels, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        u = x.u.mT[:, None]  # an image of one row
        steps, B, C = (each.mT[:, None, :, None] for each in (x.delta, B, C))
        A, D, bias, h0 = x.A[None], x.D[None], x.delta_bias[None], x.h0[:, None]
        v, last = scan(u, steps, A, B, C, D, bias, h0, ("row",), delta_softplus, backend)
        return v[:, 0].mT, last[:, 0]

    scan_all = _scan_with_fixed if B.dim() == 2 or C.dim() == 2 else _scan_by_groups
    parts = scan_all(_Channels(u, delta, A, D, delta_bias, h0), B, C, scan_shared)
    out, last = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
    if z is not None:
        out = out * F.silu(z)
    out = out.to(u.dtype)
    return (out, last) if return_last_state else out


def _check_weights(name: str, x: Tensor, u: Tensor, states: int) -> None:
    batch, channels, length = u.shape
    groups = x.shape[1] if x.dim() == 4 else 1
    forms = {2: (channels, states), 3: (batch, states, length), 4: (batch, groups, states, length)}
    if tuple(x.shape) != forms.get(x.dim()) or groups == 0 or channels % groups:
        raise ShapeError(
            f"{name} must be ({channels}, {states}), ({batch}, {states}, {length}) or "
            f"({batch}, groups, {states}, {length}) with groups that divide {channels}, got {tuple(x.shape)}"
        )


class _Channels(NamedTuple):
    """What each channel has of its own: u, delta (batch, d, L), A (d, N), D, delta_bias (d,) and h0 (batch, d, N)."""

    u: Tensor
    delta: Tensor
    A: Tensor
    D: Tensor
    delta_bias: Tensor
    h0: Tensor

    def part(self, of: slice) -> _Channels:
        return _Channels(self.u[:, of], self.delta[:, of], self.A[of], self.D[of], self.delta_bias[of], self.h0[:, of])


_ScanShared = Callable[[_Channels, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Outputs (batch, d, L) and last states (batch, d, N) of channels that share B and C (batch, N, L)."""


def _scan_by_groups(x: _Channels, B: Tensor, C: Tensor, scan_shared: _ScanShared) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs (batch, part of d, L) and last states, a call for the channels that share a group of B and one of C."""
    B, C = (weights[:, None] if weights.dim() == 3 else weights for weights in (B, C))
    channels, groups = x.A.shape[0], math.lcm(B.shape[1], C.shape[1])
    for g in range(groups):
        part = slice(g * channels // groups, (g + 1) * channels // groups)
        yield scan_shared(x.part(part), B[:, g * B.shape[1] // groups], C[:, g * C.shape[1] // groups])


def _scan_with_fixed(x: _Channels, B: Tensor, C: Tensor, scan_shared: _ScanShared) -> Iterator[tuple[Tensor, Tensor]]:
    """The same where B or C is fixed, so that no two channels share them, which the operator's channels do.

    A call scans each state of some channels as a channel of its own, driven by B u; C and D are applied afterwards.
    """
    channels, states = x.A.shape
    work = torch.promote_types(x.u.dtype, torch.float32)
    x = x._replace(u=x.u.to(work), D=x.D.to(work))
    B, C = (_per_channel(weights.to(work), channels) for weights in (B, C))
    one = x.u.new_ones(x.u.shape[0], 1, x.u.shape[2])
    for first in range(0, channels, _CHANNELS):
        part = slice(first, first + _CHANNELS)
        own = x.part(part)
        drive = own.u[:, :, None] * B[:, part]
        each = _Channels(
            drive.flatten(1, 2),
            own.delta[:, :, None].expand(drive.shape).flatten(1, 2),
            own.A.reshape(-1, 1),
            drive.new_zeros(drive.shape[1] * states),
            own.delta_bias.repeat_interleave(states),
            own.h0.flatten(1)[..., None],
        )
        h, last = scan_shared(each, one, one)
        y = (h.reshape(drive.shape) * C[:, part]).sum(2) + own.D[:, None] * own.u
        yield y, last.reshape(x.u.shape[0], -1, states)


def _per_channel(x: Tensor, channels: int) -> Tensor:
    """Weights of any form so that they broadcast with (batch, d, N, L)."""
    if x.dim() == 2:
        return x[None, :, :, None]
    x = x[:, None] if x.dim() == 3 else x
    return x.repeat_interleave(channels // x.shape[1], dim=1)
