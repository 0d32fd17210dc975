"""SS2D, the selective scan in four directions with its projections, and the visual state space block around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.errors import ShapeError
from ssmctx.layers.bands import join_bands
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.layers.drop_path import check_drop_path, drop_path
from ssmctx.scan.backend import load
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.operator import scan

__all__ = ["SS2D", "VSSBlock"]

_DT_MIN, _DT_MAX = 1e-3, 1e-1

_LARGE = {"cpu": 1 << 15, "elsewhere": 1 << 17}
"""Pixels above which an image is walked in parts, so that what lies between two scans never exists whole."""

_BAND = {"cpu": 8 << 20, "elsewhere": 512 << 20}
"""Bytes that a band of rows is worked on in: on a CPU what caches hold, elsewhere a small part of a device's memory."""

_BYTES = 8 * 4
"""Of them for each element of x, with `expand` of 2: in_proj's result, u side by side, and its convolution."""

_LEAST_ROWS = 4
"""Rows that a band has at least."""

_GROUP = 128
"""Channels that are scanned at a time."""


class SS2D(nn.Module):
    r"""Selective scan of an image in four directions, each with its own input-dependent dt, B and C.

    $$ (\delta, B, C)_{k} = W^x_k u, \quad dt_k = \mathrm{softplus}(W^{dt}_k \delta_k + b_k), \quad
    v = \sum_k \mathrm{scan}_k(u, dt_k, A_k, B_k, C_k, D_k) $$

    A = -exp(A_log) is negative whatever the parameter holds. Works on channels-last data.

    Args:
        d_inner: channels of u (batch, H, W, d_inner), of any H and W of at least 1; the result has its shape.
        dt_rank: width of the low-rank step sizes.
        d_state: states N per channel.
        scan_backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Raises:
        ArgumentError: a size below 1.
        ShapeError: u has another number of channels or dimensions, or an empty side.
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

    def forward(self, u: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Scan u, (batch, H, W, d_inner).

        u may come as a list of groups of channels. v then does too, and the list is emptied during the scan, so that at
        most one group is in memory twice.

        Raises:
            ShapeError: u has another number of channels or dimensions, or an empty side.
        """
        width = self.D.shape[1]
        if isinstance(u, Tensor) and (u.dim() != 4 or u.shape[-1] != width or u.numel() == 0):
            raise ShapeError(f"SS2D expects u (batch, H, W, {width}), every size at least 1, got {tuple(u.shape)}")
        groups = _groups(u, _is_large(u)) if isinstance(u, Tensor) else u
        (weights,) = join_bands(self._weights(groups), groups[0].shape[1])
        v, first = [], 0
        while groups:
            channels = slice(first, first + groups[0].shape[-1])
            v.append(self._scan_channels(groups.pop(0), weights, channels))
            first = channels.stop
        return v if isinstance(u, list) else _join_groups(v)

    def _weights(self, groups: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Low-rank step sizes, B and C side by side, (batch, rows, W, directions, rank + 2N), a band of rows at a
        time."""
        rows = _bands(groups[0], self.D.shape[1])
        # cut by split, whose gradient is put together once and not a band at a time
        for band in zip(*(_split(u, rows) for u in groups), strict=True):
            projected = F.linear(_join_groups(band), self.x_proj_weight.flatten(0, 1))
            yield [projected.view(*projected.shape[:-1], len(DIRECTIONS), -1)]

    def _scan_channels(self, u: Tensor, weights: Tensor, channels: slice) -> Tensor:
        """Scan some channels, (batch, H, W, number of them), with the weights that all of them have."""
        parameters: list[Tensor] = [self.A_log, self.D, self.dt_bias, self.dt_proj_weight]
        if u.shape[-1] < self.D.shape[1]:  # the gradient of a slice is a copy, of one that takes all, too
            parameters = [x[:, channels] for x in parameters]
        A_log, D, dt_bias, dt_weight = parameters
        A = -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))
        options = None, DIRECTIONS, True, self.scan_backend
        v, _ = scan(u, weights, A, None, None, D, dt_bias, *options, dt_weight)
        return v.to(u.dtype)


class VSSBlock(nn.Module):
    r"""Visual state space block: a gated SS2D behind a LayerNorm, with a residual.

    $$ (u, g) = W_{in}\,\mathrm{LN}(x), \quad
    x + W_{out}\,[\mathrm{LN}(\mathrm{SS2D}(\mathrm{SiLU}(\mathrm{DWConv}_{3\times 3}(u)))) \odot \mathrm{SiLU}(g)] $$

    Args:
        dim: channels c of the image (batch, dim, H, W), of any H and W of at least 1; the result has its shape.
        d_state: states N per channel.
        expand: d_inner = expand * dim.
        drop_path: probability that training drops the branch of a sample (stochastic depth).
        scan_backend: a name from `ssmctx.registry.scan_backends`, or "auto".

    Raises:
        ShapeError: x has another number of channels, or an empty side.
        ArgumentError: a size below 1, or drop_path outside [0, 1).
        UnknownNameError: an unknown backend.

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
        check_image("VSSBlock", x, self.dim)
        pixels = x.permute(0, 2, 3, 1)
        bands, height = _bands(pixels, self.dim), pixels.shape[1]
        *u, gate = join_bands(self._inputs(pixels, bands), height)
        v = self.scan(u if len(u) > 1 else u.pop())
        (y,) = join_bands(self._outputs(pixels, [v] if isinstance(v, Tensor) else v, gate, bands), height)
        return y.permute(0, 3, 1, 2)

    def _inputs(self, pixels: Tensor, bands: list[int]) -> Iterator[list[Tensor]]:
        """u, by groups of channels where it is large, and the gate before its SiLU, a band of rows at a time.

        u follows a row behind the gate, for its convolution looks at the next row.
        """
        # a wrapped or hooked scan gets u whole: more memory, the same bits
        in_groups = type(self.scan) is SS2D and not _is_hooked(self.scan) and _is_large(pixels)
        ahead = [bands[0] + 1, *bands[1:-1], bands[-1] - 1] if len(bands) > 1 else bands
        margin = None  # the last two rows before the convolution, which the next band needs
        for rows, x in zip(bands, _split(pixels, ahead), strict=True):
            u, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)
            first = 0 if margin is None else 1  # a number, which tracing can add
            u = torch.cat([margin, u], dim=1) if margin is not None else u
            margin = u[:, -2:] if len(bands) > 1 else None
            u = F.silu(self.conv(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            u = u[:, first : first + rows] if len(bands) > 1 else u
            yield [*_groups(u, in_groups), gate]

    def _outputs(self, pixels: Tensor, v: Sequence[Tensor], gate: Tensor, bands: list[int]) -> Iterator[list[Tensor]]:
        """What the block returns, a band of rows at a time."""
        drops = self.training and self.drop_path > 0
        scale = drop_path(pixels.new_ones(pixels.shape[0], 1, 1, 1), self.drop_path, True) if drops else None
        for x, g, *groups in zip(*(_split(t, bands) for t in (pixels, gate, *v)), strict=True):
            branch = self.out_proj(self.out_norm(_join_groups(groups)) * F.silu(g))
            # the branch first: the sum takes its layout in memory, channels last
            yield [(branch if scale is None else branch * scale) + x]


def _is_large(x: Tensor) -> bool:
    """Whether x, (batch, H, W, channels), is walked in parts.

    A rule of shape and device alone, for parts may change bits.
    """
    return not torch.compiler.is_compiling() and x.shape[1] * x.shape[2] > _limit(_LARGE, x)


def _limit(limits: dict[str, int], x: Tensor) -> int:
    return limits.get(x.device.type, limits["elsewhere"])


def _bands(x: Tensor, channels: int) -> list[int]:
    """Rows of each band that is worked on at a time; several bands have `_LEAST_ROWS` or more each."""
    height, width = x.shape[1:3]
    count = height // max(_LEAST_ROWS, _limit(_BAND, x) // (_BYTES * width * channels)) if _is_large(x) else 1
    return [height // count + (i < height % count) for i in range(count)] if count > 1 else [height]


def _split(x: Tensor, bands: list[int]) -> tuple[Tensor, ...]:
    """The bands of x; one is x itself, for the gradient of a split is a copy."""
    return (x,) if len(bands) == 1 else torch.split(x, bands, dim=1)


def _is_hooked(module: nn.Module) -> bool:
    """Whether hooks of the module would get its inputs or outputs, or their gradients."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names)


def _groups(x: Tensor, several: bool) -> list[Tensor]:
    """The channels of x that are scanned at a time; otherwise x itself, for the gradient of a split is a copy."""
    return list(torch.split(x, _GROUP, dim=-1)) if several else [x]


def _join_groups(groups: Sequence[Tensor]) -> Tensor:
    return groups[0] if len(groups) == 1 else torch.cat(list(groups), dim=-1)
