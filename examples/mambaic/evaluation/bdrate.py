"""Bjøntegaard's delta rate: how many more bits one codec needs than another for the same quality, on average."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from mambaic.errors import CurveError
from mambaic.evaluation.curves import LABELS, Curve

MIN_POINTS = 4


@dataclass(frozen=True)
class BDRate:
    """A BD-rate in percent, negative where bits are saved, and the range of quality in dB that it is the mean over."""

    percent: float
    low: float
    high: float


def bd_rate(curve: Curve, anchor: Curve, metric: str = "psnr") -> BDRate:
    r"""BD-rate of a curve against an anchor, by PCHIP of log-rate over quality.

    $$ \exp\left(\frac{1}{q_1 - q_0} \int_{q_0}^{q_1} \ln R(q) - \ln R_{anchor}(q)\, dq\right) - 1 $$

    over the range of quality that both have.

    Args:
        curve: the codec to judge.
        anchor: the one to compare with.
        metric: "psnr" or "ms-ssim", both in dB.

    Raises:
        CurveError: fewer than 4 points, quality that does not grow with rate, no common range, or no such metric.

    Examples:
        >>> from mambaic.evaluation.bdrate import bd_rate
        >>> from mambaic.evaluation.curves import read_curve
        >>> round(bd_rate(read_curve("elic"), read_curve("vtm")).percent, 2)
        -7.02
    """
    from bjontegaard import bd_rate as package  # imports scipy and matplotlib

    ranges, sides = [], []
    for each in (anchor, curve):
        rates, quality = each.points(metric)
        _check(each, rates, quality, metric)
        sides += [rates, quality]
        ranges.append((quality[0], quality[-1]))
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if low >= high:
        (a, b), (c, d) = ranges
        raise CurveError(
            f"{curve.name} ({c:.2f} to {d:.2f} dB) and {anchor.name} ({a:.2f} to {b:.2f} dB) share no range of "
            f"{LABELS[metric]}: measure points closer to each other"
        )
    percent = package(*sides, method="pchip", require_matching_points=False, min_overlap=0)
    return BDRate(float(percent), low, high)


def _check(curve: Curve, rates: list[float], quality: list[float], metric: str) -> None:
    if len(rates) < MIN_POINTS:
        raise CurveError(
            f"{curve.name} has {len(rates)} point{'s' * (len(rates) != 1)}, a BD-rate needs at least {MIN_POINTS}: "
            "evaluate checkpoints of more lambdas together"
        )
    if rates[0] <= 0:
        raise CurveError(f"{curve.name} has a rate of {rates[0]} bpp: rates must be above 0")
    for (r0, q0), (r1, q1) in pairwise(zip(rates, quality, strict=True)):
        if q1 <= q0 or r1 <= r0:
            raise CurveError(
                f"{curve.name}: {LABELS[metric]} does not grow with rate, from {r0:.4f} bpp, {q0:.3f} dB to "
                f"{r1:.4f} bpp, {q1:.3f} dB: leave one of these points out"
            )
