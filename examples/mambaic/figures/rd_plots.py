"""Rate-distortion plots, and BD-rate against image size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from mambaic.errors import CurveError
from mambaic.evaluation.bdrate import bd_rate
from mambaic.evaluation.curves import LABELS, Curve, datasets
from mambaic.figures.style import COLOURS, MARKERS, OURS, new_figure, save_figure

_WIDTH, _HEIGHT = 940, 520
_MARGIN = 0.06


def plot_rd(
    curves: Sequence[Curve], references: Sequence[Curve], metric: str, path: str | Path, max_bpp: float | None = None
) -> list[str]:
    """Plot quality over rate: `curves` in front, `references` behind.

    Args:
        curves: the results to show.
        references: published or classical ones to compare with.
        metric: "psnr" or "ms-ssim".
        path: PNG file to write.
        max_bpp: right end of the plot; by default 1, or where the results end if that is farther.

    Returns:
        Names of the references that have no such metric and are left out.

    Raises:
        CurveError: a result has no such metric, or nothing is left to plot.
    """
    shown = [reference for reference in references if reference.has(metric)]
    if not curves and not shown:
        raise CurveError(f"none of the {len(references)} curves has {metric}: nothing to plot")
    figure, axis = new_figure(_WIDTH, _HEIGHT)
    ends = [curve.points(metric)[0][-1] for curve in curves]
    right = max_bpp if max_bpp is not None else max([1.0, *(1.05 * end for end in ends)])
    for curve, colour, marker in zip(curves, cycle(OURS), cycle(MARKERS), strict=False):
        axis.plot(
            *curve.points(metric), color=colour, marker=marker, linewidth=2.4, markersize=7, label=curve.name, zorder=5
        )
    styles = zip(cycle(COLOURS), cycle(MARKERS[1:]), cycle(("-", "--", "-.")), strict=False)
    for reference, (colour, marker, line) in zip(shown, styles, strict=False):
        axis.plot(
            *reference.points(metric),
            color=colour,
            marker=marker,
            linestyle=line,
            linewidth=1.2,
            markersize=4,
            label=reference.name + (", read off a figure" if reference.meta.get("kind") == "read off a figure" else ""),
        )
    inside = [
        q for c in (*curves, *shown) for r, q in zip(*c.points(metric), strict=True) if r <= right * (1 + _MARGIN)
    ]
    if not inside:
        raise CurveError(f"no point lies below {right} bpp: raise --max-bpp")
    low, high = min(inside), max(inside)
    margin = max(_MARGIN * (high - low), 0.1)
    axis.set(
        xlabel="Rate (bits per pixel)",
        ylabel=LABELS[metric],
        xlim=(0, right),
        ylim=(low - margin, high + margin),
        title=_dataset([*curves, *shown]),
    )
    axis.grid(alpha=0.3)
    figure.legend(fontsize=9, handlelength=3, loc="outside right upper")
    save_figure(figure, path)
    return [reference.name for reference in references if not reference.has(metric)]


def bd_rates_by_size(
    curves: Sequence[Curve], anchors: Sequence[Curve], metric: str
) -> dict[str, list[tuple[float, float]]]:
    """For each name its (pixels, BD-rate in percent), by ascending size, each against the anchor of the same size.

    Raises:
        CurveError: a curve says no size, an anchor is missing or there twice, or the two cannot be compared.
    """
    by_size: dict[float, Curve] = {}
    for anchor in anchors:
        if _pixels(anchor) in by_size:
            raise CurveError(f"two anchors have images of {_pixels(anchor):.0f} pixels: give one for each size")
        by_size[_pixels(anchor)] = anchor
    lines: dict[str, list[tuple[float, float]]] = {}
    for curve in curves:
        pixels = _pixels(curve)
        if pixels not in by_size:
            known = ", ".join(f"{size:.0f}" for size in sorted(by_size))
            raise CurveError(
                f"{curve.name} has images of {pixels:.0f} pixels, the anchors of {known}: measure both on the same"
            )
        lines.setdefault(curve.name, []).append((pixels, bd_rate(curve, by_size[pixels], metric).percent))
    return {name: sorted(points) for name, points in lines.items()}


def plot_sizes(curves: Sequence[Curve], anchors: Sequence[Curve], metric: str, path: str | Path) -> None:
    """Plot BD-rate against image size (the paper's figure 1).

    Args:
        curves: results, one for each codec and size; those of a name are joined.
        anchors: one for each size.
        metric: "psnr" or "ms-ssim".
        path: PNG file to write.

    Raises:
        CurveError: see `bd_rates_by_size`.
    """
    lines = bd_rates_by_size(curves, anchors, metric)
    figure, axis = new_figure(_WIDTH, _HEIGHT)
    colours = zip(cycle((OURS[0], *COLOURS[1:])), cycle(MARKERS), cycle(("-", "--", "-.")), strict=False)
    for (name, points), (colour, marker, style) in zip(lines.items(), colours, strict=False):
        sizes, rates = zip(*points, strict=True)
        megapixels = [size / 1e6 for size in sizes]
        axis.plot(megapixels, rates, color=colour, marker=marker, linestyle=style, markersize=6, label=name)
    axis.axhline(0, color="0.4", linewidth=1)
    axis.annotate(anchors[0].name, (1, 0), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.3")
    axis.set_xscale("log")
    sizes = {_pixels(anchor) / 1e6: str(anchor.meta.get("dataset", "")) for anchor in anchors}
    axis.set_xticks(list(sizes), [f"{size:.2g}\n{dataset}".rstrip() for size, dataset in sizes.items()])
    axis.minorticks_off()
    axis.set(xlabel="Image size (megapixels)", ylabel=f"BD-rate by {metric.upper()} (%), lower is better")
    axis.grid(alpha=0.3)
    figure.legend(fontsize=9, handlelength=3, loc="outside right upper")
    save_figure(figure, path)


def _pixels(curve: Curve) -> float:
    pixels = curve.meta.get("pixels")
    if not pixels:
        raise CurveError(f"{curve.name} does not say how large its images are: add meta.pixels to its file")
    return float(pixels)


def _dataset(curves: Sequence[Curve]) -> str:
    names = datasets(curves)
    return names[0] if len(names) == 1 else ""
