"""What a scan is made of: the arguments that the operator hands to its backends."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["ScanInputs"]


class ScanInputs(NamedTuple):
    """Eight contiguous tensors of one dtype, float32 or wider, on one device, and how to scan.

    Attributes:
        u: input, (batch, H, W, d).
        dt_raw: step sizes before bias and softplus, (batch, H, W, K, d).
        A: decay rates, negative, (K, d, N).
        B: input weights, (batch, H, W, K, N).
        C: output weights, (batch, H, W, K, N).
        D: skip weights, (K, d).
        dt_bias: added to dt_raw, (K, d).
        h0: states before each direction's first pixel, (batch, K, d, N).
        directions: from `ssmctx.scan.DIRECTIONS`; their number is K.
        softplus: whether dt_raw + dt_bias goes through softplus.
    """

    u: Tensor
    dt_raw: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt_bias: Tensor
    h0: Tensor
    directions: tuple[str, ...]
    softplus: bool
