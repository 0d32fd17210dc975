"""One model at many rates: a gain for each channel, learned for each quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_positive

__all__ = ["QUALITY_UNITS", "Gain", "Quality", "QualityGains", "plain"]

Quality = float | Sequence[float]
"""A quality for a whole batch, or one for each of its images."""

QUALITY_UNITS = 256
"""Files store qualities in units of 1/256."""


class Gain(NamedTuple):
    """Quantisation steps per unit, each (batch or 1, channels, 1, 1); None for 1.

    Attributes:
        y: of y.
        z: of z.
        units: the quality of each image in 1/256, or one for all; none for gains of 1.
    """

    y: Tensor | None = None
    z: Tensor | None = None
    units: tuple[int, ...] = ()

    def of_image(self, image: int) -> Gain:
        """The gain of one image of a batch."""
        if self.y is None or self.z is None or len(self.y) == 1:
            return self
        own = slice(image, image + 1)
        return Gain(self.y[own], self.z[own], self.units[own])


class QualityGains(nn.Module):
    r"""A vector of gains per quality, interpolated between qualities on a log axis.

    $$ g_q = \exp\big((1 - t)\, a_{\lfloor q \rfloor} + t\, a_{\lfloor q \rfloor + 1}\big), \quad
    t = q - \lfloor q \rfloor $$

    Args:
        M: channels of y.
        hyper_channels: channels of z.
        count: qualities, 0 the coarsest; the first gains of y are spread by factors of sqrt(2) around 1.

    Raises:
        ArgumentError: fewer than one quality.

    Source:
        Cui et al., Asymmetric gained deep image compression with continuous rate adaptation, 2021.

    Examples:
        >>> from ssmctx.entropy.gains import QualityGains
        >>> gain = QualityGains(M=2, hyper_channels=1, count=3)(1.5)
        >>> round(gain.y[0, 0, 0, 0].item() ** 4, 3)
        2.0
    """

    def __init__(self, M: int, hyper_channels: int, count: int) -> None:
        super().__init__()
        check_positive("QualityGains", qualities=count)
        self.count = count
        ladder = (torch.arange(count) - (count - 1) / 2) * math.log(2) / 2
        self.log_y = nn.Parameter(ladder[:, None].repeat(1, M))
        self.log_z = nn.Parameter(torch.zeros(count, hyper_channels))

    def forward(self, quality: Quality) -> Gain:
        """Gains of a quality, or of one for each image of a batch.

        Args:
            quality: 0 to count - 1, an integer or between two; rounded to 1/256.

        Raises:
            ArgumentError: out of range.
        """
        units = self.units(quality)
        index = torch.tensor(units, dtype=self.log_y.dtype, device=self.log_y.device) / QUALITY_UNITS
        lower = index.floor().clamp(max=max(0, self.count - 2)).long()
        upper = (lower + 1).clamp(max=self.count - 1)
        t = (index - lower)[:, None]

        def at(log: Tensor) -> Tensor:
            return torch.lerp(log[lower], log[upper], t).exp()[:, :, None, None]

        return Gain(at(self.log_y), at(self.log_z), tuple(units))

    def units(self, quality: Quality) -> list[int]:
        """Qualities as stored in files, in units of 1/256.

        Raises:
            ArgumentError: out of range, or no number.
        """
        numbers = plain(quality)
        values = numbers if isinstance(numbers, (list, tuple)) else [numbers]
        for value in values:
            if not isinstance(value, Real) or not 0 <= float(value) <= self.count - 1:
                raise ArgumentError(f"quality must lie in 0..{self.count - 1}, got {value!r}")
        return [round(value * QUALITY_UNITS) for value in values]


def plain(quality: Any) -> Any:
    """A quality in Python's numbers, where it is a tensor or an array."""
    return quality.tolist() if hasattr(quality, "tolist") else quality
