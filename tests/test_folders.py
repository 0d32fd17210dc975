"""Folders as people have them: links, what programs leave behind, files that cannot be read."""

import os
import shutil

import pytest
from mambaic.errors import DataError
from mambaic.images.image_files import find_images, usable_images, write_png
from mambaic.training.data import TrainingCrops
from sample_images import sample_image


def found(folder) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def test_links_to_folders_are_followed_without_loops(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write_png(root / "deep" / "a.png", sample_image(4, 4))
    write_png(elsewhere / "b.png", sample_image(4, 4))
    for link, target in (("linked", "../elsewhere"), ("deep/back", ".."), ("up", "../.."), ("self", "self")):
        os.symlink(target, root / link)
    os.symlink("../root", elsewhere / "again")
    assert found(root) == ["deep/a.png", "linked/b.png"]
    os.symlink("root", tmp_path / "entry")
    assert found(tmp_path / "entry") == ["deep/a.png", "linked/b.png"]


def test_a_file_of_several_names_counts_once(tmp_path):
    write_png(tmp_path / "z" / "own.png", sample_image(4, 4))
    os.symlink("z/own.png", tmp_path / "a.png")
    os.symlink("z", tmp_path / "folder")
    os.link(tmp_path / "z" / "own.png", tmp_path / "z" / "second.png")
    shutil.copy(tmp_path / "z" / "own.png", tmp_path / "copy.png")  # a file of its own
    assert found(tmp_path) == ["copy.png", "z/own.png"]


DROPPINGS = (
    ".ipynb_checkpoints/a-checkpoint.png", "._a.png", ".hidden.png", ".cache/a.png", "@eaDir/a.png/THUMB_M.jpg",
    "__MACOSX/a.png", "#recycle/a.png", "$RECYCLE.BIN/$R1.png", "lost+found/a.png", "Thumbs.db", "desktop.ini",
)  # fmt: skip


def test_what_programs_leave_behind_is_left_out(tmp_path):
    root = tmp_path / ".photos"  # the folder itself may be hidden
    write_png(root / "a.png", sample_image(4, 4))
    for name in DROPPINGS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((root / "a.png").read_bytes())
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    assert found(root) == ["a.png"]
    for path in (root / "a.png", root / "pipe.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"no images in .*\.photos: files ending in \.png, .* at any depth"):
        find_images(root)


def test_a_folder_that_cannot_be_opened_is_told(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", sample_image(4, 4))
    (tmp_path / "closed").mkdir()
    iterdir = type(tmp_path).iterdir

    def refuse(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.warns(UserWarning, match=r"left out .*closed: .*Permission denied"):
        assert found(tmp_path) == ["a.png"]


def test_what_cannot_be_read_is_named_and_counted(tmp_path, capsys):
    write_png(tmp_path / "good.png", sample_image(40, 40))
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:1500])
    os.symlink("nowhere.png", tmp_path / "dangling.png")
    assert usable_images(tmp_path) == ([tmp_path / "good.png"], 2)
    told = capsys.readouterr().err
    assert "left out: cannot read " in told
    assert "cut.png" in told
    assert "dangling.png" in told
    assert "left out 2 of 3 images" in told
    with pytest.raises(DataError, match=r"none of the 3 images in .* can be used, the last because: .*good\.png"):
        usable_images(tmp_path, 0.001)
    crops = TrainingCrops(tmp_path, 32)
    assert (len(crops), len(crops.broken)) == (2, 1)  # the header of cut.png is whole
