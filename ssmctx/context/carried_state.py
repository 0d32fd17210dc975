"""A context that carries one feature map from coding step to coding step and adds what each step coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ssmctx.context.base import ContextModel
from ssmctx.context.order import CodingOrder
from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_positive

__all__ = ["CarriedStateContext", "growing_slices"]

_SLICES = 5
_MOST_LOG_SCALE = 8.0


def growing_slices(M: int, num_slices: int) -> list[int]:
    """Widths of slices that grow linearly: 1, 2, 3, ... parts of M, each at least one channel.

    Args:
        M: channels of the latent.
        num_slices: how many slices, 1 to M.

    Raises:
        ArgumentError: num_slices is below 1 or above M.

    Examples:
        >>> from ssmctx.context.carried_state import growing_slices
        >>> growing_slices(60, 5), growing_slices(192, 6), growing_slices(4, 4)
        ([4, 8, 12, 16, 20], [9, 18, 28, 36, 46, 55], [1, 1, 1, 1])
    """
    if not 1 <= num_slices <= M:
        raise ArgumentError(f"num_slices must lie in 1..{M}, the channels of the latent; got {num_slices}")
    parts = num_slices * (num_slices + 1)
    ends = [max(k, round(M * k * (k + 1) / parts)) for k in range(num_slices + 1)]
    return [b - a for a, b in pairwise(ends)]


@dataclass
class CarriedState:
    """What is known before a coding step.

    Attributes:
        features: the carried feature map, (batch, H, W, dim).
        step: the step that it is for; all earlier ones have been added.
    """

    features: Tensor
    step: int


class Mix(nn.Module):
    r"""$x + W_2\,\mathrm{ReLU}(W_1\,\mathrm{LN}(\mathrm{DWConv}(x)))$ of x (batch, H, W, dim), channels last."""

    def __init__(self, dim: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), _scaled(nn.Linear(2 * dim, dim), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        """x with its surroundings mixed in."""
        update: Tensor = self.mlp(self.norm(_channels_last(self.conv, x)))
        return x + update


class CarriedStateContext(ContextModel):
    r"""Predicts each step from a feature map that is carried through the steps.

    $$ \psi_0 = \mathrm{Mix}(\mathrm{init}(\mathrm{side})), \quad
    (\mu, \log\sigma)_t = \mathrm{side} + \mathrm{head}_t(\psi_t), \quad
    \psi_{t+1} = \mathrm{Mix}_t(\psi_t + \mathrm{Conv}_t([\hat y_t / s,\; 1_t])) $$

    y_hat_t is what step t coded, zero elsewhere, 1_t says where, and s is a learned spread of each channel. Heads run
    only at the positions that their step codes, and nothing that was added is added again, so a step costs what it
    codes. Each step has weights of its own. There is neither attention nor a scan.

    Args:
        M: channels of the latent.
        num_slices: slices of growing widths, each coded as a checkerboard; default 5.
        dim: channels of the feature map.
        order: any coding order of M channels, in place of num_slices.
        spread: root mean square of each channel of y, (M,), where it is known: s begins there, and without an order the
            channels are coded from the widest to the narrowest. A checkpoint needs the same order again.

    Raises:
        ArgumentError: the order has another number of channels or comes with num_slices, spread does not hold M
            positive numbers, or a size is below 1.
        ShapeError: y_hat or side has a shape that does not fit.

    Source:
        The progressive fusion of entropy parameters in HPCM (Li et al., 2025); slices that grow as in ELIC (He et al.,
        2022). The update, the heads and the spread are ours.

    Examples:
        >>> import torch
        >>> from ssmctx import CarriedStateContext
        >>> context = CarriedStateContext(M=20, num_slices=2, dim=8)
        >>> mean, scale = context(3, torch.zeros(1, 20, 6, 4), torch.zeros(1, 40, 6, 4))
        >>> mean.shape
        torch.Size([1, 13, 6, 4])
    """

    def __init__(
        self,
        M: int = 320,
        num_slices: int | None = None,
        dim: int = 96,
        order: CodingOrder | None = None,
        spread: Sequence[float] | None = None,
    ) -> None:
        check_positive("CarriedStateContext", M=M, dim=dim)
        spreads = _spreads(M, spread)
        super().__init__(_order(M, num_slices, order, spreads))
        widths = [self.order.slices[self.order.slice_index(step)] for step in range(self.order.num_steps)]
        self.log_spread = nn.Parameter(spreads.log())
        self.init = nn.Sequential(nn.Linear(2 * M, dim), nn.ReLU(), nn.Linear(dim, dim), Mix(dim))
        self.added = nn.ModuleList(nn.Conv2d(width + 1, dim, 5, padding=2) for width in widths[:-1])
        self.mix = nn.ModuleList(Mix(dim) for _ in widths[:-1])
        self.head = nn.ModuleList(  # which begin at zero: the hyperprior alone
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU(), _scaled(nn.Linear(dim, 2 * width), 0.0))
            for width in widths
        )

    def begin(self, side: Tensor) -> CarriedState:
        """The feature map before the first step; see `ContextModel.begin`."""
        mean, log_scale = side.chunk(2, dim=1)
        inputs = torch.cat([mean / self._spread(), log_scale], dim=1)
        return CarriedState(self.init(inputs.permute(0, 2, 3, 1)), 0)

    def forward(
        self, step: int, y_hat: Tensor, side: Tensor, state: CarriedState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`; see `ContextModel.forward`."""
        self.check_inputs(y_hat, side)
        channels = self.order.channels(step)
        state = self.begin(side) if state is None else state
        while state.step < step:
            state.features = self._after(state.step, y_hat, state.features)
            state.step += 1
        size = (y_hat.shape[2], y_hat.shape[3])
        indices = self.order.positions(step, size, "cpu").flatten().nonzero().flatten().to(y_hat.device)
        change = self.head[step](state.features.flatten(1, 2).index_select(1, indices))
        whole = change.new_zeros(len(change), size[0] * size[1], change.shape[2]).index_copy(1, indices, change)
        mean, log_scale = whole.mT.unflatten(2, size).chunk(2, dim=1)
        base, base_log_scale = (half[:, channels] for half in side.chunk(2, dim=1))
        log_scale = (base_log_scale + log_scale).clamp(max=_MOST_LOG_SCALE)
        return base + mean * self._spread()[channels], log_scale.exp()

    def _after(self, step: int, y_hat: Tensor, features: Tensor) -> Tensor:
        """The feature map with what a step coded added to it."""
        channels = self.order.channels(step)
        positions = self.order.positions(step, (y_hat.shape[2], y_hat.shape[3]), y_hat.device)
        coded = y_hat[:, channels].where(positions, 0) / self._spread()[channels]
        where = positions.to(coded.dtype).expand(len(coded), 1, -1, -1)
        added = self.added[step](torch.cat([coded, where], dim=1))
        after: Tensor = self.mix[step](features + added.permute(0, 2, 3, 1))
        return after

    def _spread(self) -> Tensor:
        return self.log_spread.exp()[:, None, None]


