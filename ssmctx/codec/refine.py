"""Refinement: an encoder that optimises y for one image; decoder and format do not change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ssmctx.codec.rounding import soft_rounding
from ssmctx.errors import ArgumentError
from ssmctx.stages import stage

__all__ = ["EFFORTS", "Progress", "Recipe", "check_lambda", "lambda_at", "recipe_of", "refine", "spans"]

Progress = Callable[[int, int], None]
"""Called with the number of steps done, and their total."""

_TILE, _HALO = 1024, 128  # pixels: side of the tile that is optimised at once, and the margin around it
_BETAS, _EPSILON = (0.8, 0.99), 1e-8  # of Adam; shorter memories than usual, for few steps


@dataclass(frozen=True)
class Recipe:
    """How y is optimised.

    Attributes:
        steps: of Adam; each is a pass through latent codec and g_s and back.
        rate: of the first step, in quantisation steps; it falls along a cosine to a twentieth.
        first_slope: of the soft rounding at the first step; it grows by equal factors.
        last_slope: after the last. Rounding that stays soft has gradients that tell where to go.
    """

    steps: int
    rate: float = 0.2
    first_slope: float = 2.0
    last_slope: float = 5.0

    def at(self, step: int) -> tuple[float, float]:
        """Learning rate and slope of a step."""
        t = step / self.steps
        slope = self.first_slope * (self.last_slope / self.first_slope) ** t
        return self.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * t))), slope


EFFORTS: tuple[Recipe | None, ...] = (
    None,
    Recipe(3, rate=0.15),
    *(Recipe(steps) for steps in (6, 10, 14, 20, 28, 40, 60, 100)),
)
"""The recipes of efforts 0 to 9."""


def recipe_of(effort: int) -> Recipe | None:
    """The recipe of an effort; None for 0.

    Raises:
        ArgumentError: not 0 to 9.
    """
    if not isinstance(effort, int) or not 0 <= effort < len(EFFORTS):
        raise ArgumentError(f"effort must be an integer from 0 to {len(EFFORTS) - 1}, got {effort!r}")
    return EFFORTS[effort]


def lambda_at(known: float | Sequence[float] | None, quality: float | None) -> float:
    """A codec's lambda at a quality; between two qualities as gains are, on a log axis.

    Args:
        known: the codec's own, one for each quality; or one for all.
        quality: 0 to the number of qualities - 1.

    Returns:
        Lambda, for errors of values 0 to 255.

    Raises:
        ArgumentError: there is none, one is not above 0, or the quality is out of range.

    Examples:
        >>> from ssmctx.codec.refine import lambda_at
        >>> lambda_at(0.0035, None), lambda_at([0.01, 0.02, 0.04], 1.0)
        (0.0035, 0.02)
    """
    if isinstance(known, (int, float)):
        return check_lambda(known)
    if known is None or quality is None:
        lacks = "this codec has none of its own" if known is None else "those of this codec belong to qualities"
        raise ArgumentError(f"effort above 0 weighs errors by a lambda, and {lacks}: give lmbda, or set codec.lmbda")
    if not 0 <= quality <= len(known) - 1:
        raise ArgumentError(f"this codec has a lambda for each of {len(known)} qualities, got quality={quality!r}")
    known = [check_lambda(one) for one in known]
    lower = min(int(quality), max(0, len(known) - 2))
    upper = min(lower + 1, len(known) - 1)
    return float(known[lower] * (known[upper] / known[lower]) ** (quality - lower))


def check_lambda(lmbda: Any) -> float:
    """The number, or ArgumentError unless it is finite and above 0."""
    if not isinstance(lmbda, Real) or not 0 < float(lmbda) < math.inf:
        raise ArgumentError(f"lmbda must be a number above 0, got {lmbda!r}")
    return float(lmbda)


def refine(
    codec: Any,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    lmbda: float,
    quality: float | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""A latent with a lower lambda D + R than y. The final rounding can, rarely, make it higher.

    $$ \min_y \; \lambda \, D(x, g_s(\hat y)) + R(\hat y, \hat z) / \mathrm{pixels}, \quad z = h_a(y) $$

    with both latents rounded softly, and D the mean squared error of values 0 to 255. A large image is refined in
    tiles, one after the other, so that it takes no more memory than 1280 x 1280 pixels.

    Args:
        codec: an `ImageCodec`.
        x: image (1, 3, H, W) in [0, 1].
        y: what g_a makes of it, (1, M, h, w).
        recipe: how.
        lmbda: weight of D.
        quality: as the latent codec takes it.
        progress: called after each step.

    Returns:
        The latent, of y's shape.

    Raises:
        ArgumentError: the weights were made inside `torch.inference_mode`.

    Source:
        Campos et al., Content adaptive optimization for neural image compression, 2019; soft rounding after Agustsson
        and Theis, 2020.
    """
    if next(codec.parameters()).is_inference():
        raise ArgumentError(
            "effort above 0 needs gradients, and this codec's weights were made inside torch.inference_mode: make or "
            "load it outside"
        )
    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.clone(), y.detach().clone()
        unit = _quantisation_step(codec, quality)
        parts = list(_parts(x, y, codec.stride))
        for number, (image, window, core) in enumerate(parts):
            start = y[window]  # a view
            shift, adam = torch.zeros_like(start[core]), _Adam()
            for step in range(recipe.steps):
                rate, slope = recipe.at(step)
                with stage("refine", step):
                    candidate = start.clone()
                    candidate[core] += shift.requires_grad_() * unit
                    bits, mse = codec.estimate(candidate, image, quality, soft_rounding(slope))
                    cost = lmbda * mse + bits / image[0, 0].numel()
                    shift = adam.moved(shift.detach(), torch.autograd.grad(cost.sum(), shift)[0], rate)
                if progress is not None:
                    progress(number * recipe.steps + step + 1, len(parts) * recipe.steps)
            start[core] += shift * unit
    return y


