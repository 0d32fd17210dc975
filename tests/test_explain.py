"""A look inside: receptive fields against brute force, bits that add up, figures for every step."""

import copy
from pathlib import Path

import pytest
import torch
from example_files import untrained
from mambaic.checkpoint import load_model
from mambaic.codec import MambaIC
from mambaic.figures.bit_maps import bit_maps
from mambaic.figures.explain import explain
from mambaic.figures.explain_plots import plot_bit_map, plot_bit_maps, plot_receptive_fields
from mambaic.figures.receptive_field import _shown, receptive_field, share_within
from mambaic.images.image_files import to_float, write_png
from mambaic_full import main
from PIL import Image
from sample_images import sample_image

from ssmctx.errors import ArgumentError

SIZE = (144, 160)  # a latent of 9 x 10, so that there are several windows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("explained") / "tiny.pt", 4.0)


@pytest.fixture(scope="module")
def model(checkpoint) -> MambaIC:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return to_float(sample_image(*SIZE))


# --- receptive fields


@pytest.mark.parametrize("attention", [True, False])
def test_the_field_is_the_norm_of_the_jacobian(model, x, attention):
    step, (row, column) = 3, (2, 5)
    field = receptive_field(model, x, step, (row, column), attention)
    y_hat, side = _shown(model, x, step)
    context = model.latent_codec.context
    if not attention:  # another way to take it out
        heads, context.head = context.head, copy.deepcopy(context.head)
        for head in context.head:
            head[0] = torch.nn.Identity()
    try:
        for output, found in enumerate((field.mean, field.scale)):
            jacobian = torch.autograd.functional.jacobian(
                lambda y, output=output: context(step, y, side)[output][0, :, row, column], y_hat
            )
            assert torch.allclose(jacobian.square().sum((0, 1, 2)).sqrt(), found, rtol=1e-3, atol=1e-7)
    finally:
        if not attention:
            context.head = heads


def test_nothing_that_is_not_coded_is_looked_at(model, x):
    order = model.latent_codec.context.order
    field = receptive_field(model, x, 1, (4, 5))  # reads the anchors of slice 0 only
    coded = order.positions(0, (9, 10))
    assert not field.mean[~coded].any()
    assert not field.scale[~coded].any()
    assert field.mean[coded].all()  # the scan reaches everything


def test_window_attention_looks_at_its_window(model, x):
    with_it, without = (receptive_field(model, x, 9, (2, 3), attention) for attention in (True, False))
    assert (with_it.window, without.window) == ((slice(0, 8), slice(0, 8)), None)
    assert not torch.equal(with_it.mean, without.mean)
    assert torch.equal(without.mean, receptive_field(model, x, 9, (2, 3), False).mean)  # nothing stays behind
    assert torch.equal(with_it.mean, receptive_field(model, x, 9, (2, 3)).mean)
    assert not any(p.grad is not None for p in model.parameters())


def test_share_within_a_window():
    field = torch.tensor([[1.0, 2.0], [0.0, 9.0]])
    assert share_within(field, (slice(1, 2), slice(1, 2))) == 0.75
    assert share_within(torch.zeros(2, 2), (slice(0, 1), slice(0, 1))) == 0


@pytest.mark.parametrize(
    ("step", "position", "message"),
    [
        (0, (1, 1), r"step 0 reads nothing of the latent: choose a later slice, or non-anchors"),
        (3, (9, 0), r"position \(9, 0\) lies outside the latent of 9 x 10 cells"),
        (3, (2, 2), r"step 3 does not code position \(2, 2\): choose a neighbour, or the slice's other step"),
        (10, (0, 0), r"step must lie in 0\.\.9, got 10"),
    ],
)
def test_fields_that_are_not_there(model, x, step, position, message):
    with pytest.raises(ArgumentError, match=message):
        receptive_field(model, x, step, position)


# --- bits


def test_bits_add_up_and_each_map_has_its_own_positions(model, x):
    maps = bit_maps(model, x)
    with torch.no_grad():
        likelihoods = model(x)["likelihoods"]["y"]
    assert [(m.slice_index, m.part) for m in maps[:3]] == [(0, "anchors"), (0, "non-anchors"), (1, "anchors")]
    assert sum(m.total for m in maps) == pytest.approx(-likelihoods.log2().sum().item(), rel=1e-5)
    order = model.latent_codec.context.order
    for step, bits in enumerate(maps):
        coded = order.mask(step, (9, 10))
        assert torch.equal(bits.bits.isfinite(), coded.any(0))
        assert bits.total == pytest.approx(-(likelihoods[0].log2() * coded).sum().item(), rel=1e-5)


def test_a_slice_in_one_pass_has_one_map(x):
    torch.manual_seed(0)
    maps = bit_maps(MambaIC("tiny", "context-channel").eval(), x)
    assert [m.part for m in maps] == ["all"] * 5
    assert all(m.bits.isfinite().all() for m in maps)


