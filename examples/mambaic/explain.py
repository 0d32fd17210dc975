"""A look inside a trained codec: what its context model looks at, and where it spends bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambaic.bit_maps import bit_maps
from mambaic.checkpoint import load_model
from mambaic.explain_plots import plot_bit_map, plot_bit_maps, plot_receptive_fields
from mambaic.images import read_image, to_float
from mambaic.receptive_field import receptive_field
from ssmctx.errors import ArgumentError


def explain(
    checkpoint: str | Path,
    image: str | Path,
    out: Path,
    position: Sequence[int] | None = None,
    slice_index: int | None = None,
    compare: str | Path | None = None,
) -> list[Path]:
    """Draw receptive fields with and without window attention, and maps of bits.

    Args:
        checkpoint: of the codec.
        image: file to look at.
        out: folder for the figures.
        position: (row, column) of the latent; default a non-anchor in its middle.
        slice_index: the slice whose prediction is looked at; default the last.
        compare: checkpoint of a codec trained without window attention; default the same weights with it taken out.

    Returns:
        The PNG files written.

    Raises:
        ArgumentError: a slice or position that is not there, or a step that reads nothing of the latent.
    """
    model, pixels = load_model(checkpoint), read_image(image)
    x = to_float(pixels)
    order = model.latent_codec.context.order
    last = len(order.slices) - 1
    slice_index = last if slice_index is None else slice_index
    if not 0 <= slice_index <= last:
        raise ArgumentError(f"there is no slice {slice_index}: the model has slices 0 to {last}")
    maps = bit_maps(model, x)
    height, width = maps[0].bits.shape
    if position is None:
        row = height // 2
        position = row, min(width - 1, width // 2 // 2 * 2 + (row + 1) % 2)
    row, column = position
    if not (0 <= row < height and 0 <= column < width):
        raise ArgumentError(f"position ({row}, {column}) lies outside the latent of {height} x {width} cells")
    first = slice_index * order.passes
    coded = [bool(order.positions(step, (height, width))[row, column]) for step in range(first, first + order.passes)]
    step = first + coded.index(True)

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
