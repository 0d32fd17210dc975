"""Inputs of the laws, each made from a few integers, so that a failure is one line to replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssmctx.errors import ArgumentError
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.testing.contract import streams, with_streams

__all__ = ["CORRUPTIONS", "LATENTS", "Corruption", "Image", "Latent", "ScanCase", "corruptions_of"]

LATENTS = ("normal", "spikes", "halves", "constant", "zero")
"""Kinds of latents: noise; noise with rare far outliers; every value half way between two symbols; one value; zero."""

CORRUPTIONS = ("cut", "empty", "flip", "noise", "swap", "extend")
"""Ways to damage a stream: keep its beginning; keep nothing; flip a bit; exchange its bytes for random ones; exchange
it for another of the same image; append to it."""


@dataclass(frozen=True)
class Latent:
    """A latent y.

    Args:
        channels: of it.
        height: in cells.
        width: in cells.
        batch: images.
        seed: of its values.
        kind: of `LATENTS`.
        scale: standard deviation of the noise.

    Examples:
        >>> from ssmctx.testing import Latent
        >>> Latent(4, 3, 5, seed=7).tensor().shape
        torch.Size([1, 4, 3, 5])
    """

    channels: int
    height: int
    width: int
    batch: int = 1
    seed: int = 0
    kind: str = "normal"
    scale: float = 4.0

    def tensor(self) -> Tensor:
        """The latent, (batch, channels, height, width)."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.batch, self.channels, self.height, self.width)
        y = self.scale * torch.randn(shape, generator=generator)
        if self.kind == "spikes":
            rare = torch.rand(shape, generator=generator) < 0.02
            return torch.where(rare, 500 * y, y)
        if self.kind == "halves":
            return y.round() + 0.5
        if self.kind == "constant":
            return y.flatten()[0].expand(shape).clone()
        if self.kind == "zero":
            return torch.zeros(shape)
        if self.kind != "normal":
            raise ArgumentError(f"kind must be one of {LATENTS}, got {self.kind!r}")
        return y


@dataclass(frozen=True)
class Image:
    """An image x with values in 0..1: gradients, edges and noise.

    Args:
        height: in pixels.
        width: in pixels.
        batch: images.
        seed: of its values.
        channels: of it.

    Examples:
        >>> from ssmctx.testing import Image
        >>> Image(64, 96).tensor().shape
        torch.Size([1, 3, 64, 96])
    """

    height: int
    width: int
    batch: int = 1
    seed: int = 0
    channels: int = 3

    def tensor(self) -> Tensor:
        """The image, (batch, channels, height, width)."""
        generator = torch.Generator().manual_seed(self.seed)
        per = (self.batch, self.channels, 1, 1)
        rise, fall, edge = (torch.rand(per, generator=generator) for _ in range(3))
        row, column = torch.linspace(0, 1, self.height)[:, None], torch.linspace(0, 1, self.width)
        noise = torch.rand(self.batch, self.channels, self.height, self.width, generator=generator)
        x = rise * row + fall * column + 0.5 * (row + column > 2 * edge) + 0.2 * noise
        return (x / 2).clamp(0, 1)


