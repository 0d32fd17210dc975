"""A look inside a trained codec: what its context model looks at, and where it spends bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambaic.codec import MambaIC
from mambaic.figures.bit_maps import bit_maps
from mambaic.figures.explain_plots import plot_bit_map, plot_bit_maps, plot_receptive_fields
from mambaic.figures.receptive_field import receptive_field
from mambaic.images.coding import load
from mambaic.images.image_files import read_image, to_float
from ssmctx import WindowLocalAttention
from ssmctx.errors import ArgumentError


def explain(
    checkpoint: str | Path,
    image: str | Path,
    out: Path,
    position: Sequence[int] | None = None,
    slice_index: int | None = None,
    compare: str | Path | None = None,
) -> list[Path]:
    """Draw receptive fields, with and without window attention if the context has any, and maps of bits.

    Args:
        checkpoint: of the codec, a file or the name of a bundled one.
        image: file to look at.
        out: folder for the figures.
        position: (row, column) of the latent; default a non-anchor in its middle.
        slice_index: the slice whose prediction is looked at; default the last.
        compare: checkpoint of a codec trained without window attention; default the same weights with it, if any, taken
            out.

    Returns:
        The PNG files written.

    Raises:
        ArgumentError: a slice or position that is not there, or a step that reads nothing of the latent.
    """
    model, pixels = load(checkpoint), read_image(image)
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

    fields = {_label(model): receptive_field(model, x, step, (row, column))}
    if compare is not None:
        other = load(compare)
        fields[f"compared: {_label(other)}"] = receptive_field(other, x, step, (row, column))
    elif _has_attention(model):
        fields["attention taken out"] = receptive_field(model, x, step, (row, column), attention=False)
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


def _has_attention(model: MambaIC) -> bool:
    return any(isinstance(module, WindowLocalAttention) for module in model.latent_codec.context.modules())


def _label(model: MambaIC) -> str:
    return f"{'with' if _has_attention(model) else 'without'} window attention"
