"""Curves: reading them in every layout, the published ones, BD-rates against figures computed elsewhere."""

import json
import math
import re

import numpy as np
import pytest
from compressai.utils.plot.__main__ import parse_json_file
from example_files import curve
from hypothesis import given
from hypothesis import strategies as st
from mambaic.errors import CurveError
from mambaic.evaluation.bdrate import bd_rate
from mambaic.evaluation.curves import DEFAULT_SELECTION, PUBLISHED, Curve, published_names, read_curve, same_images
from mambaic_full import main

# computed from the published curves by another program: PCHIP of log-rate over the common PSNR, in percent
AGAINST_VTM = {
    "hpcm-large": -19.95, "glic": -19.24, "cmic": -17.96, "dcae": -16.98, "hpcm-base": -16.02, "lalic": -15.26,
    "mlic-plus-plus": -15.02, "ftic": -14.56, "mambaic": -14.44, "cca": -13.73, "mlic-plus": -13.11,
    "tcm-large": -11.73, "mlic": -9.75, "mambavc": -9.62, "tcm-middle": -9.11, "weconvene": -8.35, "elic": -7.02,
    "tcm-small": -6.69, "wacnn": -4.55, "stf": -4.13, "charm": 1.11, "cheng2020-checkerboard": 4.08,
    "cheng2020-attn": 5.51, "mbt2018": 11.02, "av1": 16.18, "mbt2018-mean": 21.28, "bpg": 21.99, "hm": 23.31,
    "hyperprior": 30.49,
}  # fmt: skip
AGAINST_OTHERS = [("lalic", "mambaic", -0.09), ("hpcm-large", "elic", -13.82), ("hyperprior", "mambaic", 49.41)]


# --- BD-rate


@pytest.mark.parametrize(
    ("name", "anchor", "expected"), [(n, "vtm", bd) for n, bd in AGAINST_VTM.items()] + AGAINST_OTHERS
)
def test_bd_rates_of_published_curves(name, anchor, expected):
    assert bd_rate(read_curve(name), read_curve(anchor)).percent == pytest.approx(expected, abs=0.006)


@given(st.floats(0.2, 5), st.sampled_from(["psnr", "ms-ssim"]))
def test_a_constant_factor_of_bits_is_the_bd_rate(factor, metric):
    found = bd_rate(curve(factor=factor), curve(), metric)
    assert found.percent == pytest.approx(100 * (factor - 1), abs=1e-6)
    assert bd_rate(curve(), curve(), metric).percent == 0


def test_bd_rate_is_the_mean_over_the_common_range():
    a, b = read_curve("elic"), read_curve("hyperprior")
    found = bd_rate(a, b)
    assert (found.low, found.high) == (29.113, 37.624)
    from scipy.interpolate import PchipInterpolator

    grid = np.linspace(found.low, found.high, 20001)
    logs = [PchipInterpolator(c.points("psnr")[1], np.log(c.points("psnr")[0]))(grid) for c in (a, b)]
    assert found.percent == pytest.approx(100 * np.expm1(np.mean(logs[0] - logs[1])), abs=2e-3)


def test_points_may_come_in_any_order():
    shuffled = Curve("s", {key: values[::-1] for key, values in curve().results.items()})
    assert bd_rate(shuffled, curve(factor=2)).percent == pytest.approx(-50)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (curve(points=3), r"a has 3 points, a BD-rate needs at least 4: evaluate checkpoints of more lambdas"),
        (curve(points=1), r"a has 1 point, a BD-rate needs at least 4"),
        (Curve("a", {"bpp": [1, 2, 3, 4], "psnr-rgb": [50, 51, 52, 53]}), r"a \(50.00 to 53.00 dB\) and b .* share no"),
        (Curve("a", {"bpp": [1, 2, 3, 4], "psnr-rgb": [30, 31, 31, 32]}), r"does not grow with rate, from 2.0000 bpp"),
        (Curve("a", {"bpp": [1, 1, 3, 4], "psnr-rgb": [30, 31, 32, 33]}), r"does not grow with rate, from 1.0000 bpp"),
        (
            Curve("a", {"bpp": [0, 1, 3, 4], "psnr-rgb": [30, 31, 32, 33]}),
            r"a has a rate of 0 bpp: rates must be above",
        ),
        (Curve("a", {"bpp": [1, 2, 3, 4]}), r"a has no psnr-rgb: it has bpp"),
    ],
)
def test_curves_that_cannot_be_compared(bad, message):
    with pytest.raises(CurveError, match=message):
        bd_rate(bad, curve("b"))


def test_an_unknown_metric():
    with pytest.raises(CurveError, match="unknown metric 'vmaf': choose one of psnr, ms-ssim"):
        bd_rate(curve(), curve(), "vmaf")


# --- files


