"""SS2D, the selective scan in four directions with its projections, and the visual state space block around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.layers.bands import join_bands
from ssmctx.layers.checks import check_picture, check_positive
from ssmctx.layers.drop_path import check_drop_path, drop_path
from ssmctx.scan.backend import load
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.operator import scan

__all__ = ["SS2D", "VSSBlock"]

_DT_MIN, _DT_MAX = 1e-3, 1e-1

_LARGE = {"cpu": 1 << 15}
_BAND = {"cpu": 1 << 13}
_ELSEWHERE = 1 << 17
_GROUP = 128
"""Pixels from which on a picture is walked in parts, so that what lies between two scans never exists whole; pixels of
a band of rows; channels that are scanned at a time. Bands fit a CPU's caches, elsewhere they fill the device."""


class SS2D(nn.Module):
    r"""Selective scan of a picture in four directions, each with its own input-dependent dt, B and C.

    $$ (\delta, B, C)_{k} = W^x_k u, \quad dt_k = \mathrm{softplus}(W^{dt}_k \delta_k + b_k), \quad
    v = \sum_k \mathrm{scan}_k(u, dt_k, A_k, B_k, C_k, D_k) $$

    A = -exp(A_log) is negative whatever the parameter holds. Works on channels-last data.

    Args:
        d_inner: channels of u.
        dt_rank: width of the low-rank step sizes.
        d_state: states N per channel.
        scan_backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Shape:
        (batch, H, W, d_inner) to the same, any H and W of at least 1.

    Raises:
        ArgumentError: a size below 1.
        UnknownNameError: an unknown backend.

    Source:
        MambaIC section 3.2, figure 2b; initialisation as in Mamba (Gu and Dao, 2023).

    Examples:
        >>> import torch
        >>> from ssmctx.layers import SS2D
        >>> SS2D(d_inner=8, dt_rank=1)(torch.randn(2, 7, 5, 8)).shape
        torch.Size([2, 7, 5, 8])
    """

    def __init__(self, d_inner: int, dt_rank: int, d_state: int = 16, scan_backend: str = "auto") -> None:
        super().__init__()
        check_positive("SS2D", d_inner=d_inner, dt_rank=dt_rank, d_state=d_state)
        if scan_backend != "auto":
            load(scan_backend)
        directions = len(DIRECTIONS)
        self.dt_rank, self.d_state, self.scan_backend = dt_rank, d_state, scan_backend
        self.x_proj_weight = nn.Parameter(torch.empty(directions, dt_rank + 2 * d_state, d_inner))
        self.dt_proj_weight = nn.Parameter(torch.empty(directions, d_inner, dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(directions, d_inner))
        self.A_log = nn.Parameter(torch.empty(directions, d_inner, d_state))
        self.D = nn.Parameter(torch.ones(directions, d_inner))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as Mamba does."""
        bound = self.x_proj_weight.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj_weight, -bound, bound)
        bound = math.sqrt(3) * self.dt_rank**-0.5  # its uniform distribution has standard deviation dt_rank^-0.5
        nn.init.uniform_(self.dt_proj_weight, -bound, bound)
        dt = torch.empty_like(self.dt_bias).uniform_(math.log(_DT_MIN), math.log(_DT_MAX)).exp()
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def forward(self, u: Tensor) -> Tensor:
        """Scan u, (batch, H, W, d_inner)."""
        return self._scan_channels(u, self._weights(u), slice(None))

    def _weights(self, u: Tensor) -> tuple[Tensor, ...]:
        """What u makes of itself: low-rank step sizes, B and C, each (batch, H, W, directions, c)."""
        projected = F.linear(u, self.x_proj_weight.flatten(0, 1))
        projected = projected.view(*u.shape[:-1], len(DIRECTIONS), -1)
        return torch.split(projected, [self.dt_rank, self.d_state, self.d_state], dim=-1)

    def _scan_channels(self, u: Tensor, weights: Sequence[Tensor], channels: slice) -> Tensor:
        """Scan some channels, (batch, H, W, number of them), with the weights that all of them made."""
        low_rank, B, C = weights
        A_log = self.A_log[:, channels]
        A = -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))
        D, dt_bias, dt_weight = (x[:, channels] for x in (self.D, self.dt_bias, self.dt_proj_weight))
        v, _ = scan(u, low_rank, A, B, C, D, dt_bias, None, DIRECTIONS, True, self.scan_backend, dt_weight)
        return v.to(u.dtype)


class VSSBlock(nn.Module):
    r"""Visual state space block: a gated SS2D behind a LayerNorm, with a residual.

    $$ (u, g) = W_{in}\,\mathrm{LN}(x), \quad
    x + W_{out}\,[\mathrm{LN}(\mathrm{SS2D}(\mathrm{SiLU}(\mathrm{DWConv}_{3\times 3}(u)))) \odot \mathrm{SiLU}(g)] $$

    Args:
        dim: channels c of the picture.
        d_state: states N per channel.
        expand: d_inner = expand * dim.
        drop_path: probability that training drops the branch of a sample (stochastic depth).
        scan_backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Shape:
        (batch, dim, H, W) to the same, any H and W of at least 1.

    Raises:
        ShapeError: x has another number of channels, or an empty side.
        ArgumentError: a size below 1, or drop_path outside [0, 1).

    Source:
        MambaIC section 3.2, figure 2b; dt_rank = ceil(dim / 16).

    Examples:
        >>> import torch
        >>> from ssmctx import VSSBlock
        >>> VSSBlock(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self, dim: int, d_state: int = 16, expand: int = 2, drop_path: float = 0.0, scan_backend: str = "auto"
    ) -> None:
        super().__init__()
        check_positive("VSSBlock", dim=dim, d_state=d_state, expand=expand)
        check_drop_path("VSSBlock", drop_path)
        d_inner = expand * dim
        self.dim, self.drop_path = dim, drop_path
        self.norm = nn.LayerNorm(dim)
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv = nn.Conv2d(d_inner, d_inner, 3, padding=1, groups=d_inner)
        self.scan = SS2D(d_inner, math.ceil(dim / 16), d_state, scan_backend)
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, (batch, dim, H, W)."""
        check_picture("VSSBlock", x, self.dim)
        pixels = x.permute(0, 2, 3, 1)
        _, height, width, _ = pixels.shape
        bands, groups = _walk(x.device.type, height, width, self.scan.D.shape[1])
        *u, low_rank, B, C = join_bands(self._scan_inputs(pixels, bands, groups), height)
        for i, channels in enumerate(groups):  # each in its u's place, so that no more than one is there twice
            u[i] = self.scan._scan_channels(u[i], (low_rank, B, C), channels)
        (y,) = join_bands(self._outputs(pixels, u, bands), height)
        return y.permute(0, 3, 1, 2)

    def _scan_inputs(self, pixels: Tensor, bands: Sequence[slice], groups: Sequence[slice]) -> Iterator[list[Tensor]]:
        """u by groups of channels, and its weights, a band of rows at a time."""
        weight = self.in_proj.weight.chunk(2)[0]
        margin = None  # the last two rows before the convolution, which the next band needs
        for band in bands:
            first = band.start > 0
            rows = F.linear(self.norm(pixels[:, band.start + first : band.stop + 1]), weight)
            rows = rows if margin is None else torch.cat([margin, rows], dim=1)
            margin = rows[:, -2:]
            u = F.silu(self.conv(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            u = u[:, first : first + band.stop - band.start]
            yield [*(u[..., channels] for channels in groups), *self.scan._weights(u)]

    def _outputs(self, pixels: Tensor, v: Sequence[Tensor], bands: Sequence[slice]) -> Iterator[list[Tensor]]:
        """What the block returns, a band of rows at a time."""
        weight = self.in_proj.weight.chunk(2)[1]
        scale = drop_path(pixels.new_ones(len(pixels), 1, 1, 1), self.drop_path, self.training)
        for band in bands:
            x = pixels[:, band]
            gate = F.silu(F.linear(self.norm(x), weight))
            rows = v[0][:, band] if len(v) == 1 else torch.cat([group[:, band] for group in v], dim=-1)
            yield [x + self.out_proj(self.out_norm(rows) * gate) * scale]


def _walk(device: str, height: int, width: int, channels: int) -> tuple[list[slice], list[slice]]:
    """Bands of rows and groups of channels that a block works on at a time.

    Small pictures are one band and one group. A rule of shape and device alone: bands may change bits.
    """
    if torch.compiler.is_compiling() or height * width <= _LARGE.get(device, _ELSEWHERE):
        return [slice(0, height)], [slice(0, channels)]
    rows = max(1, _BAND.get(device, _ELSEWHERE) // width)
    bands = [slice(i, min(i + rows, height)) for i in range(0, height, rows)]
    return bands, [slice(i, min(i + _GROUP, channels)) for i in range(0, channels, _GROUP)]
