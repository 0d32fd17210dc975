"""Figures of what goes on inside: receptive fields, and bits laid over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from torch import Tensor

from mambaic.figures.bit_maps import BitMap
from mambaic.figures.receptive_field import ReceptiveField, share_within
from mambaic.figures.style import new_figure, save_figure
from ssmctx.layers.transforms import STRIDE

_DECADES = 4
_BIT_COLOURS, _FIELD_COLOURS = "viridis", "magma"
_BLUE = "#56B4E9"
_MARK = {"marker": "o", "color": _BLUE, "markerfacecolor": "none", "markersize": 9, "markeredgewidth": 1.8}


def plot_receptive_fields(
    fields: Mapping[str, ReceptiveField], pixels: Tensor, position: tuple[int, int], title: str, path: str | Path
) -> None:
    """Draw the fields of the mean and of the scale, a row for each model, beside the image.

    Args:
        fields: by the name of the row.
        pixels: of the image, uint8 (3, H, W).
        position: (row, column) of the latent that the fields are of.
        title: of the whole figure.
        path: PNG file to write.
    """
    rows = len(fields)
    figure, axes = new_figure(800, 40 + 250 * rows, nrows=rows, ncols=3, squeeze=False)
    window = next((field.window for field in fields.values() if field.window is not None), None)
    image: Any = None
    for (name, field), (left, *right) in zip(fields.items(), axes, strict=True):
        left.imshow(_grey(pixels), cmap="gray", vmin=0, vmax=255, extent=_extent(pixels))
        left.set_title(name, fontsize=10)
        for axis, label, values in zip(right, ("mean", "scale"), (field.mean, field.scale), strict=True):
            relative = (values / values.max().clamp_min(1e-30)).clamp_min(10.0**-_DECADES).log10()
            image = axis.imshow(relative.numpy(), cmap=_FIELD_COLOURS, vmin=-_DECADES, vmax=0, extent=_cells(values))
            inside = f", {share_within(values, window):.0%} in window" if window else ""
            axis.set_title(f"{label}{inside}", fontsize=10)
        for axis in (left, *right):
            axis.plot(position[1] + 0.5, position[0] + 0.5, **_MARK)
            axis.set(xlim=(0, field.mean.shape[1]), ylim=(field.mean.shape[0], 0), xticks=[], yticks=[])
            if window is not None:
                _outline(axis, window)
    figure.suptitle(title, fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=30)
    bar.set_label("gradient magnitude, relative to the largest")
    bar.set_ticks(
        range(-_DECADES, 1), labels=[f"$10^{{{decade}}}$" if decade else "1" for decade in range(-_DECADES, 1)]
    )
    save_figure(figure, path)


def plot_bit_maps(maps: Sequence[BitMap], pixels: Tensor, path: str | Path) -> None:
    """Draw all steps in one figure, a column for each slice, with one scale of colours."""
    parts = list(dict.fromkeys(bits.part for bits in maps))
    columns = len(maps) // len(parts)
    height = 800 / columns * pixels.shape[1] / pixels.shape[2]
    figure, axes = new_figure(800, (height + 30) * len(parts) + 60, nrows=len(parts), ncols=columns, squeeze=False)
    image: Any = None
    for index, bits in enumerate(maps):
        axis = axes[index % len(parts)][index // len(parts)]
        image = _overlay(axis, bits, pixels, _largest(maps))
        axis.set_title(f"slice {bits.slice_index}\n{_rate(bits, maps, pixels)}", fontsize=9)
    for row, part in zip(axes, parts, strict=True):
        row[0].set_ylabel(part, fontsize=10)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, extend="max", pad=0.02)
    bar.set_label("bits per latent position")
    save_figure(figure, path)


def plot_bit_map(bits: BitMap, maps: Sequence[BitMap], pixels: Tensor, path: str | Path) -> None:
    """Draw one step alone, with the colours that it has among all."""
    figure, axis = new_figure(480, 390 * pixels.shape[1] / pixels.shape[2] + 40)
    image = _overlay(axis, bits, pixels, _largest(maps))
    axis.set_title(f"slice {bits.slice_index}, {bits.part}: {_rate(bits, maps, pixels)}", fontsize=10)
    bar = figure.colorbar(image, ax=axis, shrink=0.8, extend="max")
    bar.set_label("bits per latent position")
    save_figure(figure, path)


def _overlay(axis: Any, bits: BitMap, pixels: Tensor, largest: float) -> Any:
    """The map over the grey image; what the step does not code stays clear."""
    axis.imshow(_grey(pixels), cmap="gray", vmin=0, vmax=255, extent=_extent(pixels))
    values = np.ma.masked_invalid(bits.bits.numpy())
    image = axis.imshow(
        values, cmap=_BIT_COLOURS, vmin=0, vmax=largest, alpha=0.75, extent=_cells(bits.bits), interpolation="nearest"
    )
    axis.set(xlim=(0, pixels.shape[2] / STRIDE), ylim=(pixels.shape[1] / STRIDE, 0), xticks=[], yticks=[])
    return image


def _rate(bits: BitMap, maps: Sequence[BitMap], pixels: Tensor) -> str:
    share = bits.total / max(sum(each.total for each in maps), 1e-30)
    return f"{bits.total / (pixels.shape[1] * pixels.shape[2]):.3f} bpp, {share:.0%}"


def _largest(maps: Sequence[BitMap]) -> float:
    """The top of the scale of colours: what one position in a hundred exceeds."""
    values = np.concatenate([bits.bits.numpy().ravel() for bits in maps])
    return max(1e-3, float(np.nanpercentile(values, 99)))


def _grey(pixels: Tensor) -> Any:
    return pixels.float().mean(0).numpy()


def _extent(pixels: Tensor) -> tuple[float, float, float, float]:
    """Where the image lies in latent cells."""
    return (0, pixels.shape[2] / STRIDE, pixels.shape[1] / STRIDE, 0)


def _cells(values: Tensor) -> tuple[float, float, float, float]:
    return (0, values.shape[1], values.shape[0], 0)


def _outline(axis: Any, window: tuple[slice, slice]) -> None:
    rows, columns = window
    corner, size = (columns.start, rows.start), (columns.stop - columns.start, rows.stop - rows.start)
    axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_BLUE, linewidth=1.2))
