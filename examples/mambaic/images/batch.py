"""Many files at a time: the result of each, and the errors listed at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mambaic.codec import MambaIC
from mambaic.errors import DataError
from mambaic.images.coding import Written, compress_file, decompress_file, load
from mambaic.images.dial import Wish
from ssmctx.errors import SsmctxError

Pair = tuple[Path, Path]


@dataclass
class Compressor:
    """Codes (source, target); loads the checkpoint once. With `bar`, steps of the refinement are shown."""

    checkpoint: str | None
    wish: Wish
    reconstruction: Path | None = None
    bar: bool = False
    codec: MambaIC = field(init=False)

    def __post_init__(self) -> None:
        self.codec = load(self.checkpoint)

    def __call__(self, pair: Pair) -> Written:
        if not (self.bar and self.wish.effort):
            return compress_file(self.codec, *pair, self.reconstruction, self.wish)
        from tqdm import tqdm

        with tqdm(desc="refine", unit="step", dynamic_ncols=True, leave=False, disable=None) as bar:

            def show(done: int, total: int) -> None:
                if done == 1:  # another try at what was wished for
                    bar.reset(total)
                bar.update()

            return compress_file(self.codec, *pair, self.reconstruction, self.wish, show)


@dataclass
class Decompressor:
    """Decodes (source, target); loads the checkpoint once. None to find the bundled one that wrote a file."""

    checkpoint: str | None
    codec: MambaIC | None = field(init=False)

    def __post_init__(self) -> None:
        self.codec = None if self.checkpoint is None else load(self.checkpoint)

    def __call__(self, pair: Pair) -> tuple[int, int]:
        return decompress_file(self.codec, *pair)


@dataclass
class _Forgiving:
    """Work whose error is what comes of that one file."""

    make: Callable[[], Callable[[Pair], Any]]

    def __post_init__(self) -> None:
        self.work = self.make()

    def __call__(self, pair: Pair) -> Any:
        try:
            return self.work(pair)
        except (SsmctxError, OSError) as error:
            return error


def each(
    make: Callable[[], Callable[[Pair], Any]], pairs: list[Pair], jobs: int, label: str
) -> Iterator[tuple[Path, Any]]:
    """Do the work for all pairs of source and target; gives each target with what came of it.

    Raises:
        DataError: some of several could not be done; all others are.
    """
    if len(pairs) == 1:
        yield pairs[0][1], make()(pairs[0])
        return
    from mambaic.images.parallel import for_each

    failed = 0
    for (source, target), result in zip(pairs, for_each(partial(_Forgiving, make), pairs, jobs, label), strict=True):
        if isinstance(result, Exception):
            failed += 1
            print(f"left out {source}: {type(result).__name__}: {result}", file=sys.stderr)
        else:
            yield target, result
    if failed:
        raise DataError(f"{failed} of {len(pairs)} files could not be used; the reasons are above")
