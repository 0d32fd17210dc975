"""Writing files: completely or not at all where that is possible, and otherwise as `cp` does."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file completely or not at all: to a temporary file next to it, then by renaming.

    A link is followed and stays. An existing file keeps its mode and owner; a new one gets those of any new file.
    Anything that is not a regular file (a terminal, `/dev/null`, `/dev/stdout`, a FIFO) is written in place, and so is
    a file with several hard links, one whose owner cannot be kept and one in a folder where nothing can be created. An
    interrupted write leaves these incomplete. A process that is killed (SIGKILL, power loss) may leave a
    `.ssmctx-*.tmp` file beside the target.

    Args:
        path: the file to make or replace; its folder is made too.
        data: its content.

    Raises:
        OSError: the file cannot be written: it is a folder, it is write-protected, the disk is full, ...

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ssmctx.files import write_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "new" / "file", b"all of it")
        ...     (Path(folder) / "new" / "file").read_bytes()
        b'all of it'
    """
    path = Path(path)
    try:
        there = os.stat(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data, None)
        return
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    stream = _own_stream(there)
    if stream is not None:
        _write(os.dup(stream), data)
        return
    flags = os.O_WRONLY | getattr(os, "O_BINARY", 0)
    if stat.S_ISREG(there.st_mode) and there.st_nlink == 1:
        os.close(os.open(path, flags))  # what is write-protected is refused, as `cp` does
        try:
            _replace(path, data, there)
            return
        except PermissionError:
            pass  # the folder is write-protected, or the owner cannot be kept
    _write(os.open(path, flags), data)


def _own_stream(there: os.stat_result) -> int | None:
    """The descriptor of stdout or stderr if the file is one of them: what they hold already must stay."""
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            same = os.path.samestat(there, os.fstat(descriptor))
        except OSError:  # it is closed
            continue
        if same:
            if stream is not None:
                stream.flush()
            return descriptor
    return None


def _write(descriptor: int, data: bytes) -> None:
    """Write into what is open, and close it; a regular file ends there."""
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.truncate()


def _replace(path: Path, data: bytes, there: os.stat_result | None) -> None:
    """Put a new file at the end of the links, with the mode and owner of the one that is `there`."""
    target = path
    while target.is_symlink():
        target = target.parent / os.readlink(target)
    temporary = target.parent / f".ssmctx-{secrets.token_hex(8)}.tmp"
    made = False
    try:
        # the system applies the umask; an existing file may be private, and its successor is so from the beginning
        mode = 0o666 if there is None else 0o600
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            made = True
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if there is not None:
                own = os.fstat(file.fileno())
                if (own.st_uid, own.st_gid) != (there.st_uid, there.st_gid):
                    os.chown(temporary, there.st_uid, there.st_gid)
                os.chmod(temporary, stat.S_IMODE(there.st_mode) & 0o777)
        os.replace(temporary, target)
    except BaseException as error:
        if made:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            raise type(error)(error.errno, error.strerror, str(path)) from None  # name what was asked for
        raise
