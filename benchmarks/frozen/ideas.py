"""Ideas that were tried on the contexts, one row each in the table; what paid is in the library.

Registered when imported, for `python benchmarks/contexts.py --plugin frozen.ideas --contexts idea-attention ...`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssmctx import (
    CarriedStateContext,
    ChannelSpatialContext,
    CodingOrder,
    VSSBlock,
    WindowLocalAttention,
    registry,
)
from ssmctx.context.carried_state import growing_slices


class ThenAttention(nn.Module):
    """A mix, then window attention over what it gives."""

    def __init__(self, mix: nn.Module, dim: int) -> None:
        super().__init__()
        self.mix, self.norm, self.attention = mix, nn.LayerNorm(dim), WindowLocalAttention(dim)
        self.gain = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x)
        return x + self.gain * self.attention(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ScanMix(nn.Module):
    """A VSS block instead of a mix."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = VSSBlock(dim, d_state=4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y


class LikeCarriedState(ChannelSpatialContext):
    """The paper's layout, with inputs in units of the spread, and means and log scales on top of the hyperprior's."""

    def __init__(self, M: int, spread: Sequence[float], window_size: int | None = 8) -> None:
        super().__init__(M, window_size=window_size)
        self.log_spread = nn.Parameter(torch.tensor(spread).log())
        for head in self.head:
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)

    def begin(self, side: Tensor) -> Any:
        mean, log_scale = side.chunk(2, dim=1)
        return super().begin(torch.cat([mean / self._spread(), log_scale], dim=1))

    def forward(self, step: int, y_hat: Tensor, side: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        state = self.begin(side) if state is None else state
        mean, log_scale = super().forward(step, y_hat / self._spread(), side, state)
        channels = self.order.channels(step)
        base, base_log_scale = (half[:, channels] for half in side.chunk(2, dim=1))
        return base + mean * self._spread()[channels], (base_log_scale + log_scale).clamp(max=8).exp()

    def _spread(self) -> Tensor:
        return self.log_spread.exp()[:, None, None]


def _with_mixes(change: Callable[[nn.Module, int], nn.Module]) -> Callable[..., CarriedStateContext]:
    def make(M: int, spread: Sequence[float], dim: int = 128) -> CarriedStateContext:
        context = CarriedStateContext(M, dim=dim, spread=spread)
        context.mix = nn.ModuleList(change(mix, dim) for mix in context.mix)
        return context

    return make


def _with_order(order: Callable[..., CodingOrder], sort: bool = True) -> Callable[..., CarriedStateContext]:
    def make(M: int, spread: Sequence[float], num_slices: int = 5, dim: int = 128) -> CarriedStateContext:
        widest_first = torch.tensor(spread).argsort(descending=True).tolist() if sort else None
        slices = growing_slices(M, num_slices)
        return CarriedStateContext(M, dim=dim, order=order(slices, permutation=widest_first), spread=spread)

    return make


def even_slices(slices: Sequence[int], permutation: Sequence[int] | None) -> CodingOrder:
    """A checkerboard of slices of one width."""
    M = sum(slices)
    return CodingOrder.checkerboard([M // len(slices)] * len(slices), permutation=permutation)


registry.contexts.register("idea-attention", _with_mixes(ThenAttention))
registry.contexts.register("idea-vss", _with_mixes(lambda mix, dim: ScanMix(dim)))
registry.contexts.register("idea-natural-order", _with_order(CodingOrder.checkerboard, sort=False))
registry.contexts.register("idea-even-slices", _with_order(even_slices))
registry.contexts.register("idea-one-pass", _with_order(CodingOrder.one_pass))
registry.contexts.register("idea-quad", _with_order(CodingOrder.quad))
registry.contexts.register("idea-coarse-to-fine", _with_order(CodingOrder.coarse_to_fine))
registry.contexts.register("idea-paper-like-carried-state", LikeCarriedState)