class _Adam:
    """As torch.optim's, which would import torch's compiler."""

    def __init__(self) -> None:
        self.steps = 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def moved(self, x: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """x after a step against the gradient."""
        self.steps += 1
        first, second = _BETAS
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        size = (self.square / (1 - second**self.steps)).sqrt() + _EPSILON
        return x - rate / (1 - first**self.steps) * self.mean / size


def _quantisation_step(codec: Any, quality: float | None) -> Tensor | float:
    """What a step is in y: 1, or 1 over the gains of a quality."""
    gains = getattr(codec.latent_codec, "gains", None)
    if quality is None or gains is None:
        return 1.0
    gain: Tensor = gains(quality).y.detach()
    return 1 / gain


def _parts(x: Tensor, y: Tensor, stride: int) -> Iterator[tuple[Tensor, Any, Any]]:
    """Tiles: the image, the window of y that stands for it, and in that window the core that is moved."""
    sides = [side + -side % stride for side in x.shape[2:]]
    cell = sides[0] // y.shape[2]
    unit = math.lcm(stride, cell) if cell else 0
    if [cell * side for side in y.shape[2:]] != sides:  # no plain grid of cells: all at once
        yield x, ..., ...
        return
    tile, halo = (max(1, pixels // unit) * unit // cell for pixels in (_TILE, _HALO))
    for row_window, row_core in spans(y.shape[2], tile, halo):
        for column_window, column_core in spans(y.shape[3], tile, halo):
            pixels = [slice(cell * span.start, cell * span.stop) for span in (row_window, column_window)]
            yield x[..., pixels[0], pixels[1]], (..., row_window, column_window), (..., row_core, column_core)


def spans(length: int, tile: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """Windows along one side of a latent, each with the core that is its own; the cores follow one another.

    Args:
        length: cells.
        tile: cells of a core.
        halo: cells of a window on either side of its core.

    Examples:
        >>> from ssmctx.codec.refine import spans
        >>> list(spans(10, 6, 2))
        [(slice(0, 8, None), slice(0, 6, None)), (slice(4, 10, None), slice(2, 6, None))]
    """
    for start in range(0, length, tile):
        end = min(start + tile, length)
        first = max(0, start - halo)
        yield slice(first, min(length, end + halo)), slice(start - first, end - first)
