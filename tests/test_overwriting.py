"""What took hours is not replaced unless one says so."""

import json

import pytest
from mambaic.images.image_files import write_png
from mambaic_full import main
from sample_images import sample_image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_png(folder / "a.png", sample_image(70, 90))
    return folder


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


def short(photos, out) -> list:
    return ["train", "--data", photos, "--out", out, "--steps", 1, "--batch-size", 1, "--crop", 64]


def content(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("there", ["tiny.pt", "tiny.train.pt", "tiny.csv"])
def test_train_replaces_no_training(photos, tmp_path, capsys, there):
    (tmp_path / there).write_bytes(b"work of hours")
    assert run(*short(photos, tmp_path / "tiny.pt")) == 2
    told = capsys.readouterr().err
    assert f"{there} already exists: go on from there with --resume" in told
    assert "--overwrite" in told
    assert content(tmp_path) == {there: b"work of hours"}


def test_train_of_several_looks_at_all_before_it_begins(photos, tmp_path, capsys):
    (tmp_path / "x-q2.pt").write_bytes(b"work of hours")
    assert run(*short(photos, tmp_path / "x.pt"), "--quality", 1, 2) == 2
    assert "x-q2.pt already exists" in capsys.readouterr().err
    assert content(tmp_path) == {"x-q2.pt": b"work of hours"}


def test_a_resume_without_anything_to_go_on_from_replaces_no_checkpoint(photos, tmp_path, capsys):
    (tmp_path / "tiny.pt").write_bytes(b"work of hours")
    assert run(*short(photos, tmp_path / "tiny.pt"), "--resume") == 2
    assert "tiny.train.pt; --resume needs it" in capsys.readouterr().err
    assert content(tmp_path) == {"tiny.pt": b"work of hours"}


def test_overwrite_and_resume(photos, tmp_path):
    (tmp_path / "tiny.pt").write_bytes(b"work of hours")
    assert run(*short(photos, tmp_path / "tiny.pt"), "--overwrite") == 0
    assert len(content(tmp_path)) == 3
    assert run(*short(photos, tmp_path / "tiny.pt"), "--resume") == 0
    with pytest.raises(SystemExit):
        run(*short(photos, tmp_path / "tiny.pt"), "--resume", "--overwrite")


def test_a_folder_is_no_checkpoint(photos, tmp_path, capsys):
    assert run(*short(photos, tmp_path)) == 2
    assert "is a folder: give the name of a file in it" in capsys.readouterr().err


def test_results_are_not_replaced(photos, tmp_path, capsys):
    for name in ("jpeg.json", "eval.json"):
        (tmp_path / name).write_text("{}")
    classical = ["classical", "--data", photos, "--out", tmp_path, "--codecs", "jpeg"]
    for command in (classical, ["eval", "--data", photos, "--checkpoint", "none.pt", "--json", tmp_path / "eval.json"]):
        assert run(*command) == 2
        assert ".json already exists: move" in capsys.readouterr().err
    assert run(*classical, "--overwrite") == 0
    assert json.loads((tmp_path / "jpeg.json").read_text())["name"] == "JPEG"


def test_the_demo_keeps_what_it_trained(tmp_path, capsys):
    (tmp_path / "tiny.pt").write_bytes(b"work of hours")
    assert run("demo", "--train", "--out", tmp_path) == 2
    assert "tiny.pt already exists" in capsys.readouterr().err
