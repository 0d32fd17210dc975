"""What a scan is made of: the arguments that the operator hands to its backends."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["ScanInputs"]


class ScanInputs(NamedTuple):
    """Eight contiguous tensors of one dtype, float32 or wider, on one device, and how to scan.

    Attributes:
        u: input.
        dt_raw: step sizes, before bias and softplus.
        A: decay rates, negative.
        B: input weights.
        C: output weights.
        D: skip weights.
        dt_bias: added to dt_raw.
        h0: the states before each direction's first pixel.
        directions: from `ssmctx.scan.DIRECTIONS`; their number is K.
        softplus: whether dt_raw + dt_bias goes through softplus.

    Shape:
        u (batch, H, W, d); dt_raw (batch, H, W, K, d); A (K, d, N); B and C (batch, H, W, K, N); D and dt_bias (K, d);
        h0 (batch, K, d, N).
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
