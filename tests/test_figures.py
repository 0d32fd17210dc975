"""Plots and tables: what they show, where they go, what they refuse."""

from pathlib import Path

import pytest
from example_files import curve
from mambaic.codec import VARIANTS
from mambaic.errors import CurveError
from mambaic.evaluation.curves import Curve, read_curve, write_curve
from mambaic.evaluation.latency import latency_table
from mambaic.evaluation.tables import markdown
from mambaic.figures import explain_plots, rd_plots
from mambaic.figures.rd_plots import bd_rates_by_size, plot_rd, plot_sizes
from mambaic.figures.style import COLOURS, OURS
from mambaic.training.ablation import TABLES
from mambaic_full import main
from PIL import Image


def file_of(curve: Curve, path: Path) -> Path:
    write_curve(path, {"name": curve.name, "results": curve.results, "meta": curve.meta})
    return path


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are saved, before they are."""
    figures = []
    for module in (rd_plots, explain_plots):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


# --- rate-distortion plots


@pytest.mark.parametrize("metric", ["psnr", "ms-ssim"])
def test_plot_draws_results_over_published_curves(metric, tmp_path, capsys):
    ours = file_of(curve("ours"), tmp_path / "ours.json")
    assert main(["plot", str(ours), "--metric", metric, "--out", str(tmp_path / "rd.png")]) == 0
    with Image.open(tmp_path / "rd.png") as image:
        assert image.size == (940, 520)
        assert len(image.convert("RGB").getcolors(10**6)) > 20
    assert (tmp_path / "rd.png").stat().st_size < 150_000
    assert ("no ms-ssim published for MambaIC (paper), MambaVC" in capsys.readouterr().out) == (metric == "ms-ssim")


def test_a_plot_has_labels_units_and_every_curve(drawn):
    ours, paper, vtm = curve("ours"), read_curve("mambaic"), read_curve("vtm")
    assert plot_rd([ours], [paper, vtm], "psnr", "unused") == []
    (axis,) = drawn[0].axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("Rate (bits per pixel)", "PSNR (dB)")
    assert [text.get_text() for text in axis.figure.legends[0].get_texts()] == [
        "ours",
        "MambaIC (paper), read off a figure",
        "VTM 9.1",
    ]
    line = next(line for line in axis.lines if line.get_label() == "ours")
    assert [list(data) for data in line.get_data()] == list(ours.points("psnr"))
    assert line.get_linewidth() > 1.5 * axis.lines[1].get_linewidth()
    low, high = axis.get_ylim()
    assert low < 26.2
    assert 35 < high < 40  # what lies beyond the right end does not stretch the plot


def test_no_two_curves_look_alike(drawn):
    plot_rd([curve(f"ours {i}") for i in range(4)], [curve(str(i)) for i in range(24)], "psnr", "unused")
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn[0].axes[0].lines}
    assert len(looks) == 28
    assert not set(OURS) & set(COLOURS)


def test_a_plot_of_different_images_says_so(tmp_path, capsys):
    ours = file_of(curve("ours", dataset="holidays"), tmp_path / "ours.json")
    for names, expected in (["vtm", "elic"], "holidays, Kodak"), ([], None):
        assert main(["plot", str(ours), "--out", str(tmp_path / "rd.png"), "--published", *names]) == 0
        note = f"note: these curves were measured on different images: {expected}"
        assert (note in capsys.readouterr().err) == (expected is not None)


def test_plots_without_content():
    with pytest.raises(CurveError, match="none of the 2 curves has ms-ssim: nothing to plot"):
        plot_rd([], [read_curve("elic"), read_curve("dcae")], "ms-ssim", "unused")
    with pytest.raises(CurveError, match=r"no point lies below 0.01 bpp: raise --max-bpp"):
        plot_rd([curve()], [], "psnr", "unused", max_bpp=0.01)
    with pytest.raises(CurveError, match="a has no psnr-rgb"):
        plot_rd([Curve("a", {"bpp": [1]})], [], "psnr", "unused")


# --- BD-rate against image size


def test_sizes_of_published_curves(tmp_path, capsys):
    sets = ("", "tecnick/", "clic/")
    curves = [f"{where}{name}" for name in ("hpcm-large", "tcm-large") for where in sets]
    command = ["plot-sizes", *curves, "--anchor", *(f"{where}vtm" for where in sets), "--out", str(tmp_path / "s.png")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("HPCM-Large")
    assert "0.39 MP -19.95 %" in lines[0]
    assert "2.95 MP" in lines[0]
    assert Image.open(tmp_path / "s.png").size[0] == 940


def test_sizes_are_sorted_and_each_has_its_own_anchor(drawn):
    anchors = [curve("anchor", pixels=1e6), curve("anchor", 2.0, pixels=4e6)]
    curves = [curve("a", 2.4, pixels=4e6), curve("a", 0.9, pixels=1e6), curve("b", 1.5, pixels=4e6)]
    found = bd_rates_by_size(curves, anchors, "psnr")
    assert found == {
        "a": [(1e6, pytest.approx(-10)), (4e6, pytest.approx(20))],
        "b": [(4e6, pytest.approx(-25))],
    }
    plot_sizes(curves, anchors, "psnr", "unused")
    (axis,) = drawn[0].axes
    assert axis.get_xlabel() == "Image size (megapixels)"
    assert axis.get_ylabel() == "BD-rate by PSNR (%), lower is better"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "4"]


def test_sizes_that_do_not_fit_together():
    with pytest.raises(CurveError, match="a has images of 2000 pixels, the anchors of 1000: measure both on the"):
        bd_rates_by_size([curve(pixels=2000)], [curve(pixels=1000)], "psnr")
    with pytest.raises(CurveError, match="two anchors have images of 1000 pixels: give one for each size"):
        bd_rates_by_size([], [curve(pixels=1000), curve(pixels=1000)], "psnr")
    with pytest.raises(CurveError, match=r"a does not say how large its images are: add meta\.pixels"):
        bd_rates_by_size([curve()], [curve(pixels=1000)], "psnr")


# --- tables


def timed(name: str, **meta) -> Curve:
    times = {"encoding_time": 0.2, "decoding_time": 12.5, "decoding_time_coder": 0.001, "decoding_time_network": 0.1}
    results = curve().results
    return Curve(name, results | {key: [seconds] * 5 for key, seconds in times.items()}, meta=meta)


def test_the_latency_table_has_parts_and_bd_rates(tmp_path, capsys):
    ours = file_of(timed("ours", device="cpu", threads=2), tmp_path / "ours.json")
    assert main(["latency", str(ours), "vtm", "--anchor", "vtm", "--out", str(tmp_path / "t.md")]) == 0
    table = (tmp_path / "t.md").read_text()
    assert table == capsys.readouterr().out
    header, _, first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    row = dict(zip(header, first, strict=True))
    assert (row["codec"], row["on"], row["encode ms"], row["decode ms"]) == ("ours", "cpu, 2 threads", "200.0", "12500")
    assert (row["decode network ms"], row["decode coder ms"], row["encode coder ms"]) == ("100.0", "1.0", "-")
    assert row["BD-rate vs VTM 9.1"].endswith(" %")
    assert dict(zip(header, second, strict=True))["BD-rate vs VTM 9.1"] == "+0.00 %"


def test_a_latency_table_needs_times_and_does_without_bd_rates():
    few = Curve("few", {"bpp": [1.0], "psnr-rgb": [30.0], "encoding_time": [1.0]})
    assert latency_table([few], read_curve("vtm")).splitlines()[-1].rstrip(" |").endswith("-")
    with pytest.raises(CurveError, match="no file has an 'encoding_time'"):
        latency_table([curve()], None)


def test_markdown_lines_up():
    assert markdown(["a", "bb"], [["ccc", "d"]]).splitlines() == ["| a   | bb |", "|-----|---:|", "| ccc |  d |"]


def test_tables_of_the_paper_name_variants():
    for names in TABLES.values():
        assert set(names) <= set(VARIANTS)
        assert names[-1] == "mambaic" or "mambaic" in names


# --- every sub-command explains itself


@pytest.mark.parametrize(
    "command", ["eval", "classical", "bdrate", "plot", "plot-sizes", "latency", "ablate", "explain"]
)
def test_help_names_every_flag_with_what_it_does(command, capsys):
    for prog in ("mambaic", "mambaic_full.py"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"], prog)
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert f" {prog} {command} " in text.partition("examples:")[2]
        assert text.count("--") >= 4


@pytest.mark.parametrize("prog", ["mambaic", "mambaic_full.py"])
def test_help_shows_commands_and_examples_under_the_name_that_was_called(prog, capsys):
    with pytest.raises(SystemExit):
        main(["--help"], prog)
    text = capsys.readouterr().out
    assert f"  {prog} compress photo.png photo.sic " in text.partition("examples:")[2]
    assert "compress" in text.partition("examples:")[0]
