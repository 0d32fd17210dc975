"""From a picture to a `.sic` file and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mambaic.codec import MambaIC, latent_sizes
from mambaic.errors import DataError
from mambaic.images import format_of, read_image, to_float, to_pixels, write_image
from mambaic.measure import bits_per_pixel
from ssmctx.entropy.container import CodedPicture
from ssmctx.entropy.fingerprint import fingerprint
from ssmctx.entropy.numerics import scan_backend
from ssmctx.errors import CorruptStreamError
from ssmctx.files import write_whole


class PictureCodec:
    """Codes pictures with one model.

    Args:
        model: in evaluation mode, updated.
    """

    def __init__(self, model: MambaIC) -> None:
        self.model = model
        self.fingerprint, self.coding = fingerprint(model), model.latent_codec.coding_fingerprint()
        weights = next(model.parameters())
        self.device = weights.device
        self.made_with = (scan_backend(model.latent_codec), weights.dtype.itemsize)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[CodedPicture, Tensor]:
        """Code uint8 pixels (3, H, W); returns the file's content and y_hat."""
        coded = self.model.compress(to_float(pixels).to(self.device))
        strings, shape = tuple(of_a_kind[0] for of_a_kind in coded["strings"]), coded["shape"]
        _, height, width = pixels.shape
        sizes = (shape["y"], shape["hyper"])
        picture = CodedPicture(self.fingerprint, width, height, strings, self.coding, *sizes, *self.made_with)
        return picture, coded["y_hat"]

    @torch.no_grad()
    def reconstruct(self, y_hat: Tensor, height: int, width: int) -> Tensor:
        """uint8 pixels (3, H, W) of y_hat."""
        return to_pixels(self.model.reconstruct(y_hat, (height, width)).cpu())

    @torch.no_grad()
    def decode(self, picture: CodedPicture) -> Tensor:
        """uint8 pixels (3, H, W) of a coded picture.

        Raises:
            ModelMismatchError: another model wrote it.
            CorruptStreamError: its header contradicts itself.
            DecodeMismatchError: it decodes to other symbols than were encoded.
        """
        picture.check_model(self.fingerprint, self.coding)
        shape = latent_sizes(picture.height, picture.width)
        if picture.y_size not in (None, shape["y"]) or picture.z_size not in (None, shape["hyper"]):
            raise CorruptStreamError(
                f"the header says latents of {picture.y_size} and {picture.z_size} cells where this codec makes "
                f"{shape['y']} and {shape['hyper']}: the file is damaged"
            )
        strings = [[string] for string in picture.strings]
        y_hat = self.model.latent_codec.decompress(strings, shape)["y_hat"]
        return self.reconstruct(y_hat, picture.height, picture.width)


@dataclass(frozen=True)
class Written:
    """What was written: `bytes` of the file and bits per pixel."""

    bytes: int
    bpp: float


def compress_file(
    codec: PictureCodec, source: str | Path, target: str | Path, reconstruction: str | Path | None
) -> Written:
    """Code an image file into a `.sic` file; optionally write the encoder's own reconstruction as an image file."""
    if reconstruction is not None:
        format_of(reconstruction)  # refused before anything is coded
    pixels = read_image(source)
    picture, y_hat = codec.encode(pixels)
    content = picture.to_bytes()
    write_whole(target, content)
    if reconstruction is not None:
        write_image(reconstruction, codec.reconstruct(y_hat, picture.height, picture.width))
    size = len(content)
    return Written(size, bits_per_pixel(size, picture.height, picture.width))


def read_coded(path: str | Path) -> CodedPicture:
    """Parse a `.sic` file.

    Raises:
        DataError: no such file.
        CorruptStreamError: the file is damaged or not ours.
    """
    if not Path(path).is_file():
        raise DataError(f"no file {path}: check the path")
    return CodedPicture.from_bytes(Path(path).read_bytes())


def decompress_file(codec: PictureCodec, source: str | Path, target: str | Path) -> tuple[int, int]:
    """Decode a `.sic` file into an image file (see `write_image`); returns its width and height."""
    format_of(target)  # refused before anything is decoded
    picture = read_coded(source)
    write_image(target, codec.decode(picture))
    return picture.width, picture.height