@pytest.mark.parametrize(
    "content",
    [
        {"name": "x", "results": {"bpp": [1, 2], "psnr-rgb": [30, 31], "ms-ssim-rgb": [0.9, 0.99]}},
        {"name": "x", "results": {"bpp": [1, 2], "psnr": [30, 31], "ms-ssim": [0.9, 0.99]}},
        {"name": "x", "bpp": [1, 2], "psnr": [30, 31], "ms-ssim": [0.9, 0.99], "note": ["text"]},
    ],
)
def test_every_layout_is_read(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content))
    read = read_curve(tmp_path / "x.json")
    assert (read.name, read.points("psnr")) == ("x", ([1, 2], [30, 31]))
    assert read.points("ms-ssim")[1] == pytest.approx([10, 20])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON .*: give a file that `eval --json` or CompressAI wrote"),
        ("[1]", "holds a list, not results in CompressAI's layout"),
        ('{"results": 3}', "'results' must be lists by name, got int"),
        ('{"results": {"psnr": [30]}}', "has no list 'bpp'"),
        ('{"bpp": [1, 2], "psnr": [30]}', r"the lists differ in length: \{'bpp': 2, 'psnr-rgb': 1\}"),
        ('{"bpp": [1], "ms-ssim": [13.2]}', "'ms-ssim-rgb' must lie between 0 and 1, .* seems to be in dB"),
    ],
)
def test_files_that_are_no_curves(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CurveError, match=message):
        read_curve(tmp_path / "x.json")


def test_an_unknown_name_tells_the_nearest():
    with pytest.raises(CurveError, match="no file and no published curve 'hyperpior': did you mean 'hyperprior'"):
        read_curve("hyperpior")


# --- the published curves


@pytest.mark.parametrize("name", published_names())
def test_a_published_curve_says_where_it_comes_from(name):
    published = read_curve(name)
    meta = published.meta
    assert re.search(r"github\.com/\w|Pillow \d", meta["source"])
    assert meta["kind"] in ("published", "read off a figure", "measured")
    assert ("reading_error" in meta) == (meta["kind"] == "read off a figure")
    assert meta["pixels"] > 1e5
    assert meta["dataset"]
    rates, quality = published.points("psnr")
    assert quality == sorted(quality)
    assert 0 < rates[0] < rates[-1] < 7
    assert all(math.isfinite(q) for q in quality)
    file = PUBLISHED / (f"{name}.json" if "/" in name else f"kodak/{name}.json")
    assert parse_json_file(file, "psnr")["name"] == published.name


def test_the_default_selection_exists():
    assert set(DEFAULT_SELECTION) <= set(published_names())


# --- the command


def test_bdrate_prints_a_table_best_first(tmp_path, capsys):
    assert main(["bdrate", "elic", "mambaic", "--anchor", "vtm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split("|")[1:3] == [" MambaIC (paper) ", "           -14.44 % "]
    assert "ELIC" in lines[3]


def test_bdrate_lists_the_published_curves(capsys):
    assert main(["bdrate", "--list"]) == 0
    assert "| tecnick/vtm " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ArgumentError: bdrate needs curves"),
        (["none.json"], "CurveError: no file and no published curve 'none.json'"),
        (["elic", "--metric", "ssim"], "CurveError: unknown metric 'ssim'"),
        (["elic", "--metric", "ms-ssim"], "CurveError: ELIC has no ms-ssim-rgb"),
    ],
)
def test_bdrate_with_bad_input(arguments, message, capsys):
    assert main(["bdrate", *arguments]) == 2
    assert message in capsys.readouterr().err


# --- comparisons that would mislead


def written(path, **changes) -> str:
    made = curve(**changes)
    path.write_text(json.dumps({"name": path.stem, "results": made.results, "meta": made.meta}))
    return str(path)


def test_curves_of_different_images_are_not_compared(tmp_path, capsys):
    kodak = written(tmp_path / "a.json", dataset="kodak", pixels=393216)
    half = written(tmp_path / "half.json", dataset="Kodak", pixels=98304)
    clic = written(tmp_path / "clic.json", dataset="clic")
    unknown = written(tmp_path / "unknown.json")
    for other in (half, clic):
        for command in ("bdrate", "latency"):
            assert main([command, other, "--anchor", kodak]) == 2
            assert re.search(r"are different images, so .* give --force", capsys.readouterr().err)
        assert main(["bdrate", other, "--anchor", kodak, "--force"]) == 0
        told = capsys.readouterr()
        assert "note: " in told.err
        assert "+0.00 %" in told.out
    assert main(["bdrate", unknown, kodak, "--anchor", kodak]) == 0


def test_images_count_more_than_the_name_of_their_folder():
    def of(dataset, *names):
        images = {name: {"width": 3, "height": 2} for name in names}
        return Curve("c", {}, meta={"dataset": dataset}, images=images)

    assert same_images(of("kodak", "1.png"), of("photos", "1.webp"))
    assert not same_images(of("kodak", "1.png", "2.png"), of("kodak", "1.png"))


def test_a_curve_of_few_points_does_not_end_the_table(tmp_path, capsys):
    one, three = (written(tmp_path / f"{n}.json", points=n) for n in (1, 3))
    steady = written(tmp_path / "steady.json")
    low = tmp_path / "low.json"
    low.write_text(json.dumps({"name": "low", "bpp": [1, 2, 3, 4], "psnr-rgb": [10, 11, 12, 13]}))
    assert main(["bdrate", one, three, str(low), steady, "--anchor", written(tmp_path / "anchor.json", factor=2)]) == 0
    told = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in told.out.splitlines()[2:]]
    assert rows == [["steady", "-50.00 %"], ["1", "one point"], ["3", "3 points"], ["low", "-"]]
    assert "share no range" in told.err
    assert main(["bdrate", steady, "--anchor", one]) == 2
    assert "a BD-rate needs at least 4" in capsys.readouterr().err
