"""Writing files: whole or not at all, and for links, modes, devices and folders what a person expects of `cp`."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading

import pytest

from ssmctx.files import write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and devices as POSIX has them")


@contextlib.contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_a_new_file_has_the_usual_mode_and_an_old_one_keeps_its_own(tmp_path):
    with umask(0o027):
        write_whole(tmp_path / "file", b"data")
        assert mode(tmp_path / "file") == 0o640
        (tmp_path / "file").chmod(0o604)
        write_whole(tmp_path / "file", b"more data")
    assert mode(tmp_path / "file") == 0o604
    assert (tmp_path / "file").read_bytes() == b"more data"


@posix
def test_the_umask_of_the_process_is_never_touched(tmp_path, monkeypatch):
    """Another thread would create its files world-writable meanwhile."""
    monkeypatch.setattr(os, "umask", None)
    write_whole(tmp_path / "file", b"data")


def test_writing_leaves_the_whole_file_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    write_whole(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@posix
@pytest.mark.parametrize("there", [True, False])
def test_links_are_followed_and_stay(tmp_path, there):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "file", tmp_path / "link"
    if there:
        target.write_bytes(b"old, and longer than the new")
    (tmp_path / "far" / "second").symlink_to("file")
    link.symlink_to("far/second")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "far" / "second").is_symlink()
    assert not target.is_symlink()
    assert target.read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*"))) == 4


@posix
def test_a_circle_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink()


@posix
def test_all_names_of_a_file_with_hard_links_see_the_new_content(tmp_path):
    (tmp_path / "a").write_bytes(b"old, and longer than the new")
    os.link(tmp_path / "a", tmp_path / "b")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "b").read_bytes() == b"new"
    assert os.path.samefile(tmp_path / "a", tmp_path / "b")


@posix
def test_a_device_stays_a_device():
    write_whole("/dev/null", b"data")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@posix
def test_a_fifo_is_written_into(tmp_path):
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write_whole(fifo, b"data")
    reader.join(60)
    assert read == [b"data"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


WRITER = "from ssmctx.files import write_whole; print('before'); write_whole('/dev/stdout', b'data\\n'); print('after')"


@posix
def test_stdout_is_written_into_in_its_turn(tmp_path):
    piped = subprocess.run([sys.executable, "-c", WRITER], check=True, capture_output=True)
    assert piped.stdout == b"before\ndata\nafter\n"
    with open(tmp_path / "log", "wb") as log:
        subprocess.run([sys.executable, "-c", WRITER], check=True, stdout=log)
    assert (tmp_path / "log").read_bytes() == b"before\ndata\nafter\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127])
def test_the_longest_names_work(tmp_path, name):
    write_whole(tmp_path / name, b"data")
    write_whole(tmp_path / name, b"more")
    assert (tmp_path / name).read_bytes() == b"more"


def test_too_long_a_name_and_a_folder_are_refused_and_named(tmp_path):
    with pytest.raises(OSError, match=f"too long.*{'n' * 256}"):
        write_whole(tmp_path / ("n" * 256), b"data")
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        write_whole(tmp_path, b"data")
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def not_root():
    """As a user whom modes concern."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@posix
def test_rights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the folders above may be closed to the other user
    for name, bits in (("writable", 0o666), ("protected", 0o444)):
        (tmp_path / name).write_bytes(b"old, and longer than the new")
        (tmp_path / name).chmod(bits)
    tmp_path.chmod(0o555)
    try:
        with not_root():
            write_whole("writable", b"new")  # nothing can be created beside it
            with pytest.raises(PermissionError, match="protected"):
                write_whole("protected", b"new")
            with pytest.raises(PermissionError, match="'fresh'"):
                write_whole("fresh", b"new")
        tmp_path.chmod(0o777)
        owner = os.stat("writable").st_uid
        with not_root():
            with pytest.raises(PermissionError, match="protected"):
                write_whole("protected", b"new")
            write_whole("writable", b"newer")  # of root where root runs this: the owner stays
        assert os.stat("writable").st_uid == owner
    finally:
        tmp_path.chmod(0o755)
    assert (tmp_path / "writable").read_bytes() == b"newer"
    assert (tmp_path / "protected").read_bytes() == b"old, and longer than the new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["protected", "writable"]


@posix
def test_a_private_file_is_private_from_the_beginning(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o600)
    seen, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (seen.append(os.fstat(number).st_mode & 0o777), fsync(number)))
    write_whole(tmp_path / "file", b"new")
    assert seen == [0o600]
