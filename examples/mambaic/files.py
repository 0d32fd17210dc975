"""From an image file to a `.sic` file and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mambaic.errors import DataError
from mambaic.images import format_of, read_image, write_image
from mambaic.measure import bits_per_pixel
from ssmctx import ImageCodec
from ssmctx.files import write_whole


@dataclass(frozen=True)
class Written:
    """What was written: `bytes` of the file and bits per pixel."""

    bytes: int
    bpp: float


def compress_file(
    codec: ImageCodec, source: str | Path, target: str | Path, reconstruction: str | Path | None
) -> Written:
    """Code an image file into a `.sic` file; optionally write the encoder's own reconstruction as an image file."""
    if reconstruction is not None:
        format_of(reconstruction)  # refused before anything is coded
    image = read_image(source)
    data, y_hat = codec.encode_with_latent(image)
    write_whole(target, data)
    if reconstruction is not None:
        write_image(reconstruction, codec.image_of(y_hat, (image.shape[1], image.shape[2])))
    return Written(len(data), bits_per_pixel(len(data), *image.shape[1:]))


def read_coded(path: str | Path) -> bytes:
    """The content of a `.sic` file.

    Raises:
        DataError: no such file.
    """
    if not Path(path).is_file():
        raise DataError(f"no file {path}: check the path")
    return Path(path).read_bytes()


def decompress_file(codec: ImageCodec, source: str | Path, target: str | Path) -> tuple[int, int]:
    """Decode a `.sic` file into an image file (see `write_image`); returns its width and height."""
    format_of(target)  # refused before anything is decoded
    image = codec.decode(read_coded(source))
    write_image(target, image)
    return image.shape[2], image.shape[1]
