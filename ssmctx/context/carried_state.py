"""A context that carries one feature map from coding step to coding step and adds what each step coded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from ssmctx.context.base import MOST_LOG_SCALE, ContextModel, keep_at, scaled
from ssmctx.context.order import EVERYWHERE, CodingOrder, check_order
from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_positive

__all__ = ["CarriedStateContext", "growing_slices"]

_SLICES = 5


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
    if not isinstance(num_slices, int) or not 1 <= num_slices <= M:
        raise ArgumentError(f"growing slices: num_slices must be an integer from 1 to M={M}, got {num_slices!r}")
    parts = num_slices * (num_slices + 1)
    ends = [max(k, round(M * k * (k + 1) / parts)) for k in range(num_slices + 1)]
    return [b - a for a, b in pairwise(ends)]


@dataclass
class CarriedState:
    """What is known before a coding step.

    Attributes:
        features: the carried feature map, (batch, H, W, dim).
        taken: groups of steps that have been added to it.
        means: of the side information, by slices, (batch, m, H, W) each.
        log_scales: the same.
        spreads: of the channels, by slices, (1, m, 1, 1) each.
        predicted: means of the steps so far, by slices, (batch, m, H, W) each; none where only means are predicted.
        steps: how many steps that is.
    """

    features: Tensor
    taken: int
    means: tuple[Tensor, ...]
    log_scales: tuple[Tensor, ...]
    spreads: tuple[Tensor, ...]
    predicted: dict[int, Tensor] = field(default_factory=dict)
    steps: int = 0


@dataclass
class Begun:
    """What `CarriedStateContext.begin` gives: the first step, being called as a module, makes the state.

    Attributes:
        state: None before the first step.
    """

    state: CarriedState | None = None


class Mix(nn.Module):
    r"""$x + W_2\,\mathrm{ReLU}(W_1\,\mathrm{LN}(\mathrm{DWConv}(x)))$ of x (batch, H, W, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.update = _update(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x with its surroundings mixed in."""
        update: Tensor = self.update(_channels_last(self.conv(x.permute(0, 3, 1, 2))))
        return x + update


class CarriedStateContext(ContextModel):
    r"""Predicts each slice from a feature map that is carried from slice to slice.

    $$ \psi_0 = \mathrm{Mix}(\mathrm{init}(\mathrm{side})), \quad
    \psi_{k+1} = \mathrm{Mix}_k(\psi_k + \mathrm{Conv}_k([\hat y_k / s,\; |\hat y_k - \mu_k| / s,\; 1_k])) $$

    $$ (\mu, \log\sigma)_t = \mathrm{side} + \mathrm{head}_t(\phi_t), \quad
    \phi_t = \psi_k \;\text{or, in a later pass,}\; \phi_t = u + \mathrm{MLP}_t(u), $$

    $$ u = \psi_k + \mathrm{Conv}_t([\hat y_{k,<t} / s,\; |\hat y_{k,<t} - \mu_{k,<t}| / s,\; 1_{<t}]) $$

    y_hat_k is slice k, mu_k what was predicted of it, 1_k says where it is coded, the same with <t are what earlier
    passes coded of it, and s is a learned spread of each channel. How far predictions were off tells how wide the next
    ones should be. Heads and later passes run only at the positions that their step codes, and what was added once is
    not added again: a step costs what it codes. Each step has weights of its own. There is neither attention nor a
    scan. Where an order codes one pass of all slices before the next, every step counts as a slice.

    With `means_only` it is the context of a `ScaleNetwork`: scales are 1, it does not read |y_hat - mu| and log sigma,
    and does not predict log sigma.

    Args:
        M: channels of the latent.
        num_slices: slices of growing widths, each coded as a checkerboard; default 5.
        dim: channels of the feature map.
        order: any coding order of M channels, instead of num_slices.
        spread: root mean square of each channel of y, (M,), where it is known: s begins there, and without an order the
            channels are coded from the widest to the narrowest. A checkpoint needs the same order again.
        means_only: predict means alone, for a model that takes its scales from elsewhere.

    Raises:
        ArgumentError: the order has another number of channels or comes with num_slices, spread does not hold M
            finite positive numbers, or a size is below 1.
        ShapeError: y_hat or side has a shape that does not fit.

    Source:
        The progressive fusion of entropy parameters in HPCM (Li et al., 2025); slices that grow as in ELIC (He et al.,
        2022). The updates, the heads and the spread are ours.

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
        dim: int = 128,
        order: CodingOrder | None = None,
        spread: Sequence[float] | None = None,
        means_only: bool = False,
    ) -> None:
        check_positive("CarriedStateContext", M=M, dim=dim)
        spreads = _spreads(M, spread)
        super().__init__(_order(M, num_slices, order, spreads))
        self.means_only = means_only
        order, each = self.order, 1 if means_only else 2
        widths = [order.slices[order.slice_index(step)] for step in range(order.num_steps)]
        group = order.consecutive_passes  # what is carried grows by as many steps
        self.log_spread = nn.Parameter(torch.tensor(spreads).log())
        self.init = nn.Sequential(nn.Linear(each * M, dim), nn.ReLU(), nn.Linear(dim, dim), Mix(dim))
        carried = widths[::group][:-1]
        self.added = nn.ModuleList(nn.Conv2d(each * width + 1, dim, 3, padding=1) for width in carried)
        self.mix = nn.ModuleList(Mix(dim) for _ in carried)
        later = {str(step): widths[step] for step in range(order.num_steps) if step % group}
        self.added_later = nn.ModuleDict(
            {step: nn.Conv2d(each * width + 1, dim, 3, padding=1) for step, width in later.items()}
        )
        self.update_later = nn.ModuleDict({step: _update(dim) for step in later})
        self.head = nn.ModuleList(  # which begin at zero: the hyperprior alone
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU(), scaled(nn.Linear(dim, each * width), 0.0))
            for width in widths
        )

    def begin(self, side: Tensor) -> Begun:
        """Nothing yet; see `ContextModel.begin`."""
        return Begun()

    def forward(self, step: int, y_hat: Tensor, side: Tensor, state: Begun | None = None) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`; see `ContextModel.forward`."""
        self.check_inputs(y_hat, side)
        begun = Begun() if state is None else state
        begun.state = known = self._start(side) if begun.state is None else begun.state
        for earlier in range(known.steps, step):  # empty if steps are called in order
            self._predict(earlier, y_hat, known)
        return self._predict(step, y_hat, known)

    def _start(self, side: Tensor) -> CarriedState:
        """What is known before the first step."""
        mean, log_scale = side.chunk(2, dim=1)
        spread = self.log_spread.exp()[None, :, None, None]
        known = [mean / spread] if self.means_only else [mean / spread, log_scale]
        features = self.init(_channels_last(torch.cat(known, dim=1)))
        means, log_scales, spreads = map(self.order.split, (mean, log_scale, spread))
        return CarriedState(features, 0, means, log_scales, spreads)

    def _predict(self, step: int, y_hat: Tensor, state: CarriedState) -> tuple[Tensor, Tensor]:
        """Mean and scale of the slice of `step`; keeps in `state` what later steps need."""
        k, size = self.order.slice_index(step), (y_hat.shape[2], y_hat.shape[3])
        indices = self.order.indices(step, size, y_hat.device)
        tokens = self._features(step, y_hat, state).flatten(1, 2).index_select(1, indices)
        if step % self.order.consecutive_passes:
            tokens = tokens + self.update_later[str(step)](tokens)
        change = self.head[step](tokens)
        whole = change.new_zeros(len(change), size[0] * size[1], change.shape[2]).index_copy(1, indices, change)
        mean, *log_scales = whole.mT.unflatten(2, size).split(self.order.slices[k], dim=1)
        mean = state.means[k] + mean * state.spreads[k]
        state.steps = max(state.steps, step + 1)
        if not log_scales:
            return mean, torch.ones_like(mean)
        positions = self.order.positions(step, size, y_hat.device)
        state.predicted[k] = torch.where(positions, mean, state.predicted[k]) if k in state.predicted else mean
        return mean, (state.log_scales[k] + log_scales[0]).clamp(max=MOST_LOG_SCALE).exp()

    def _features(self, step: int, y_hat: Tensor, state: CarriedState) -> Tensor:
        """What `step` sees, (batch, H, W, dim); keeps what is carried in `state`."""
        order, size = self.order, (y_hat.shape[2], y_hat.shape[3])
        group = order.consecutive_passes
        while state.taken < step // group:
            first = state.taken * group
            whole = EVERYWHERE[0].positions(size, y_hat.device)
            positions = order.positions(first, size, y_hat.device) if order.passes_outer else whole
            coded = self.added[state.taken](self._coded(first, positions, y_hat, state))
            features = state.features + _channels_last(coded)
            state.features, state.taken = self.mix[state.taken](features), state.taken + 1
        if step % group == 0:
            return state.features
        positions = order.coded_positions(step, size, y_hat.device)
        coded = self.added_later[str(step)](self._coded(step, positions, y_hat, state))
        return state.features + _channels_last(coded)

    def _coded(self, step: int, positions: Tensor, y_hat: Tensor, state: CarriedState) -> Tensor:
        """What is coded of a step's slice, how far predictions were off if that counts, and where it is."""
        k = self.order.slice_index(step)
        own = self.order.select(step, y_hat)
        coded = [own] if self.means_only else [own, (own - state.predicted[k]).abs()]
        known = keep_at(positions, torch.cat([x / state.spreads[k] for x in coded], dim=1))
        where = positions.to(own.dtype).expand(len(own), 1, -1, -1)
        # channels last in memory, so that what the convolution gives needs no transposing
        return torch.cat([_channels_last(known), _channels_last(where)], dim=3).permute(0, 3, 1, 2)


def _update(dim: int) -> nn.Sequential:
    """LayerNorm and a perceptron of twice the width, with small outputs at first."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.ReLU(), scaled(nn.Linear(2 * dim, dim), 0.3))


def _channels_last(x: Tensor) -> Tensor:
    """(batch, dim, H, W) as (batch, H, W, dim)."""
    return x.permute(0, 2, 3, 1)


def _spreads(M: int, spread: Sequence[float] | None) -> list[float]:
    """Spreads as numbers, so that a context can be made on the meta device."""
    spreads = [1.0] * M if spread is None else [float(value) for value in spread]
    if len(spreads) != M or not all(0 < value < math.inf for value in spreads):
        raise ArgumentError(f"CarriedStateContext: spread must hold M={M} finite positive numbers, got {spread!r:.80}")
    return spreads


def _order(M: int, num_slices: int | None, order: CodingOrder | None, spreads: list[float]) -> CodingOrder:
    """The coding order that the arguments of `CarriedStateContext` ask for."""
    if order is None:
        slices = growing_slices(M, min(_SLICES, M) if num_slices is None else num_slices)
        return CodingOrder.checkerboard(slices, permutation=sorted(range(M), key=lambda channel: -spreads[channel]))
    return check_order("CarriedStateContext", M, order, num_slices=num_slices)
