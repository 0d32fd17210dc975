"""A context of one's own: four passes a slice over 2 x 2 squares, with features that the steps of a latent share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssmctx import CodingOrder, ContextModel, registry


@dataclass
class State:
    """What the steps of one latent share.

    Attributes:
        side: features of the side information.
        earlier: features of the slices before, by slice.
    """

    side: Tensor
    earlier: dict[int, Tensor] = field(default_factory=dict)


class QuadContext(ContextModel):
    """Convolutions over side information, earlier slices, and the passes before of the slice itself."""

    def __init__(self, M: int, slices: int = 2, width: int = 16) -> None:
        m = M // slices
        super().__init__(CodingOrder.quad([m] * slices))
        self.from_side = nn.Conv2d(2 * M, width, 3, padding=1)
        self.from_earlier = nn.ModuleList(nn.Conv2d(k * m, width, 3, padding=1) for k in range(1, slices))
        self.from_passes = nn.ModuleList(nn.Conv2d(m, width, 3, padding=1) for _ in range(slices))
        self.head = nn.ModuleList(nn.Sequential(nn.GELU(), nn.Conv2d(width, 2 * m, 1)) for _ in range(slices))

    def begin(self, side: Tensor) -> State:
        return State(self.from_side(side))

    def forward(self, step: int, y_hat: Tensor, side: Tensor, state: State | None = None) -> tuple[Tensor, Tensor]:
        state = self.begin(side) if state is None else state
        k = self.order.slice_index(step)
        if k not in state.earlier:  # the same for the four passes of a slice
            earlier = self.from_earlier[k - 1](self.coded_slices(step, y_hat)) if k else torch.zeros_like(state.side)
            state.earlier = {k: earlier}
        passes = self.from_passes[k](self.coded_anchors(step, y_hat))
        mean, scale = self.head[k](state.side + state.earlier[k] + passes).chunk(2, dim=1)
        return mean, scale


def register() -> None:
    registry.contexts.register("quad", QuadContext)
