"""What the commands write: never over what they read, in the format that the name says, whatever the terminal shows."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from example_files import untrained
from mambaic.checkpoint import load_model
from mambaic.commands.common.outputs import check_outputs
from mambaic.images.coding import compress_file
from mambaic.images.image_files import SUFFIXES, read_image, write_image, write_png
from mambaic_full import main
from PIL import Image
from sample_images import sample_image

from ssmctx.errors import ArgumentError

PROGRAM = Path(__file__).parents[1] / "examples" / "mambaic_full.py"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A checkpoint, an image and its coded file, which no command may touch."""
    folder = tmp_path_factory.mktemp("work")
    checkpoint = untrained(folder / "model.pt")
    write_png(folder / "a.png", sample_image(20, 30))
    compress_file(load_model(checkpoint), folder / "a.png", folder / "a.sic", None)
    return folder


# --- nothing is written over what is read


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compress a.png a.png", r"the target a\.png is the file a\.png that this command reads: choose another name"),
        ("compress a.png ./x/../a.png", "is the file a.png that this command reads"),
        ("compress a.png symbolic", "the target symbolic is the file a.png"),
        ("compress a.png hard", "the target hard is the file a.png"),
        ("compress a.png model.pt", "the target model.pt is the file .*model.pt"),
        ("compress a.png b.sic --reconstruction a.png", "--reconstruction a.png is the file a.png"),
        ("compress a.png b.png --reconstruction b.png", "the target b.png and --reconstruction b.png are one file"),
        ("compress a.png b.png --reconstruction x/../b.png", "are one file: choose two names"),
        ("compress a.png dangling --reconstruction nowhere.png", "are one file: choose two names"),
        ("compress a.png x", "the target x is a folder: give the name of a file in it"),
        ("decompress a.sic a.sic", "the target a.sic is the file a.sic"),
        ("decompress a.sic model.pt", "the target model.pt is the file .*model.pt"),
    ],
)
def test_what_is_read_is_not_written_over(work, monkeypatch, capsys, command, message):
    monkeypatch.chdir(work)
    for name, make in (("symbolic", os.symlink), ("hard", os.link)):
        if not os.path.lexists(name):
            make("a.png", name)
    if not os.path.lexists("dangling"):
        os.symlink("nowhere.png", "dangling")
    (work / "x").mkdir(exist_ok=True)
    before = {path: path.read_bytes() for path in work.iterdir() if path.is_file()}
    assert main([*command.split(), "--checkpoint", str(work / "model.pt")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in work.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [
        "eval --data . --checkpoint model.pt --json model.pt",
        "latency curve.json --out curve.json",
        "plot curve.png --out curve.png",
        "plot-sizes vtm --anchor curve.png --out ./curve.png",
    ],
)
def test_results_are_not_written_over_what_they_are_made_from(work, monkeypatch, capsys, command):
    monkeypatch.chdir(work)
    for name in ("curve.json", "curve.png"):
        (work / name).write_text("{}")
    before = (work / "model.pt").read_bytes()
    assert main(command.split()) == 2
    assert "that this command reads: choose another name" in capsys.readouterr().err
    assert (work / "model.pt").read_bytes() == before


def test_devices_may_be_named_twice(tmp_path):
    check_outputs({"a": Path(os.devnull), "b": Path(os.devnull), "c": None}, [None, tmp_path / "other", "vtm"])


# --- the name says the format


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JPG"])
def test_an_image_is_written_as_its_name_says(tmp_path, suffix):
    pixels = sample_image(40, 52)
    write_image(tmp_path / f"a{suffix}", pixels)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert Image.registered_extensions()[suffix.lower()] == image.format
    difference = (read_image(tmp_path / f"a{suffix}").int() - pixels.int()).abs()
    if suffix.lower() in (".jpg", ".jpeg"):
        assert 0 < difference.max() < 40  # noise, at quality 95
        assert difference.float().mean() < 4  # 4:2:0 or quality 75 would be above
    else:
        assert difference.max() == 0


@pytest.mark.parametrize("name", ["out.gif", "out.xyz", "out.sic"])
def test_other_endings_are_refused_before_anything_is_coded(work, tmp_path, capsys, name):
    for command in (["decompress", work / "a.sic", tmp_path / name],
                    ["compress", work / "a.png", tmp_path / "b.sic", "--reconstruction", tmp_path / name]):  # fmt: skip
        assert main([*map(str, command), "--checkpoint", str(work / "model.pt")]) == 2
        assert re.search(rf"cannot write .*{name}: the ending .* is none of \.png, \.jpg", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_an_image_too_large_for_its_format(tmp_path):
    with pytest.raises(ArgumentError, match=r"cannot write 16384 x 1 pixels as WEBP .*: write a PNG file"):
        write_image(tmp_path / "a.webp", torch.zeros(3, 1, 16384, dtype=torch.uint8))


def test_figures_are_png_files(capsys):
    for command in ("plot vtm --out a.pdf", "plot-sizes vtm --anchor vtm --out a.json"):
        with pytest.raises(SystemExit):
            main(command.split())
        assert "must end in .png" in capsys.readouterr().err


# --- names and streams


def test_a_name_that_cannot_be_printed_does_not_end_a_command(work, tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    target = tmp_path / (os.fsdecode(b"\xff") + "ä.sic")
    assert main(["compress", str(work / "a.png"), str(target), "--checkpoint", str(work / "model.pt")]) == 0
    out.flush()
    assert rb"\udcff\xe4.sic: " in out.buffer.getvalue()
    assert target.read_bytes() == (work / "a.sic").read_bytes()


def test_the_data_may_go_to_stdout(work):
    command = ["compress", work / "a.png", "/dev/stdout", "--checkpoint", work / "model.pt"]
    done = subprocess.run([sys.executable, PROGRAM, *command], check=True, capture_output=True)
    assert done.stdout == (work / "a.sic").read_bytes()
    assert b"wrote /dev/stdout: " in done.stderr
