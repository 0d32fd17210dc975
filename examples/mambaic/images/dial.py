"""Quality 0 to 100, effort, target rate and target PSNR of a file, and coding to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from mambaic.codec import rates
from mambaic.images.measure import bits_per_pixel, psnr
from ssmctx import ImageCodec
from ssmctx.codec.refine import Progress, lambda_at
from ssmctx.entropy.gains import QUALITY_UNITS
from ssmctx.errors import ArgumentError

HIGHEST = 100.0
DEFAULT = 50.0

_REACH = 2.0  # how far lambda goes beyond the qualities, in factors of 2
_TRIES = {False: 12, True: 6}  # without and with refinement
_NEAR = {"bpp": math.log2(1.01), "psnr": 0.03}  # near enough
_SLOPE = {"bpp": 0.5, "psnr": 1.5}  # of either along the dial, as a first guess


@dataclass(frozen=True)
class Wish:
    """Requirements of a file; at most one of quality, bpp and psnr is given.

    Attributes:
        quality: 0 to 100; None for 50, or for a single-rate codec.
        effort: as `ImageCodec.encode` takes it.
        bpp: bits per pixel that the file shall have at most, and nearly.
        psnr: dB that it shall have at least, and nearly.
    """

    quality: float | None = None
    effort: int = 0
    bpp: float | None = None
    psnr: float | None = None


class Coded(NamedTuple):
    """A file's content, the latent that it decodes to, its rate, and its PSNR if requested."""

    data: bytes
    y_hat: Tensor
    bpp: float
    psnr: float | None = None


def on_dial(codec: ImageCodec, quality: float | None) -> float | None:
    """The codec's own quality for one of 0 to 100; None for a single-rate codec.

    Raises:
        ArgumentError: out of range, or given for a single-rate codec.
    """
    count = rates(codec)
    if count is None:
        if quality is None:
            return None
        raise ArgumentError(
            "this checkpoint is single-rate, so --quality does not apply: omit it or use a variable-rate checkpoint"
        )
    wanted = DEFAULT if quality is None else quality
    if not 0 <= wanted <= HIGHEST:
        raise ArgumentError(f"quality must lie between 0 and 100, got {quality:g}")
    return round(wanted / HIGHEST * (count - 1) * QUALITY_UNITS) / QUALITY_UNITS


def encode(codec: ImageCodec, pixels: Tensor, wish: Wish, progress: Progress | None = None) -> Coded:
    """Code uint8 pixels (3, H, W) as wished.

    Raises:
        ArgumentError: a wish that this codec cannot fulfil.
    """
    if wish.bpp is not None or wish.psnr is not None:
        return _reach(codec, pixels, wish, progress)
    data, y_hat = codec.encode_with_latent(pixels, on_dial(codec, wish.quality), wish.effort, progress=progress)
    return Coded(data, y_hat, bits_per_pixel(len(data), *pixels.shape[1:]))


def _reach(codec: ImageCodec, pixels: Tensor, wish: Wish, progress: Progress | None) -> Coded:
    """The best file within the wish: along the qualities, and with an effort beyond them by lambda alone."""
    count, size = rates(codec), (pixels.shape[1], pixels.shape[2])
    top, reach = (0 if count is None else count - 1), (_REACH if wish.effort else 0.0)
    if count is None and not wish.effort:
        raise ArgumentError(
            "this checkpoint is single-rate, so only refinement changes its rate: give --effort 3 or use a "
            "variable-rate checkpoint"
        )

    def at(position: float) -> Coded:
        within = min(max(position, 0.0), float(top))
        quality = None if count is None else round(within * QUALITY_UNITS) / QUALITY_UNITS
        lmbda = lambda_at(codec.lmbda, quality) * 2 ** (position - within) if wish.effort else None
        data, y_hat = codec.encode_with_latent(pixels, quality, wish.effort, lmbda, progress)
        reached = None if wish.psnr is None else psnr(codec.image_of(y_hat, size), pixels)
        return Coded(data, y_hat, bits_per_pixel(len(data), *size), reached)

    return search(at, wish, (-reach, top + reach))


def search(at: Callable[[float], Coded], wish: Wish, ends: tuple[float, float]) -> Coded:
    """The file nearest to a figure that rises along a dial: not above a rate, not below a PSNR.

    By secants of log2 of the rate, or of the PSNR, which are nearly lines, within the interval that holds the answer.

    Args:
        at: codes at a position of the dial.
        wish: with bpp or psnr.
        ends: of the dial.

    Raises:
        ArgumentError: no position of the dial is good enough.
    """
    kind, wanted = ("psnr", wish.psnr) if wish.bpp is None else ("bpp", math.log2(wish.bpp))
    sign = 1 if kind == "psnr" else -1  # towards what is good enough
    aim = wanted + sign * _NEAR[kind] / 2
    best, least = None, math.inf  # the best file, and how much better than asked for it is
    below = above = None  # positions and figures on both sides of the aim
    position = sum(ends) / 2
    for _ in range(_TRIES[wish.effort > 0]):
        coded = at(position)
        reached = math.log2(coded.bpp) if coded.psnr is None else coded.psnr
        excess = sign * (reached - wanted)
        if 0 <= excess < least:
            best, least = coded, excess
        if 0 <= excess <= _NEAR[kind]:
            break
        before = below or above
        if reached < aim:
            below = position, reached
        else:
            above = position, reached
        if below and above:
            part = (aim - below[1]) / max(above[1] - below[1], 1e-9)
            following = below[0] + min(max(part, 0.1), 0.9) * (above[0] - below[0])
        else:
            rise = (reached - before[1]) / (position - before[0]) if before else _SLOPE[kind]
            step = 1.3 * (aim - reached) / max(rise, 0.1 * _SLOPE[kind])
            following = min(max(position + step, ends[0]), ends[1])
        if abs(following - position) < 1 / QUALITY_UNITS:
            break
        position = following
    if best is None:
        shown, wish_for = (f"{coded.bpp:.3f} bpp", "more") if kind == "bpp" else (f"{reached:.2f} dB", "less")
        raise ArgumentError(
            f"this checkpoint cannot reach that for this image; the nearest is {shown}: ask for {wish_for}, "
            "raise --effort, or take another checkpoint"
        )
    return best
