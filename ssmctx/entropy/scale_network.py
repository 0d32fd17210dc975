"""Scales of y from z's symbols by integers: the same table rows on every machine, by proof."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.distributions import ScaleGrid
from ssmctx.entropy.gains import QUALITY_UNITS, Gain, QualityGains
from ssmctx.entropy.integer_conv import ACTIVATION_BITS, LARGEST_ACTIVATION, WEIGHT_BITS, IntegerConv2d, to_whole
from ssmctx.entropy.lower_bound import LowerBound
from ssmctx.entropy.steps import LatentScales
from ssmctx.entropy.stored_tables import HeldTables
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.layers.checks import check_positive
from ssmctx.stages import stage

__all__ = ["ScaleNetwork"]

_MOST_SYMBOL = 1 << 15
_MOST_FACTOR = 1 << 13  # of a symbol; 2^10 stands for 1
_LEAST_WIDTH = 96


class ScaleNetwork(HeldTables):
    r"""A small network of integers, from z's symbols to the table row of every element of y.

    $$ X_{k+1} = \min(\mathrm{ReLU}(\lfloor 2^{-14} (W_k * X_k + B_k) \rceil), 2^{20} - 1), \quad
    \mathrm{row} = \lfloor 2^{-f} (\lfloor 2^{-14} (W_n * X_n + B_n) \rceil + o) \rceil $$

    Two 3x3 convolutions on z's grid, two that double both sides, and a 1x1 convolution on y's. The last one gives
    levels: tabled scales are log-spaced, and it counts them in parts of $2^{-f}$. So a row is read off by a shift, and
    a gain of quality is an offset o. In evaluation all of it runs in float64 on integers, which is exact whatever
    the device and the order of summation (`ssmctx.entropy.integer_conv` has the proof), and needs no guard. In training
    the same network runs in the precision of its weights, with gradients straight through the rounding, and gives
    scales between the tabled ones.

    `update` makes the integers that code, of weights and gains; estimates are those of the weights of now.

    Args:
        M: channels of y.
        hyper_channels: channels of z.
        width: channels on z's grid, half as many on finer ones; default the larger of 96 and hyper_channels.
        grid: the tabled scales.
        exact: False is the same network in floating point, without rounding and with a guard in its files, to measure
            what the integers cost.

    Raises:
        ArgumentError: a size is below 1.

    Source:
        Integer networks of Balle et al., 2019; scales from integers and means from floats as in JPEG AI (ISO/IEC
        6048-1) and DCVC-UF.

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
        M: int,
        hyper_channels: int,
        width: int | None = None,
        grid: ScaleGrid = ScaleGrid(),  # noqa: B008 - frozen
        exact: bool = True,
    ) -> None:
        super().__init__()
        width = max(_LEAST_WIDTH, hyper_channels) if width is None else width
        check_positive("ScaleNetwork", M=M, hyper_channels=hyper_channels, width=width)
        self.M, self.hyper_channels, self.grid, self.exact = M, hyper_channels, grid, exact
        self.spacing = math.log(grid.maximum / grid.minimum) / (grid.levels - 1)
        # 1 at the head's end is about a factor of e, as in other heads that give log scales
        self.level_bits = ACTIVATION_BITS - min(max(round(-math.log2(self.spacing)), 0), ACTIVATION_BITS - 1)
        half = -(-width // 2)
        self.body = nn.ModuleList(
            IntegerConv2d(inputs, outputs, 3, largest, exact)
            for inputs, outputs, largest in (
                (hyper_channels, width, _MOST_SYMBOL * _MOST_FACTOR),
                (width, width, LARGEST_ACTIVATION),
                (width, 4 * half, LARGEST_ACTIVATION),
                (half, 4 * half, LARGEST_ACTIVATION),
            )
        )
        self.head = IntegerConv2d(half, M, 1, LARGEST_ACTIVATION, exact)
        self.level_bound = LowerBound(0.0)
        with torch.no_grad():  # scales begin near 1
            self.head.weight.mul_(0.1)
            self.head.bias.fill_(-math.log(grid.minimum) / self.spacing * 2.0 ** (self.level_bits - ACTIVATION_BITS))

    def forward(self, symbols: Tensor, gain: Gain, size: torch.Size, frozen: bool = False) -> LatentScales:
        """Scales of the whole latent.

        Args:
            symbols: of z, (batch, hyper_channels, h, w), integers.
            gain: of the quality.
            size: height and width of y.
            frozen: use what `update` made, as coding must, not the weights of now.

        Returns:
            In evaluation of an exact network tabled scales and their rows, else scales.

        Raises:
            ShapeError: y is larger than four times z.
            NotUpdatedError: frozen, but `update` was not called.
        """
        rounds = self.exact and not self.training
        x = symbols
        if rounds:
            x = (symbols.cpu() if symbols.device.type == "mps" else symbols).double()  # Apple's GPUs have no float64
        with stage("scale_network"), torch.autocast(x.device.type, enabled=False):
            levels = self._levels(x, gain, size, frozen and self.exact) * 2.0**-self.level_bits
            if not rounds:
                return LatentScales(self._between(levels))
            rows = torch.floor(levels + 0.5).to(symbols.device, torch.int64).clamp(0, self.grid.levels - 1)
            scale = self.grid.tensor(symbols)[rows]
            if levels.requires_grad:  # as who refines a latent needs it
                smooth = self._between(levels).to(scale)
                scale = scale + (smooth - smooth.detach())
            return LatentScales(scale, rows)

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
        layers = [*self.body, self.head]
        for number, layer in enumerate(layers):
            if not hasattr(layer, "freeze"):
                raise ArgumentError(
                    f"layer {number} of the scale network is wrapped in {type(layer).__name__}, through which it gives "
                    "no integers: merge what the wrapper adds into the weights before update()"
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
        self(weight.new_zeros(1, self.hyper_channels, 1, 1), Gain(), torch.Size((1, 1)))
        for layer in layers:
            layer.freeze()
        if gains is not None:  # each quality that a file can tell
            every = gains([units / QUALITY_UNITS for units in range((gains.count - 1) * QUALITY_UNITS + 1)])
            offsets, factors = self._offset_and_factor(every)
            self._hold({"offsets": offsets.to(torch.int32), "factors": factors.to(torch.int32)})
        return True

    def _between(self, levels: Tensor) -> Tensor:
        """Scales of real levels, within the table."""
        top = self.grid.levels - 1
        levels = top - self.level_bound(top - self.level_bound(levels))
        return self.grid.minimum * torch.exp(levels * self.spacing)

    def _levels(self, x: Tensor, gain: Gain, size: torch.Size, frozen: bool) -> Tensor:
        """Levels of the table's scales in parts of 2^-level_bits, (batch, M, H, W)."""
        offset, factor = self._held_gain(gain) if frozen else self._offset_and_factor(gain)
        x = x.clamp(-_MOST_SYMBOL, _MOST_SYMBOL) * factor.to(x.device, x.dtype)
        for number, layer in enumerate(self.body):
            x = self._requantised(layer(x, frozen)).clamp(0, LARGEST_ACTIVATION)
            if number >= 2:
                x = F.pixel_shuffle(x, 2)
        if x.shape[2] < size[0] or x.shape[3] < size[1]:
            raise ShapeError(
                f"the scale network makes 4 cells of y of one of z, along each side: {tuple(x.shape[2:])} here, where "
                f"y has {tuple(size)}; make h_a with a stride of 4"
            )
        x = x[..., : size[0], : size[1]]
        return self._requantised(self.head(x, frozen)) + offset.to(x.device, x.dtype)

    def _requantised(self, sums: Tensor) -> Tensor:
        scaled = sums * 2.0**-WEIGHT_BITS
        return to_whole(scaled) if self.exact else scaled

    def _offset_and_factor(self, gain: Gain) -> tuple[Tensor, Tensor]:
        """What a gain adds to levels, and what multiplies z's symbols, each (batch or 1, channels, 1, 1)."""
        one = float(1 << ACTIVATION_BITS)
        if gain.y is None or gain.z is None:
            return torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), one)
        offset = gain.y.log() / self.spacing * float(1 << self.level_bits)
        factor = (one / gain.z).clamp(1, _MOST_FACTOR)
        return (to_whole(offset), to_whole(factor)) if self.exact else (offset, factor)

    def _held_gain(self, gain: Gain) -> tuple[Tensor, Tensor]:
        """The same, from the integers that `update` made."""
        if not gain.units:
            return self._offset_and_factor(Gain())
        units = list(gain.units)
        return self.offsets[units], self.factors[units]
