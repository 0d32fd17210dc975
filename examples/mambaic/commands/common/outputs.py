"""What a command writes: not over what it reads, and said where it does not get into the data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Refuse a command that would write over what it reads, or twice into one file, through links too.

    Args:
        outputs: files to write, by the name of their argument; None where it was not given.
        inputs: files to read; None, or the name of no file, where there is none.

    Raises:
        ArgumentError: an output is a folder, an input or another output.
    """
    from ssmctx.errors import ArgumentError

    written = {name: path for name, path in outputs.items() if path is not None}
    for name, path in written.items():
        if path.is_dir():
            raise ArgumentError(f"{name} {path} is a folder: give the name of a file in it")
        for source in inputs:
            if source is not None and _same_file(path, Path(source)):
                raise ArgumentError(f"{name} {path} is the file {source} that this command reads: choose another name")
    for (name, path), (other, there) in combinations(written.items(), 2):
        if _same_file(path, there):
            raise ArgumentError(f"{name} {path} and {other} {there} are one file: choose two names")


def check_pairs(pairs: Sequence[tuple[Path, Path]], others: Mapping[str, Path | None], *read: str | None) -> None:
    """`check_outputs` for sources and their targets, other outputs, and what else is read."""
    named = {"the target": pairs[0][1]} if len(pairs) == 1 else {f"the target of {a}": b for a, b in pairs}
    check_outputs({**named, **others}, [*(source for source, _ in pairs), *read])


def _same_file(path: Path, other: Path) -> bool:
    """Whether both names mean one regular file, there or not; a device may be named twice."""
    try:
        return path.samefile(other) and path.is_file()
    except OSError:  # one of them is not there, so that they differ, or neither is
        return os.path.normcase(os.path.realpath(path)) == os.path.normcase(os.path.realpath(other))


def keep(paths: Iterable[Path], overwrite: bool, instead: str) -> None:
    """Refuse to replace files that took long to make.

    Args:
        paths: what the command would write.
        overwrite: whether the user asked for it.
        instead: what else the user can do.

    Raises:
        ArgumentError: one of the files is there.
    """
    from ssmctx.errors import ArgumentError

    there = [str(path) for path in paths if path.is_file()]
    if there and not overwrite:
        raise ArgumentError(
            f"{', '.join(there)} already exist{'s' if len(there) == 1 else ''}: {instead}, "
            "choose another name, or give --overwrite"
        )


def tell(text: str, target: Path | None) -> None:
    """Print a line; on stderr if the data went to stdout."""
    try:
        to_stdout = target is not None and os.path.samestat(os.stat(target), os.fstat(1))
    except OSError:
        to_stdout = False
    print(text, file=sys.stderr if to_stdout else sys.stdout)
