"""Scales of y from decoded symbols by integers: the same table rows on every machine, by proof."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.context.base import keep_at
from ssmctx.context.order import EVERYWHERE, CodingOrder
from ssmctx.distributions import ScaleGrid
from ssmctx.entropy.gains import QUALITY_UNITS, Gain, QualityGains
from ssmctx.entropy.lower_bound import LowerBound
from ssmctx.entropy.scale_network.integer_conv import ACTIVATION_BITS, LARGEST_ACTIVATION, IntegerConv2d, to_integer
from ssmctx.entropy.scale_network.neighbours import ALL_TAPS, coded_taps, neighbourhoods
from ssmctx.entropy.scale_network.steps import ScaleState, StepScales, scale_steps
from ssmctx.entropy.steps import drive
from ssmctx.entropy.stored_tables import HeldTables
from ssmctx.errors import ArgumentError, NotUpdatedError, ShapeError
from ssmctx.layers.checks import check_positive
from ssmctx.stages import stage

__all__ = ["ScaleNetwork"]

_MOST_SYMBOL = 1 << 15
_MOST_FACTOR = 1 << 13  # of a symbol; 2^10 stands for 1
_MOST_RESIDUAL = 15  # larger magnitudes are clamped
_Z_WIDTHS = 96, 48  # channels on z's grid and on the next finer one


class ScaleNetwork(HeldTables):
    r"""A small network of integers, from decoded symbols to the table row of every element of y.

    $$ f_0 = \mathrm{body}(\hat z), \quad f_{k+1} = f_k + B_k\,\mathrm{ReLU}(f_k + A_k |q_k|) $$

    $$ \mathrm{row}_t = \lfloor 2^{-b} (\mathrm{head}_t(\phi_t) + o) \rceil, \quad
    \phi_t = f_k \;\text{or, in a later pass,}\; \phi_t = f_k + A_t |q_{k,<t}| $$

    q_k are the residuals of slice k, in quantisation steps: the symbols themselves. Their magnitudes tell how wide the
    next ones will be, so that nothing need be known of means, which come from floating point. Every layer is a
    convolution $\lfloor 2^{-14} (W * X + B) \rceil$ of integers, 3x3 on z's grid, in the two that double both sides and
    in A, 1x1 elsewhere. The last one gives levels: tabled scales are log-spaced, and it counts them in parts of
    $2^{-b}$. So a row is read off by a shift, and a gain of quality is an offset o.

    In evaluation all of it runs in float64 on integers, which is exact whatever the device and the order of
    summation (`integer_conv.py` has the proof), and needs no guard. In training the same network runs in
    the precision of its weights, with gradients straight through the rounding, and gives scales between the tabled
    ones. `update` makes the integers that code, of weights and gains; estimates are those of the weights of now.

    Args:
        order: the coding order of y.
        hyper_channels: channels of z.
        width: channels of the carried feature map.
        grid: the tabled scales.
        exact: False is the same network in floating point, without rounding and with a guard in its files, to measure
            what the integers cost.

    Raises:
        ArgumentError: a size is below 1.

    Source:
        Integer networks of Balle et al., 2019; scales from integers and means from floats as in JPEG AI (ISO/IEC
        6048-1) and DCVC-UF. That the scales see the symbols of earlier steps is ours.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> model = MambaICEntropyModel(M=20, hyper_channels=12, N=8, scales="integer").eval()
        >>> _ = model.update()
        >>> coded = model.compress(torch.randn(1, 20, 5, 7))
        >>> len(coded["strings"])  # y, z and checksums: no guard
        3
    """

    _held = ("offsets", "factors")
    offsets: Tensor
    factors: Tensor

    def __init__(
        self,
        order: CodingOrder,
        hyper_channels: int,
        width: int = 48,
        grid: ScaleGrid = ScaleGrid(),  # noqa: B008 - frozen
        exact: bool = True,
    ) -> None:
        super().__init__()
        check_positive("ScaleNetwork", hyper_channels=hyper_channels, width=width)
        self.order, self.hyper_channels, self.grid, self.exact = order, hyper_channels, grid, exact
        # 1 at the head's end is about a factor of e, as in other heads that give log scales
        self.level_bits = ACTIVATION_BITS - min(max(round(-math.log2(grid.spacing)), 0), ACTIVATION_BITS - 1)

        def conv(inputs: int, outputs: int, kernel: int = 1, largest: int = LARGEST_ACTIVATION) -> IntegerConv2d:
            return IntegerConv2d(inputs, outputs, kernel, largest, exact)

        def taking(channels: int) -> IntegerConv2d:
            return conv(channels, width, 3, _MOST_RESIDUAL << ACTIVATION_BITS)

        steps = range(order.num_steps)
        widths = [order.slices[order.slice_index(step)] for step in steps]
        group = order.consecutive_passes
        coarse, finer = _Z_WIDTHS
        self.body = nn.ModuleList(
            [
                conv(hyper_channels, coarse, 3, _MOST_SYMBOL * _MOST_FACTOR),
                conv(coarse, 4 * finer, 3),
                conv(finer, 4 * width, 3),
            ]
        )
        carried = widths[::group][:-1]
        self.added = nn.ModuleList(taking(channels) for channels in carried)
        mixes = [conv(width, width) for _ in carried]
        self.mix = nn.ModuleList(mixes)
        self._taps = [coded_taps(order.lattices, number) for number in range(group)]
        self.added_later = nn.ModuleDict({str(t): taking(widths[t]) for t in steps if t % group})
        self.hidden = nn.ModuleList(conv(width, width) for _ in steps)
        heads = [conv(width, channels) for channels in widths]
        self.head = nn.ModuleList(heads)
        self.level_bound = LowerBound(0.0)
        with torch.no_grad():  # scales begin near 1
            for mix in mixes:
                mix.weight.mul_(0.3)
            for head in heads:
                head.weight.mul_(0.1)
                head.bias.fill_(-math.log(grid.minimum) / grid.spacing * 2.0 ** (self.level_bits - ACTIVATION_BITS))

    def forward(self, step: int, residuals: Sequence[Tensor], state: ScaleState) -> StepScales:
        """Scales of what a step codes.

        Args:
            step: the coding step; steps are asked for in their order.
            residuals: q by slices, (batch, m, H, W) each, integers; only what earlier steps coded is looked at.
            state: of this latent, made for its first step.

        Returns:
            Table rows where frozen integers are used, else scales; in evaluation of an exact network tabled ones.

        Raises:
            ShapeError: y is larger than four times z.
            NotUpdatedError: frozen, but `update` was not called.
        """
        rounds = self.exact and not self.training
        device = state.symbols.device
        with stage("scale_network", step), torch.autocast(device.type, enabled=False):
            levels = self._levels(step, residuals, state) * 2.0**-self.level_bits
            if not rounds:
                return StepScales(step, self._between(levels))
            rows = (levels.detach() + 0.5).floor_().to(device, torch.int32).clamp_(0, self.grid.levels - 1)
            if state.frozen:
                return StepScales(step, rows)
            scale = self.grid.tensor(state.symbols)[rows]
            if levels.requires_grad:  # needed to refine a latent
                smooth = self._between(levels).to(scale)
                scale = scale + (smooth - smooth.detach())
            return StepScales(step, scale)

    @torch.no_grad()
    def update(self, gains: QualityGains | None = None, force: bool = False) -> bool:
        """Make the integers of weights and gains, and prove that no sum of theirs can round.

        Args:
            gains: of the model's qualities.
            force: make them again if they exist.

        Returns:
            Whether anything was made.

        Raises:
            ArgumentError: a sum could reach 2^53, a layer is wrapped in a module that hides it, or weights are
                offloaded or sharded.
            NonFiniteError: a weight is NaN or infinite.
        """
        if not self.exact:
            return False
        parts = (self.body, self.added, self.mix, self.added_later.values(), self.hidden, self.head)
        layers: list[Any] = [layer for part in parts for layer in part]
        for layer in layers:
            if not hasattr(layer, "freeze"):
                raise ArgumentError(
                    f"a layer of the scale network is wrapped in {type(layer).__name__}, through which it gives no "
                    "integers: merge what the wrapper adds into the weights before update()"
                )
        if all(layer.whole_weight.numel() for layer in layers) and not force:
            return False
        weight = next(self.parameters())
        if any(p.is_meta or hasattr(p, "device_mesh") for p in self.parameters()):
            raise ArgumentError(
                "ScaleNetwork: update() needs all weights, and some are offloaded or sharded: call it before, or on a "
                "model that holds all of its weights"
            )
        # once through, for what sets weights when it is called, as pruning does
        symbols = weight.new_zeros(1, self.hyper_channels, 1, 1)
        drive(scale_steps(self, symbols, Gain(), (1, 1)), lambda own: torch.zeros_like(own.values))
        for layer in layers:
            layer.freeze()
        if gains is not None:  # each quality that a file can store
            every = gains([units / QUALITY_UNITS for units in range((gains.count - 1) * QUALITY_UNITS + 1)])
            offsets, factors = self._offset_and_factor(every)
            self._hold({"offsets": offsets.to(torch.int32), "factors": factors.to(torch.int32)})
        return True

    def _between(self, levels: Tensor) -> Tensor:
        """Scales of real levels, within the table."""
        top = self.grid.levels - 1
        levels = top - self.level_bound(top - self.level_bound(levels))
        return self.grid.minimum * torch.exp(levels * self.grid.spacing)

    def _levels(self, step: int, residuals: Sequence[Tensor], state: ScaleState) -> Tensor:
        """Levels of the table's scales in parts of 2^-level_bits, (batch, m, P)."""
        carried = self._carried(step, residuals, state)
        own = carried.index_select(1, self.order.indices(step, state.size, carried.device))
        if number := step % self.order.consecutive_passes:
            lattice, taps = self.order.lattices[number], self._taps[number]
            coded = self.order.coded_positions(step, state.size, carried.device)
            around = neighbourhoods(self._magnitudes(step, residuals, coded, own), lattice, taps)
            own = _sum(self.added_later[str(step)](around, self._frozen(state), taps), own)
        hidden = self.hidden[step](_relu(own), self._frozen(state))
        levels: Tensor = self.head[step](_relu(hidden), self._frozen(state)).mT
        if state.gain.y is None:
            return levels
        offset, _ = self._gain(state)
        return levels + self.order.select(step, offset.to(levels.device, levels.dtype))[..., 0]

    def _carried(self, step: int, residuals: Sequence[Tensor], state: ScaleState) -> Tensor:
        """The feature map after all groups of steps before that of `step`, (batch, H * W, width); kept in `state`."""
        order, group = self.order, self.order.consecutive_passes
        carried = self._body(state) if state.features is None else state.features
        while state.taken < step // group:
            first = state.taken * group
            coded = order.positions(first, state.size, carried.device) if order.passes_outer else None
            around = neighbourhoods(self._magnitudes(first, residuals, coded, carried), EVERYWHERE[0], ALL_TAPS)
            added = _sum(self.added[state.taken](around, self._frozen(state), ALL_TAPS), carried)
            update = self.mix[state.taken](_relu(added), self._frozen(state))
            carried = _clamped(_sum(update, carried), -LARGEST_ACTIVATION)
            state.taken += 1
        state.features = carried
        return carried

    def _body(self, state: ScaleState) -> Tensor:
        """The feature map before the first step."""
        x = state.symbols
        if self.exact and not self.training:  # on the CPU where it has to be: Apple's GPUs have no float64
            x = (x.cpu() if x.device.type == "mps" else x).double()
        factor = self._gain(state)[1]
        x = x.clamp(-_MOST_SYMBOL, _MOST_SYMBOL) * factor.to(x.device, x.dtype)
        for number, layer in enumerate(self.body):
            x = layer(x, self._frozen(state))
            if number:
                x = F.pixel_shuffle(x, 2)
            if number < len(self.body) - 1:
                x = _relu(x)
        height, width = state.size
        if x.shape[2] < height or x.shape[3] < width:
            raise ShapeError(
                f"the scale network makes 4 cells of y of one of z, along each side: {tuple(x.shape[2:])} here, where "
                f"y has {(height, width)}; make h_a with a stride of 4"
            )
        return x[..., :height, :width].clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION).flatten(2).mT.contiguous()

    def _magnitudes(self, step: int, residuals: Sequence[Tensor], coded: Tensor | None, like: Tensor) -> Tensor:
        """|q| of a slice as activations, (batch, H, W, m), where `coded` says so and zero elsewhere; None is all."""
        q = residuals[self.order.slice_index(step)]
        q = q if coded is None else keep_at(coded, q)
        magnitudes = q.permute(0, 2, 3, 1).contiguous().abs().clamp_(max=_MOST_RESIDUAL).to(like)
        return magnitudes.mul_(float(1 << ACTIVATION_BITS))

    def _frozen(self, state: ScaleState) -> bool:
        return state.frozen and self.exact

    def _gain(self, state: ScaleState) -> tuple[Tensor, Tensor]:
        """What the gain of a latent adds to levels, and what multiplies z's symbols."""
        units = list(state.gain.units)
        if self._frozen(state) and units:  # the integers that `update` made
            if not self.offsets.numel():
                raise NotUpdatedError("the scale network has no gains yet: call update(force=True) of the model")
            return self.offsets[units], self.factors[units]
        return self._offset_and_factor(state.gain)

    def _offset_and_factor(self, gain: Gain) -> tuple[Tensor, Tensor]:
        """The same of any gain, each (batch or 1, channels, 1, 1)."""
        one = float(1 << ACTIVATION_BITS)
        if gain.y is None or gain.z is None:
            return torch.zeros(1, self.order.num_channels, 1, 1), torch.full((1, 1, 1, 1), one)
        offset = gain.y.log() / self.grid.spacing * float(1 << self.level_bits)
        factor = (one / gain.z).clamp(1, _MOST_FACTOR)
        return (to_integer(offset), to_integer(factor)) if self.exact else (offset, factor)


def _relu(own: Tensor) -> Tensor:
    """What is above zero; in place where no gradient is asked for."""
    return _clamped(own, 0)


def _clamped(own: Tensor, least: float) -> Tensor:
    """Clamped activations; in place where no gradient is asked for."""
    return own.clamp(least, LARGEST_ACTIVATION) if own.requires_grad else own.clamp_(least, LARGEST_ACTIVATION)


def _sum(own: Tensor, other: Tensor) -> Tensor:
    """The sum of both; in place of the first where no gradient is asked for."""
    return own + other if own.requires_grad or other.requires_grad else own.add_(other)
