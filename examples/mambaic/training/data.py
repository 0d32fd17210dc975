"""Training data: crops that are a pure function of the seed and their number in the run.

Neither the process nor the worker that loads a crop changes it, so that one process and eight see the same batches,
and a resumed run sees the same crops.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mambaic.errors import DataError
from mambaic.images.image_files import find_images, image_size, read_image

_ATTEMPTS = 100  # images tried for one crop, before all of them are given up


class Batch(NamedTuple):
    """Crops (batch, 3, size, size) as uint8, and what was found broken while they were read."""

    crops: Tensor
    broken: list[str]


class TrainingCrops(Dataset[Batch]):
    """Random crops of all images below a folder, flipped left to right half the time, without end.

    `crops[n]` is a `Batch` of one, for any n of at least 0. Every pass over the images has its own order. An image that
    turns out broken is replaced by another, drawn at random. Decoded images are kept until `cache_bytes` are full.

    Args:
        folder: where the images are, at any depth.
        size: side of the square crops, in pixels.
        seed: of order, positions and flips.
        cache_bytes: memory for decoded images, in bytes.

    Raises:
        DataError: no image of at least `size` in both directions, or (from `crops[n]`) none that can be read.
    """

    def __init__(self, folder: str | Path, size: int, seed: int = 0, cache_bytes: int = 0) -> None:
        found = find_images(folder)
        with ThreadPoolExecutor(16) as threads:  # headers wait for disks
            kinds = list(threads.map(functools.partial(_looked_at, crop=size), found))
        self.paths = [path for path, kind in zip(found, kinds, strict=True) if kind == "good"]
        self.broken = [kind for kind in kinds if kind not in ("good", "small")]
        self.skipped = kinds.count("small")
        if not self.paths:
            raise DataError(
                f"none of the {len(found)} images in {folder} can be used: {self.skipped} are smaller than "
                f"{size}x{size} (lower --crop), {len(self.broken)} cannot be read"
            )
        self.size, self.seed = size, seed
        self._order: tuple[int, np.ndarray] | None = None
        self._cache: dict[Path, Tensor] = {}
        self._room = cache_bytes

    def resized(self, size: int) -> TrainingCrops:
        """The same images and cache, cut to crops of another size; images that are smaller are replaced by others."""
        other = copy.copy(self)
        other.size = size
        return other

    def __len__(self) -> int:
        """Images, that is, crops in a pass."""
        return len(self.paths)

    def __getitem__(self, number: int) -> Batch:
        random = np.random.default_rng([self.seed, 1, number])
        path, broken = self._path(number), []
        for _ in range(_ATTEMPTS):
            try:
                pixels = self._read(path)
                break
            except DataError as error:
                broken.append(str(error))
                path = self.paths[random.integers(len(self.paths))]
        else:
            raise DataError(f"{_ATTEMPTS} images in a row cannot be read, the last being: {broken[-1]}")
        top, left = (int(random.integers(side - self.size + 1)) for side in pixels.shape[1:])
        crop = pixels[:, top : top + self.size, left : left + self.size]
        return Batch((crop.flip(-1) if random.random() < 0.5 else crop)[None], broken)

    def _path(self, number: int) -> Path:
        epoch, index = divmod(number, len(self.paths))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.paths))
        return self.paths[self._order[1][index]]

    def _read(self, path: Path) -> Tensor:
        if path in self._cache:
            return self._cache[path]
        pixels = read_image(path)
        if min(pixels.shape[1:]) < self.size:
            raise DataError(f"{path} is smaller than its header says: remove it")
        if pixels.nbytes <= self._room:  # no image is thrown out: in a cycle the oldest is the next one needed
            self._room -= pixels.nbytes
            self._cache[path] = pixels
        return pixels


def batches(crops: TrainingCrops, first: int, last: int, batch: int, part: slice, workers: int) -> Iterator[Batch]:
    """The batches of steps `first` to `last`, of which this process takes a part.

    Args:
        crops: the data.
        first: the first step, counted from 0.
        last: the step before which to end.
        batch: crops in a step, of all processes together.
        part: which of them this process takes.
        workers: processes that load ahead; with 0, crops are read when asked for.
    """
    sampler = (list(range(batch * step, batch * (step + 1))[part]) for step in range(first, last))
    pinned = torch.cuda.is_available()
    return iter(DataLoader(crops, batch_sampler=sampler, num_workers=workers, collate_fn=_joined, pin_memory=pinned))


def _joined(items: list[Batch]) -> Batch:
    return Batch(torch.cat([item.crops for item in items]), [line for item in items for line in item.broken])


def _looked_at(path: Path, crop: int) -> str:
    """ "good", "small", or why the image cannot be read."""
    try:
        return "good" if min(image_size(path)) >= crop else "small"
    except DataError as error:
        return str(error)
