r"""A convolution of integers that gives the same integers on every machine.

Weights and activations are integers that stand for multiples of powers of two: $w = 2^{-14} W$, $x = 2^{-10} X$. Sums
of products are computed in float64, which holds every integer up to $2^{53}$, times a power of two. As long as

$$ \max_o \Big( |B_o| + \textstyle\sum_i |W_{oi}| \cdot \max |X| \Big) + 2^{13} < 2^{53}, $$

no partial sum of any order rounds, and neither device nor library nor the number of threads can change the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.entropy.scale_network.neighbours import kernel_at
from ssmctx.entropy.stored_tables import HeldTables
from ssmctx.errors import ArgumentError, CheckpointError, NonFiniteError, NotUpdatedError

__all__ = ["ACTIVATION_BITS", "LARGEST_ACTIVATION", "WEIGHT_BITS", "IntegerConv2d", "to_integer"]

WEIGHT_BITS = 14
"""Weights are multiples of 2^-14."""

ACTIVATION_BITS = 10
"""Activations are multiples of 2^-10."""

LARGEST_ACTIVATION = (1 << 20) - 1
"""Activations end here, after the ReLU; it stands for just under 1024."""

_EXACT = 1 << 53
_HALF = 1 << (WEIGHT_BITS - 1)  # what requantising adds before it rounds down
_MOST_WEIGHT = (1 << 31) - 1


def to_integer(x: Tensor) -> Tensor:
    """The nearest integers, halves up, as floating-point numbers, with the gradient of x."""
    nearest = (x.detach() + 0.5).floor_()
    return x + (nearest - x.detach()) if x.requires_grad else nearest


class IntegerConv2d(HeldTables):
    r"""Convolution with zero padding that keeps height and width, in integers; of channels last where it is 1x1.

    $$ Y_o = \lfloor 2^{-14} (B_o + \textstyle\sum_i W_{oi} X_i) \rceil, \quad
    W = \lfloor 2^{14} w \rceil, \quad B = \lfloor 2^{24} b \rceil $$

    Trained as w and b, in floating point, through the rounding. `freeze` makes the integers, which live in the state
    dict from then on, with the bound of the sums; they are no buffers, so that nothing narrows or averages them.

    Args:
        inputs: channels of x.
        outputs: channels of y.
        kernel: side of the kernel, odd.
        largest: no input is larger in magnitude.
        exact: False computes in floating point without rounding anything, to see what rounding costs.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.scale_network.integer_conv import IntegerConv2d
        >>> conv = IntegerConv2d(2, 3, kernel=3, largest=1000)
        >>> conv.freeze() < 2**53
        True
        >>> x = torch.randint(-1000, 1001, (1, 2, 4, 5)).double()
        >>> y = conv(x, frozen=True)
        >>> torch.equal(y, y.round()), torch.equal(y, conv(x))
        (True, True)
    """

    _held = ("whole_weight", "whole_bias", "bound")
    whole_weight: Tensor
    whole_bias: Tensor
    bound: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, largest: int, exact: bool = True) -> None:
        super().__init__()
        self.kernel, self.largest, self.exact = kernel, largest, exact
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, frozen: bool = False, taps: Sequence[int] | None = None) -> Tensor:
        """The convolution of x, halves rounded up.

        Args:
            x: activations in units of 2^-10, (batch, inputs, H, W); where the kernel is 1, (..., inputs).
            frozen: use the integers that `freeze` made, not the weights of now.
            taps: x holds what these taps of the kernel see, one after the other, (..., taps * inputs); the others see
                zero. Row by row, from 0.

        Returns:
            Activations in the same units, (batch, outputs, H, W) or (..., outputs), of x's dtype.

        Raises:
            NotUpdatedError: frozen, but there are no integers yet.
            CheckpointError: the integers that were loaded are not those of their bound.
        """
        if frozen:
            weight, bias = (whole.to(x.device, x.dtype) for whole in self._integers())
        else:
            weight, bias = self._folded(*(self._scaled(p, bits, x.dtype) for p, bits in self._parameters_and_bits()))
        if taps is not None:
            sums = F.linear(x, kernel_at(weight, taps), bias)
        elif self.kernel == 1:
            sums = F.linear(x, weight.flatten(1), bias)
        else:
            sums = F.conv2d(x, weight, bias, padding=self.kernel // 2)
        if not self.exact:
            return sums
        return sums + (sums.floor() - sums).detach() if sums.requires_grad else sums.floor_()

    @torch.no_grad()
    def freeze(self) -> int:
        """Make the integers of the weights as they are, and prove that no sum of theirs can round.

        Returns:
            The largest magnitude that a sum, or a part of it in any order, can have.

        Raises:
            NonFiniteError: a weight is NaN or infinite.
            ArgumentError: the bound is not below 2^53, or a weight does not fit in 32 bits.
        """
        weight, bias = (self._scaled(p, bits, torch.float64).cpu() for p, bits in self._parameters_and_bits())
        if not bool(weight.isfinite().all() & bias.isfinite().all()):
            raise NonFiniteError("IntegerConv2d: weights must be finite to become integers, got NaN or an infinity")
        bound = self._largest_sum(weight, bias)
        if not bound < _EXACT or not bool(weight.abs().max() <= _MOST_WEIGHT):
            raise ArgumentError(
                f"IntegerConv2d: sums up to {bound:.3g} could occur, float64 holds integers below 2^53 = "
                f"{_EXACT:.3g}; weights of magnitude {weight.abs().max() * 2.0**-WEIGHT_BITS:.3g} are too large: train "
                "with weight decay or a lower learning rate"
            )
        self._hold(
            {
                "whole_weight": weight.to(torch.int32),
                "whole_bias": bias.to(torch.int64),
                "bound": torch.tensor([int(bound)]),
            }
        )
        return int(bound)

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape[:2]
        return f"{inputs}, {outputs}, kernel={self.kernel}, largest={self.largest}, exact={self.exact}"

    def _parameters_and_bits(self) -> tuple[tuple[Tensor, int], ...]:
        return (self.weight, WEIGHT_BITS), (self.bias, WEIGHT_BITS + ACTIVATION_BITS)

    def _scaled(self, parameter: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
        scaled = parameter.to(dtype) * float(1 << bits)
        return to_integer(scaled) if self.exact else scaled

    def _folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Both so that a sum needs only to be rounded down; a factor of a power of two rounds nothing."""
        unit = 2.0**-WEIGHT_BITS
        return weight * unit, bias * unit + (0.5 if self.exact else 0.0)

    def _largest_sum(self, weight: Tensor, bias: Tensor) -> float:
        """Exact below 2^53, and not below 2^53 where the exact number is not."""
        return (weight.abs().sum((1, 2, 3)) * self.largest + bias.abs()).max().item() + _HALF

    def _integers(self) -> tuple[Tensor, Tensor]:
        """Folded weight and bias in float64, checked against their bound when they are first used."""
        if not self.whole_weight.numel():
            raise NotUpdatedError("the scale network has no integers yet: call update() after training, before coding")
        return self._prepared.of(self._check, self.whole_weight, self.whole_bias, self.bound)

    def _check(self) -> tuple[Tensor, Tensor]:
        weight, bias = self.whole_weight.double(), self.whole_bias.double()
        if weight.shape != self.weight.shape or bias.shape != self.bias.shape:
            raise CheckpointError(
                f"IntegerConv2d: integers of shape {tuple(self.weight.shape)} and {tuple(self.bias.shape)} are needed, "
                f"got {tuple(weight.shape)} and {tuple(bias.shape)}"
            )
        bound = self._largest_sum(weight, bias)
        if not bound < _EXACT or not np.array_equal(self.bound.numpy(), [int(bound)]):
            raise CheckpointError(
                f"IntegerConv2d: the checkpoint's integers can sum up to {bound:.6g}, it says {self.bound.tolist()}: "
                "it is damaged"
            )
        return self._folded(weight, bias)
