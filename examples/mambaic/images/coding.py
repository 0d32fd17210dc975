"""From image files to `.sic` files and back."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambaic.bundled import BUNDLED, DEFAULT, load_bundled
from mambaic.checkpoint import load_model
from mambaic.codec import MambaIC
from mambaic.errors import DataError
from mambaic.images.dial import Wish, encode
from mambaic.images.image_files import format_of, read_image, write_image
from ssmctx import ImageCodec
from ssmctx.codec.refine import Progress
from ssmctx.entropy import CodedImage
from ssmctx.errors import ModelMismatchError
from ssmctx.files import write_whole


@dataclass(frozen=True)
class Written:
    """What was written: `bytes` of the file, bits per pixel, and PSNR in dB where one was asked for."""

    bytes: int
    bpp: float
    psnr: float | None = None


def compress_file(
    codec: ImageCodec,
    source: str | Path,
    target: str | Path,
    reconstruction: str | Path | None,
    wish: Wish | None = None,
    progress: Progress | None = None,
) -> Written:
    """Code an image file into a `.sic` file; optionally write the encoder's own reconstruction as an image file."""
    if reconstruction is not None:
        format_of(reconstruction)  # refused before anything is coded
    image = read_image(source)
    coded = encode(codec, image, wish or Wish(), progress)
    write_whole(target, coded.data)
    if reconstruction is not None:
        write_image(reconstruction, codec.image_of(coded.y_hat, (image.shape[1], image.shape[2])))
    return Written(len(coded.data), coded.bpp, coded.psnr)


def read_coded(path: str | Path) -> bytes:
    """The content of a `.sic` file.

    Raises:
        DataError: no such file.
    """
    if not Path(path).is_file():
        raise DataError(f"no file {path}: check the path")
    return Path(path).read_bytes()


def decompress_file(codec: ImageCodec | None, source: str | Path, target: str | Path) -> tuple[int, int]:
    """Decode a `.sic` file into an image file (see `write_image`); returns its width and height.

    Without a codec the bundled checkpoint that wrote the file is looked for.
    """
    format_of(target)  # refused before anything is decoded
    data = read_coded(source)
    image = (codec or bundled_writer(data)).decode(data)
    write_image(target, image)
    return image.shape[2], image.shape[1]


def bundled_writer(data: bytes) -> MambaIC:
    """The bundled checkpoint that decodes a file.

    Raises:
        ModelMismatchError: there is none.
        CorruptStreamError: it is no such file.
    """
    coded = CodedImage.from_bytes(data)
    for name in BUNDLED:
        codec = _kept(name)
        try:
            codec.check_file(coded)
        except ModelMismatchError:
            continue
        return codec
    raise ModelMismatchError(
        f"none of the bundled checkpoints ({', '.join(BUNDLED)}) wrote this file: give --checkpoint with the "
        "one that did"
    )


_kept = functools.cache(load_bundled)


def load(checkpoint: str | Path | None, device: str = "cpu") -> MambaIC:
    """The codec of a checkpoint: a file, or the name of a bundled one; None for the default.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    if checkpoint is None or str(checkpoint) in BUNDLED:
        return load_bundled(DEFAULT if checkpoint is None else str(checkpoint), device)
    return load_model(checkpoint, device)


def targets(names: Sequence[Path], out: Path | None, ending: str) -> list[tuple[Path, Path]]:
    """Sources and targets of a command: SOURCE TARGET; SOURCE alone, written beside it; or many, into a folder.

    Raises:
        DataError: three names or more without a folder.
    """
    if out is not None:
        return [(source, out / (source.stem + ending)) for source in names]
    if len(names) > 2:
        raise DataError(f"{len(names)} files need a folder to go to: give --out FOLDER")
    source = names[0]
    return [(source, names[1] if len(names) == 2 else source.with_suffix(ending))]