# --- figures


def test_figures_have_titles_units_and_scales(model, x, monkeypatch):
    figures = []
    monkeypatch.setattr("mambaic.figures.explain_plots.save_figure", lambda figure, path: figures.append(figure))
    pixels, maps = sample_image(*SIZE), bit_maps(model, x)
    fields = {"with": receptive_field(model, x, 9, (4, 5)), "without": receptive_field(model, x, 9, (4, 5), False)}
    plot_receptive_fields(fields, pixels, (4, 5), "title", "unused")
    plot_bit_maps(maps, pixels, "unused")
    plot_bit_map(maps[3], maps, pixels, "unused")
    fields_figure, all_maps, one_map = figures
    titles = [axis.get_title() for axis in fields_figure.axes]
    assert titles[0] == "with"
    assert titles[1].startswith("mean, ")
    assert titles[5].startswith("scale, ")
    labels = {axis.get_ylabel() or axis.get_xlabel() for figure in figures for axis in figure.axes}
    assert {"gradient magnitude, relative to the largest", "bits per latent position", "anchors"} <= labels
    assert len(all_maps.axes) == 11
    assert one_map.axes[0].get_title() == f"slice 1, non-anchors: {maps[3].total / (144 * 160):.3f} bpp, " + (
        f"{maps[3].total / sum(m.total for m in maps):.0%}"
    )


def test_explain_writes_one_file_for_each_figure(checkpoint, tmp_path, capsys, monkeypatch):
    write_png(tmp_path / "p.png", sample_image(96, 128))
    other = untrained(tmp_path / "other.pt", 4.0, "context-no-wla")
    flags = ["--checkpoint", checkpoint, "--out", tmp_path / "out", "--at", 1, 3, "--slice", 2]
    command = [str(part) for part in ["explain", tmp_path / "p.png", *flags]]
    assert main(command) == 0
    monkeypatch.setattr("mambaic.figures.explain.plot_bit_map", lambda *_: None)  # ten drawings are enough
    assert main([*command, "--compare", str(other)]) == 0
    steps = [f"bits-slice{k}-{part}.png" for k in range(5) for part in ("anchors", "non-anchors")]
    expected = sorted(["bits.png", "receptive-field-slice2-anchors-1-3.png", *steps])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected
    assert capsys.readouterr().out.count("wrote ") == 2 * len(expected)
    assert Image.open(tmp_path / "out" / "bits.png").size[0] == 800


def test_explain_looks_at_a_non_anchor_of_the_last_slice_by_default(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("mambaic.figures.explain.plot_bit_map", lambda *_: None)
    for size, name in (((96, 128), "3-4"), ((128, 96), "4-3"), ((80, 80), "2-3")):
        write_png(tmp_path / "p.png", sample_image(*size))
        first, *_ = explain(checkpoint, tmp_path / "p.png", tmp_path)
        assert first.name == f"receptive-field-slice4-non-anchors-{name}.png"
    with pytest.raises(ArgumentError, match=r"position \(5, 0\) lies outside the latent of 5 x 5 cells"):
        explain(checkpoint, tmp_path / "p.png", tmp_path, position=(5, 0))


def rows_of(monkeypatch, *arguments, **keywords) -> list[str]:
    """Labels of the receptive fields that `explain` draws."""
    drawn = []
    monkeypatch.setattr("mambaic.figures.explain.plot_receptive_fields", lambda fields, *_: drawn.append(list(fields)))
    monkeypatch.setattr("mambaic.figures.explain.plot_bit_map", lambda *_: None)
    explain(*arguments, **keywords)
    return drawn[0]


def test_explain_says_which_codec_has_window_attention(checkpoint, tmp_path, monkeypatch):
    """A bundled checkpoint goes by its name; that of `base` has no attention to take out."""
    write_png(tmp_path / "p.png", sample_image(48, 64))
    given = monkeypatch, "base", tmp_path / "p.png", tmp_path
    assert rows_of(*given) == ["without window attention"]
    assert rows_of(*given, compare=checkpoint) == ["without window attention", "compared: with window attention"]
    given = monkeypatch, checkpoint, tmp_path / "p.png", tmp_path
    assert rows_of(*given) == ["with window attention", "attention taken out"]
    assert rows_of(*given, compare="base") == ["with window attention", "compared: without window attention"]


def test_explain_with_a_slice_that_is_not_there(checkpoint, tmp_path):
    write_png(tmp_path / "p.png", sample_image(32, 32))
    with pytest.raises(ArgumentError, match="there is no slice 5: the model has slices 0 to 4"):
        explain(checkpoint, tmp_path / "p.png", tmp_path, slice_index=5)
