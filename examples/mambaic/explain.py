"""A look inside a trained codec: what its context model looks at, and where it spends bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mambaic.bit_maps import bit_maps
from mambaic.checkpoint import load_model
from mambaic.explain_plots import plot_bit_map, plot_bit_maps, plot_receptive_fields
from mambaic.images import read_image, to_float
from mambaic.receptive_field import receptive_field
from ssmctx.errors import ArgumentError


def explain(
    checkpoint: str | Path,
    picture: str | Path,
    out: Path,
    position: Sequence[int] | None = None,
    slice_index: int | None = None,
    anchors: bool = False,
    compare: str | Path | None = None,
) -> list[Path]:
    """Draw receptive fields with and without window attention, and maps of bits.

    Args:
        checkpoint: of the codec.
        picture: file to look at.
        out: folder for the figures.
        position: (row, column) of the latent; default the middle of those that the step codes.
        slice_index: the slice whose prediction is looked at; default the last.
        anchors: look at the pass of the anchors, instead of the one after it.
        compare: checkpoint of a codec trained without window attention; default the same weights with it taken out.

    Returns:
        The PNG files written.

    Raises:
        ArgumentError: a slice that is not there, a position that the step does not code, or a step that reads nothing
            of the latent.
    """
    model, pixels = load_model(checkpoint), read_image(picture)
    x = to_float(pixels)
    order = model.latent_codec.context.order
    last = len(order.slices) - 1
    slice_index = last if slice_index is None else slice_index
    if not 0 <= slice_index <= last:
        raise ArgumentError(f"there is no slice {slice_index}: the model has slices 0 to {last}")
    step = slice_index * order.passes + (0 if anchors or order.passes == 1 else 1)
    maps = bit_maps(model, x)
    row, column = _middle(maps[step].bits.isfinite()) if position is None else position

    other = model if compare is None else load_model(compare)
    label = "attention taken out" if compare is None else "trained without"
    fields = {
        "with window attention": receptive_field(model, x, step, (row, column)),
        label: receptive_field(other, x, step, (row, column), attention=compare is not None),
    }
    part = maps[step].part
    title = f"What predicts slice {slice_index}, {part}, at row {row}, column {column} of the latent"
    field_path = out / f"receptive-field-slice{slice_index}-{part}-{row}-{column}.png"
    plot_receptive_fields(fields, pixels, (row, column), title, field_path)

    written = [field_path, out / "bits.png"]
    plot_bit_maps(maps, pixels, written[-1])
    for bits in maps:
        written.append(out / f"bits-slice{bits.slice_index}-{bits.part}.png")
        plot_bit_map(bits, maps, pixels, written[-1])
    return written


def _middle(coded: Tensor) -> list[int]:
    """The coded position (row, column) that is nearest to the middle."""
    places, middle = coded.nonzero(), torch.tensor(coded.shape) // 2
    nearest: list[int] = (places[(places - middle).abs().sum(1).argmin()] if len(places) else middle).tolist()
    return nearest