@dataclass(frozen=True)
class ScanCase:
    """Arguments of a scan.

    Args:
        batch: images.
        height: in positions.
        width: in positions.
        channels: d.
        states: N.
        directions: scan directions.
        softplus: whether step sizes go through a softplus.
        dt_shift: added to the step sizes; -12 makes memory long, 6 makes it short.
        seed: of the values.
        rank: of low-rank step sizes; 0 for step sizes that are given whole.

    Examples:
        >>> from ssmctx.testing import ScanCase
        >>> ScanCase(height=2, width=3, channels=5).tensors()["dt_raw"].shape
        torch.Size([1, 2, 3, 4, 5])
    """

    batch: int = 1
    height: int = 3
    width: int = 4
    channels: int = 5
    states: int = 2
    directions: Sequence[str] = DIRECTIONS
    softplus: bool = True
    dt_shift: float = 0.0
    seed: int = 0
    rank: int = 0

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """The eight tensors that a backend takes, by name; of low-rank step sizes their factor dt_weight as a ninth."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        grid, count = (self.batch, self.height, self.width), len(self.directions)
        # without a softplus step sizes must be positive as they come
        shift = self.dt_shift if self.softplus else abs(self.dt_shift) + 6
        values = {
            "u": normal(*grid, self.channels),
            "dt_raw": normal(*grid, count, self.channels) + shift,
            "A": -normal(count, self.channels, self.states).exp(),
            "B": normal(*grid, count, self.states),
            "C": normal(*grid, count, self.states),
            "D": normal(count, self.channels),
            "dt_bias": normal(count, self.channels).clamp(-2, 2),
            "h0": normal(self.batch, count, self.channels, self.states),
        }
        if self.rank:
            low_rank, weight = normal(*grid, count, self.rank), normal(count, self.channels, self.rank)
            weight = weight * self.rank**-0.5
            if not self.softplus:
                low_rank, weight = low_rank.abs(), weight.abs()
            values |= {"dt_raw": low_rank, "dt_bias": values["dt_bias"] + shift, "dt_weight": weight}
        return {name: value.to(dtype) for name, value in values.items()}


@dataclass(frozen=True)
class Corruption:
    """Damage to one of the streams of `compress`.

    Args:
        kind: of `CORRUPTIONS`.
        stream: which one, in the order in which they are nested; counts round.
        offset: how many bytes to keep ("cut"), which bit to flip ("flip"), the seed of the bytes ("noise" and
            "extend"), how many streams further to take from ("swap"); counts round.

    Examples:
        >>> from ssmctx.testing import Corruption
        >>> Corruption("cut", stream=1, offset=2).apply([[b"stream of y"], [b"of z"]])
        [[b'stream of y'], [b'of']]
    """

    kind: str
    stream: int = 0
    offset: int = 0

    def apply(self, strings: Any) -> Any:
        """The same nesting with one stream damaged."""
        parts = streams(strings)
        number = self.stream % len(parts)
        parts[number] = self._damaged(parts, number)
        return with_streams(strings, parts)

    def _damaged(self, parts: list[bytes], number: int) -> bytes:
        data = parts[number]
        if self.kind == "cut":
            return data[: self.offset % max(1, len(data))]
        if self.kind == "empty":
            return b""
        if self.kind == "flip":
            changed = bytearray(data)
            if data:
                changed[self.offset // 8 % len(data)] ^= 1 << self.offset % 8
            return bytes(changed)
        if self.kind in ("noise", "extend"):
            generator = torch.Generator().manual_seed(self.offset)
            count = len(data) if self.kind == "noise" else 4
            noise = bytes(torch.randint(256, (count,), generator=generator).tolist())
            return noise if self.kind == "noise" else data + noise
        if self.kind == "swap":
            return parts[(number + 1 + self.offset % max(1, len(parts) - 1)) % len(parts)]
        raise ArgumentError(f"kind must be one of {CORRUPTIONS}, got {self.kind!r}")


def corruptions_of(strings: Any) -> list[Corruption]:
    """Up to 13 corruptions of each stream: cuts and flips from its beginning to its end, and one of each other kind.

    Args:
        strings: streams, nested as a codec nests them.

    Examples:
        >>> from ssmctx.testing import corruptions_of
        >>> [damage.kind for damage in corruptions_of([[b"y"]])]
        ['flip', 'flip', 'flip', 'empty', 'noise', 'swap', 'extend']
    """
    found = []
    for number, data in enumerate(streams(strings)):
        size = len(data)
        cuts = sorted({size // 4, size // 2, size - 4, size - 1} & set(range(1, size)))
        flips = sorted({0, 13, 4 * size, 8 * size - 33, 8 * size - 1} & set(range(8 * size)))
        found += [Corruption("cut", number, offset) for offset in cuts]
        found += [Corruption("flip", number, offset) for offset in flips]
        found += [Corruption(kind, number, 1) for kind in ("empty", "noise", "swap", "extend")]
    return found
