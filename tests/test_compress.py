"""`compress` and `decompress` as a person uses them: many files, qualities, efforts, rates to reach."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from example_files import untrained
from mambaic.bundled import DEFAULT, load_bundled
from mambaic.evaluation import evaluate as evaluation
from mambaic.images.dial import Coded, Wish, encode, on_dial, search
from mambaic.images.image_files import read_image, write_png
from mambaic_full import main
from sample_images import sample_image
from test_image_codec import codec_of

from ssmctx.entropy import CodedImage
from ssmctx.errors import ArgumentError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three small images in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        write_png(tmp_path / f"{name}.png", sample_image(20, 30 + seed, seed))
    return tmp_path


def run(command: str) -> int:
    return main(command.split())


# --- names


def test_one_name_is_written_beside(folder):
    assert run("compress a.png") == 0
    assert run("compress a.png other.sic") == 0
    assert (folder / "a.sic").read_bytes() == (folder / "other.sic").read_bytes()
    (folder / "a.png").unlink()
    assert run("decompress a.sic") == 0
    assert run("decompress a.sic x.ppm") == 0
    assert torch.equal(read_image("a.png"), read_image("x.ppm"))


def test_many_go_to_a_folder(folder, capsys):
    assert run("compress a.png b.png c.png --out coded/x --jobs 2") == 0
    assert run("decompress coded/x/a.sic coded/x/b.sic coded/x/c.sic --out decoded") == 0
    told = capsys.readouterr().out
    for seed, name in enumerate("abc"):
        assert re.search(rf"wrote coded/x/{name}.sic: \d+ bytes, .* bpp", told)
        assert f"wrote decoded/{name}.png: {30 + seed} x 20" in told
        expected = load_bundled(DEFAULT).decode((folder / "coded" / "x" / f"{name}.sic").read_bytes())
        assert torch.equal(read_image(folder / "decoded" / f"{name}.png"), expected)


def test_one_that_cannot_be_read_does_not_stop_the_others(folder, capsys):
    (folder / "b.png").write_text("this is no image")
    assert run("compress a.png b.png c.png --out coded") == 2
    told = capsys.readouterr().err
    assert "left out b.png: DataError: cannot read b.png as an image" in told
    assert "mambaic: DataError: 1 of 3 files could not be used" in told
    assert sorted(path.name for path in (folder / "coded").iterdir()) == ["a.sic", "c.sic"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compress a.png b.png c.png", "DataError: 3 files need a folder to go to: give --out FOLDER"),
        ("compress a.png sub/a.png --out x", "the target of a.png x/a.sic and the target of sub/a.png .* one file"),
        ("compress a.png b.png --out x --reconstruction y.png", "--reconstruction is of one image, got 2"),
        ("compress a.png --checkpoint none.pt", "CheckpointError: no checkpoint none.pt"),
        (
            "compress a.png --checkpoint tiny --quality 30",
            "this checkpoint is single-rate, so --quality does not apply: omit it",
        ),
        (
            "compress a.png --checkpoint tiny --target-bpp 1",
            "single-rate, so only refinement changes its rate: give --effort 3 or use",
        ),
    ],
)
def test_what_cannot_be(folder, capsys, command, message):
    assert run(command) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(folder.glob("**/*.sic"))


@pytest.mark.parametrize("flags", ["--quality 101", "--effort 10", "--quality 3 --target-bpp 1", "--target-bpp 0"])
def test_flags_that_are_none(folder, capsys, flags):
    with pytest.raises(SystemExit):
        run(f"compress a.png {flags}")
    assert flags.split()[-2] in capsys.readouterr().err


def test_a_file_of_another_checkpoint_says_so(folder, capsys):
    untrained(folder / "other.pt")
    assert run("compress a.png --checkpoint other.pt") == 0
    assert run("decompress a.sic x.png") == 2
    assert re.search(r"none of the bundled checkpoints \(.*tiny\) wrote this file", capsys.readouterr().err)
    assert run("decompress a.sic x.png --checkpoint other.pt") == 0


def test_a_checkpoint_that_comes_along_has_a_name(folder):
    assert run("compress a.png a.sic --checkpoint tiny") == 0
    load_bundled("tiny").decode((folder / "a.sic").read_bytes())


def test_effort(folder):
    assert run("compress a.png --checkpoint tiny --effort 1") == 0
    assert (folder / "a.sic").read_bytes() == load_bundled("tiny").encode(read_image("a.png"), effort=1)


# --- the dial


def test_the_default_checkpoint_has_a_dial(folder):
    sizes = []
    for quality in (0, 50, 100):
        assert run(f"compress a.png q{quality}.sic --quality {quality}") == 0
        sizes.append((folder / f"q{quality}.sic").stat().st_size)
    assert sizes == sorted(set(sizes))
    assert run("compress a.png") == 0
    assert (folder / "a.sic").read_bytes() == (folder / "q50.sic").read_bytes()


def test_quality_goes_from_the_coarsest_to_the_finest():
    codec = codec_of(qualities=5)
    assert [on_dial(codec, quality) for quality in (0, 25, 100, 60)] == [0, 1, 4, 2.3984375]
    assert on_dial(codec, None) == 2
    with pytest.raises(ArgumentError, match="quality must lie between 0 and 100, got 101"):
        on_dial(codec, 101)
    data = encode(codec, sample_image(20, 30), Wish(quality=60)).data
    assert CodedImage.from_bytes(data).quality == round(2.3984375 * 256)


def made_up(bpp):
    return lambda position: Coded(b"", torch.zeros(1), bpp(position), 30 + 4 * position)


@pytest.mark.parametrize("wanted", [0.11, 0.3, 1.0])
def test_search_comes_near_and_never_above_a_rate(wanted):
    at = lambda position: made_up(lambda p: 0.1 * 2 ** (p + 0.2 * math.sin(5 * p)))(position)._replace(psnr=None)  # noqa: E731
    assert 0.98 * wanted <= search(at, Wish(bpp=wanted), (0, 4)).bpp <= wanted


@pytest.mark.parametrize("wanted", [30.5, 37, 45.9])
def test_search_comes_near_and_never_below_a_psnr(wanted):
    assert wanted <= search(made_up(lambda p: 0.1 * 2**p), Wish(psnr=wanted), (0, 4)).psnr <= wanted + 0.05


def test_search_at_the_ends():
    at = made_up(lambda p: 0.1 * 2**p)
    no_psnr = lambda position: at(position)._replace(psnr=None)  # noqa: E731
    assert search(no_psnr, Wish(bpp=9), (0, 4)).bpp == 1.6  # the best that there is
    assert search(at, Wish(psnr=2), (0, 4)).psnr == 30
    with pytest.raises(ArgumentError, match=r"cannot reach that for this image; the nearest is 0\.100 bpp: ask"):
        search(no_psnr, Wish(bpp=0.05), (0, 4))
    with pytest.raises(ArgumentError, match=r"the nearest is 46\.00 dB: ask for less, raise --effort"):
        search(at, Wish(psnr=50), (0, 4))


def test_a_rate_is_reached_along_the_qualities():
    codec, image = codec_of(qualities=4), sample_image(96, 96)
    low, high = (encode(codec, image, Wish(quality=quality)).bpp for quality in (0, 100))
    wanted = (low * high) ** 0.5
    coded = encode(codec, image, Wish(bpp=wanted))
    assert 0.97 * wanted <= coded.bpp <= wanted
    assert coded.bpp == 8 * len(coded.data) / 96**2


def test_a_codec_of_one_rate_reaches_a_rate_by_refinement():
    codec, image = load_bundled("tiny"), sample_image(32, 32)
    plain = encode(codec, image, Wish(effort=1)).bpp
    coded = encode(codec, image, Wish(bpp=0.99 * plain, effort=1))
    assert 0.9 * plain < coded.bpp <= 0.99 * plain


# --- eval


def test_eval_makes_a_curve_of_a_checkpoint_of_many_rates(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", sample_image(20, 30))
    codec = codec_of(qualities=3)
    codec.lmbda, codec.preset, codec.variant = [0.01, 0.02, 0.04], "x", "y"
    monkeypatch.setattr(evaluation, "load", lambda *_: codec)
    content = evaluation.evaluate(["many.pt"], tmp_path)
    assert content["name"] == "ssmctx x y"
    assert content["meta"]["qualities"] == [0, 50, 100]
    assert content["meta"]["lambdas"] == pytest.approx([0.01, 0.02, 0.04])
    assert content["results"]["bpp"] == sorted(content["results"]["bpp"])
    refined = evaluation.evaluate(["many.pt"], tmp_path, effort=1, qualities=[100])
    assert refined["meta"]["effort"] == 1
    assert "bpp-estimated" not in refined["results"]
    assert refined["results"]["bpp"][0] != content["results"]["bpp"][2]


def test_eval_takes_a_bundled_checkpoint_by_name(folder):
    assert run("eval --data . --checkpoint base --quality 0 --json base.json") == 0
    content = json.loads((folder / "base.json").read_text())
    assert content["name"] == "ssmctx base mambaic"
    assert content["meta"]["qualities"] == [0]
    data = load_bundled("base").encode(read_image(folder / "a.png"), 0.0)
    assert content["images"]["a.png"]["bytes"] == [len(data)]