@torch.no_grad()
def _scaled(layer: nn.Linear, factor: float) -> nn.Linear:
    """The layer, its first weights and biases times a factor."""
    for parameter in layer.parameters():
        parameter.mul_(factor)
    return layer


def _channels_last(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer for (batch, dim, H, W), of x (batch, H, W, dim)."""
    y: Tensor = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y


def _spreads(M: int, spread: Sequence[float] | None) -> Tensor:
    if spread is None:
        return torch.ones(M)
    spreads = torch.as_tensor(spread, dtype=torch.float32)
    if spreads.shape != (M,) or not bool((spreads > 0).all()):
        raise ArgumentError(f"CarriedStateContext: spread must hold M={M} positive numbers, got {spread!r:.80}")
    return spreads


def _order(M: int, num_slices: int | None, order: CodingOrder | None, spreads: Tensor) -> CodingOrder:
    """The coding order that the arguments of `CarriedStateContext` ask for."""
    if order is None:
        slices = growing_slices(M, min(_SLICES, M) if num_slices is None else num_slices)
        widest_first = spreads.argsort(descending=True, stable=True).tolist()
        return CodingOrder.checkerboard(slices, permutation=widest_first)
    if num_slices is not None:
        raise ArgumentError("CarriedStateContext: order takes the place of num_slices; give it alone")
    if order.num_channels != M:
        raise ArgumentError(f"CarriedStateContext: the order must have M={M} channels, got {order.num_channels}")
    return order
