"""The selective scan of images along several directions: the public function, which checks its arguments."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.scan.checks import check_shapes, check_values
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.operator import scan

__all__ = ["cross_selective_scan"]


def cross_selective_scan(
    u: Tensor,
    dt_raw: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    directions: Sequence[str] = DIRECTIONS,
    *,
    backend: str = "auto",
) -> Tensor:
    r"""Selective scan of an image along several directions, summed at each pixel (the core of SS2D).

    $$ dt = \mathrm{softplus}(dt_{raw} + dt_{bias}), \quad h_l = e^{dt_l A} h_{l-1} + dt_l B_l u_l, \quad
    v_l = C_l \cdot h_l + D u_l $$

    per direction, channel and state, with h = 0 before the first pixel of a direction; the result is the sum of v over
    the directions.

    Args:
        u: input, (batch, H, W, d).
        dt_raw: step sizes before bias and softplus, (batch, H, W, K, d).
        A: decay rates, all negative, (K, d, N).
        B: input weights, (batch, H, W, K, N).
        C: output weights, (batch, H, W, K, N).
        D: skip weights, (K, d).
        dt_bias: bias of the step sizes, (K, d).
        directions: scan directions, from `DIRECTIONS`; their number is K.
        backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Returns:
        (batch, H, W, d), in u's dtype. States and exponentials are float32 or wider whatever the inputs are.

    Raises:
        ShapeError: an argument's shape does not fit the others.
        ArgumentError: an unknown direction, a value of A that is not negative, a tensor on another device, or not
            floating point.
        NonFiniteError: an argument holds NaN or an infinity.
        UnknownNameError: an unknown backend.
        BackendUnavailableError: the named backend cannot take this scan.

    Source:
        MambaIC section 3.1, equations 7-9, and section 3.2 (SS2D); Mamba (Gu and Dao, 2023), algorithm 2.

    Examples:
        >>> import torch
        >>> from ssmctx.scan import cross_selective_scan
        >>> u = torch.randn(1, 4, 5, 8); x = torch.randn(1, 4, 5, 4, 8); bc = torch.randn(1, 4, 5, 4, 16)
        >>> A = -torch.ones(4, 8, 16); D = torch.ones(4, 8)
        >>> cross_selective_scan(u, x, A, bc, bc, D, D).shape
        torch.Size([1, 4, 5, 8])
    """
    _check(u, dt_raw, A, B, C, D, dt_bias, directions)
    check_values(u=u, dt_raw=dt_raw, A=A, B=B, C=C, D=D, dt_bias=dt_bias)
    v, _ = scan(u, dt_raw, A, B, C, D, dt_bias, None, tuple(directions), True, backend)
    return v.to(u.dtype)


def _check(
    u: Tensor, dt_raw: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, directions: Sequence[str]
) -> None:
    unknown = [name for name in directions if name not in DIRECTIONS]
    if unknown or not directions:
        raise ArgumentError(f"directions must be one or more of {DIRECTIONS}, got {tuple(directions)}")
    if u.dim() != 4 or u.numel() == 0:
        raise ShapeError(f"u must be (batch, H, W, d) with every size at least 1, got {tuple(u.shape)}")
    if A.dim() != 3 or A.shape[-1] == 0:
        raise ShapeError(f"A must be (directions, d, N) with N at least 1, got {tuple(A.shape)}")
    batch, height, width, channels = u.shape
    count, states = len(directions), A.shape[-1]
    expected = {
        "dt_raw": (dt_raw, (batch, height, width, count, channels)),
        "A": (A, (count, channels, states)),
        "B": (B, (batch, height, width, count, states)),
        "C": (C, (batch, height, width, count, states)),
        "D": (D, (count, channels)),
        "dt_bias": (dt_bias, (count, channels)),
    }
    check_shapes(expected, u, directions=count, states=states)
