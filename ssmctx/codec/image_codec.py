"""The one codec object: padding, transforms, a latent codec, cropping, files."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ssmctx.codec.fingerprint import decoder_fingerprint, old_fingerprint
from ssmctx.codec.streams import check_shape, join_streams, split_streams
from ssmctx.codec.tables import aux_loss, update_tables
from ssmctx.entropy.bitstream import CodedImage
from ssmctx.entropy.gains import QUALITY_UNITS, Quality
from ssmctx.entropy.numerics import coding_numerics, scan_backend
from ssmctx.errors import ArgumentError, CorruptStreamError, ModelMismatchError, ShapeError
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.stages import stage

__all__ = ["ImageCodec"]

_HYPER_STRIDE = 4  # cells of y for one of z, along each side, in most codecs

Image = Tensor | NDArray[np.uint8]


class ImageCodec(nn.Module):
    r"""g_a, a latent codec and g_s: tensors to tensors, images to bytes, at any size from 1x1.

    $$ y = g_a(x), \quad \hat y = \mathrm{latent\_codec}(y), \quad \hat x = g_s(\hat y) $$

    x is padded by its last row and column to multiples of `stride`, and x_hat is cropped.

    Args:
        g_a: x (batch, 3, H, W) to y (batch, M, H / 16, W / 16), or of another stride.
        g_s: y_hat to x_hat (batch, 3, H, W).
        latent_codec: a `MambaICEntropyModel`, or any latent codec in CompressAI's contract: forward(y), compress(y) and
            decompress(strings, shape), which give dicts.
        stride: H and W are padded to its multiples: that of g_a, or of g_a and h_a together where the latent codec
            needs it (64 for most of CompressAI's).

    Raises:
        ArgumentError: the stride is below 1.

    Source:
        MambaIC section 3.1; CompressAI's `SimpleVAECompressionModel`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from ssmctx import ImageCodec, MambaICEntropyModel
        >>> g_a, g_s = nn.Conv2d(3, 10, 16, stride=16), nn.ConvTranspose2d(10, 3, 16, stride=16)
        >>> codec = ImageCodec(g_a, g_s, MambaICEntropyModel(M=10, hyper_channels=4, N=2)).eval()
        >>> _ = codec.update()
        >>> image = torch.randint(256, (3, 20, 33), dtype=torch.uint8)
        >>> codec.decode(codec.encode(image)).shape
        torch.Size([3, 20, 33])
    """

    def __init__(self, g_a: nn.Module, g_s: nn.Module, latent_codec: nn.Module, stride: int = 16) -> None:
        super().__init__()
        check_positive("ImageCodec", stride=stride)
        self.latent_codec: Any  # compress and decompress are no module's own
        self.g_a, self.g_s, self.latent_codec, self.stride = g_a, g_s, latent_codec, stride

    # --- tensors

    def forward(self, x: Tensor, quality: Quality | None = None) -> dict[str, Any]:
        """Reconstruct x and estimate its rate.

        Args:
            x: images (batch, 3, H, W) in [0, 1].
            quality: as the latent codec takes it; None leaves it out.

        Returns:
            "x_hat" (batch, 3, H, W), not clamped, and "likelihoods", tensors by name, of which the sum of -log2 is the
            rate in bits.

        Raises:
            ShapeError: x is no (batch, 3, H, W), or g_s gives an image that is too small.
        """
        with stage("g_a"):
            y = self.g_a(self._padded(x))
        out = self.latent_codec(y, **self._options(quality))
        with stage("g_s"):
            x_hat = self.g_s(out["y_hat"])
        return {"x_hat": self._cropped(x_hat, (x.shape[2], x.shape[3])), "likelihoods": out["likelihoods"]}

    @torch.no_grad()
    def compress(self, x: Tensor, quality: float | None = None) -> dict[str, Any]:
        """Code x.

        Args:
            x: images (batch, 3, H, W) in [0, 1].
            quality: as the latent codec takes it; None leaves it out.

        Returns:
            What the latent codec's `compress` gives: "strings" and "shape", which holds the size of x as "x" (H, W)
            too, and "y_hat" where it gives one.
        """
        with coding_numerics(self):
            with stage("g_a"):
                y = self.g_a(self._padded(x))
            out = self._method("compress")(y, **self._options(quality))
        return {**out, "shape": {**_named(out["shape"]), "x": (x.shape[2], x.shape[3])}}

    @torch.no_grad()
    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: Mapping[str, Any], quality: float | None = None
    ) -> dict[str, Any]:
        """Decode what `compress` made.

        Args:
            strings: as `compress` gave them.
            shape: as `compress` gave it.
            quality: in place of shape["quality"].

        Returns:
            "x_hat" (batch, 3, H, W) in [0, 1], of the size of x.

        Raises:
            ArgumentError: the shape says no size of x.
        """
        size = shape.get("x") if isinstance(shape, Mapping) else None
        if not (
            isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(n, int) and n >= 1 for n in size)
        ):
            raise ArgumentError(f'shape must hold the size of x as "x": (H, W), as compress gives it, got {shape!r}')
        latent = {name: value for name, value in shape.items() if name != "x"}
        with coding_numerics(self):
            out = self._method("decompress")(strings, _unnamed(latent), **self._options(quality))
        return {"x_hat": self.reconstruct(out["y_hat"], (size[0], size[1]))}

    @torch.no_grad()
    def reconstruct(self, y_hat: Tensor, size: tuple[int, int]) -> Tensor:
        """The images that y_hat stands for.

        Args:
            y_hat: latent (batch, M, h, w).
            size: height and width of the images.

        Returns:
            x_hat (batch, 3, H, W) in [0, 1].
        """
        with coding_numerics(self), stage("g_s"):
            x_hat = self.g_s(y_hat)
        return self._cropped(x_hat, size).clamp(0, 1)

    def update(self, force: bool = False, update_quantiles: bool = False) -> bool:
        """Build the coding tables of the latent codec; call it after training.

        Args:
            force: build them anew where they are built.
            update_quantiles: settle the quantiles of factorised priors first.

        Returns:
            Whether anything was built.
        """
        return update_tables(self.latent_codec, force, update_quantiles)

    def aux_loss(self) -> Tensor:
        """The sum of the losses that fit the quantiles of factorised priors; for the auxiliary optimiser."""
        return aux_loss(self.latent_codec)

    # --- files

    def encode(self, image: Image, quality: float | None = None) -> bytes:
        """Code an image as the content of a `.sic` file.

        Args:
            image: uint8, a tensor (3, H, W) or an array (H, W, 3).
            quality: as the latent codec takes it; None leaves it out.

        Raises:
            ShapeError: another shape.
            ArgumentError: another dtype; see `MambaICEntropyModel.compress` for more.
            NotUpdatedError: `update()` was not called.
        """
        return self._coded(image, quality)[0].to_bytes()

    def encode_with_latent(self, image: Image, quality: float | None = None) -> tuple[bytes, Tensor]:
        """`encode`, and the latent that `decode` will have: `image_of` makes of it what the file decodes to.

        Args:
            image: uint8, a tensor (3, H, W) or an array (H, W, 3).
            quality: as the latent codec takes it; None leaves it out.

        Returns:
            The content of the file, and y_hat (1, M, h, w).
        """
        coded, y_hat = self._coded(image, quality)
        return coded.to_bytes(), self._decoded_latent(coded) if y_hat is None else y_hat

    def image_of(self, y_hat: Tensor, size: tuple[int, int]) -> Tensor:
        """`reconstruct` of one latent (1, M, h, w), as uint8 (3, H, W)."""
        return (self.reconstruct(y_hat, size)[0] * 255).round().to(torch.uint8).cpu()

    def decode(self, data: bytes) -> Tensor:
        """The image of a `.sic` file.

        Args:
            data: content of the file, of any version.

        Returns:
            uint8 (3, H, W); `.permute(1, 2, 0).numpy()` makes it an array (H, W, 3).

        Raises:
            ModelMismatchError: another model wrote it.
            CorruptStreamError: it is no such file, damaged, or contradicts itself.
            DecodeMismatchError: it decodes to other symbols than were encoded.
        """
        coded = CodedImage.from_bytes(data)
        self.check_file(coded)
        return self.image_of(self._decoded_latent(coded), (coded.height, coded.width))

    def check_file(self, coded: CodedImage) -> None:
        """Raise ModelMismatchError unless this codec decodes a file."""
        if coded.version >= 4:
            _check_same(coded.fingerprint, decoder_fingerprint(self), "model", "use its checkpoint")
            return
        _check_same(coded.fingerprint, old_fingerprint(self), "model", "use its checkpoint")
        own_coding = getattr(self.latent_codec, "coding_fingerprint", None)
        if coded.coding is not None and own_coding is not None:
            _check_same(coded.coding, own_coding(), "coder and tables", "make the model with the same coder")

    def _coded(self, image: Image, quality: float | None) -> tuple[CodedImage, Tensor | None]:
        """An image as a file holds it, and the encoder's own y_hat where the latent codec gives one."""
        pixels = _as_pixels(image)
        _, height, width = pixels.shape
        fingerprint = decoder_fingerprint(self)  # first, since it says so where the weights are elsewhere
        weight = next(self.parameters())
        x = (pixels[None].to(weight.device).float() / 255).to(weight.dtype)
        out = self.compress(x, quality)
        shape = {name: value for name, value in out["shape"].items() if name not in ("x", "quality")}
        coded = CodedImage(
            fingerprint,
            width,
            height,
            tuple(split_streams(out["strings"])),
            None if quality is None else round(float(quality) * QUALITY_UNITS),
            None if shape == self._usual_shape(height, width) else check_shape(shape),
            scan_backend(self.latent_codec),
        )
        return coded, out.get("y_hat")

    @torch.no_grad()
    def _decoded_latent(self, coded: CodedImage) -> Tensor:
        shape = self._usual_shape(coded.height, coded.width)
        if coded.shape is not None:
            padded = tuple(side + -side % self.stride for side in (coded.height, coded.width))
            shape = check_shape(dict(coded.shape), padded)
        quality = None if coded.quality is None else coded.quality / QUALITY_UNITS
        with coding_numerics(self):
            try:
                streams = join_streams(coded.sections)
                out = self._method("decompress")(streams, _unnamed(shape), **self._options(quality))
            except ArgumentError as error:  # all arguments are the file's
                raise CorruptStreamError(f"the file contradicts itself or this codec: {error}") from error
        y_hat: Tensor = out["y_hat"]
        return y_hat

    # --- pieces

    def _method(self, name: str) -> Any:
        """A method of the latent codec, which a wrapper such as DataParallel hides."""
        method = getattr(self.latent_codec, name, None)
        if method is None:
            raise ArgumentError(
                f"{type(self).__name__}: latent_codec is a {type(self.latent_codec).__name__}, which has no {name}: "
                "wrap the whole codec or modules inside the latent codec"
            )
        return method

    def _options(self, quality: Any) -> dict[str, Any]:
        """Latent codecs of one rate take no quality; some of CompressAI's would ignore it."""
        if quality is None:
            return {}
        if "quality" not in inspect.signature(self._method("compress")).parameters:
            name = type(self.latent_codec).__name__
            raise ArgumentError(f"{name} has one rate, got quality={quality!r}: leave it out")
        return {"quality": quality}

    def _padded(self, x: Tensor) -> Tensor:
        check_image(type(self).__name__, x, 3)
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")

    def _cropped(self, x_hat: Tensor, size: tuple[int, int]) -> Tensor:
        if x_hat.shape[2] < size[0] or x_hat.shape[3] < size[1]:
            raise ShapeError(
                f"g_s gives an image of {tuple(x_hat.shape[2:])} pixels where {tuple(size)} are needed: "
                "make the ImageCodec with the stride of its transforms"
            )
        return x_hat[..., : size[0], : size[1]]

    def _usual_shape(self, height: int, width: int) -> dict[str, Any]:
        """Sizes of y and z where they follow from the image's; a file then need not say them."""
        y = (-(-height // self.stride), -(-width // self.stride))
        return {"y": y, "hyper": (-(-y[0] // _HYPER_STRIDE), -(-y[1] // _HYPER_STRIDE))}


def _named(shape: Any) -> Mapping[str, Any]:
    """Some of CompressAI's latent codecs give a size alone."""
    return shape if isinstance(shape, Mapping) else {"latent": tuple(shape)}


def _unnamed(shape: Mapping[str, Any]) -> Any:
    return shape["latent"] if set(shape) == {"latent"} else shape


def _as_pixels(image: Image) -> Tensor:
    """The image as uint8 (3, H, W)."""
    if getattr(image, "ndim", 0) == 3 and str(image.dtype).removeprefix("torch.") != "uint8":
        raise ArgumentError(f"an image to encode has uint8 values, 0 to 255, got {image.dtype}: round and convert it")
    if isinstance(image, np.ndarray) and image.ndim == 3:
        image = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)  # torch takes no mirrored views
    if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ShapeError(
            f"an image is a uint8 tensor (3, H, W) or a uint8 array (H, W, 3), got {type(image).__name__} of shape "
            f"{tuple(getattr(image, 'shape', ()))}"
        )
    return image


def _check_same(written: bytes, own: bytes, what: str, cure: str) -> None:
    if written != own:
        raise ModelMismatchError(
            f"the file was written with {what} {written.hex()}, this codec has {own.hex()}: {cure}"
        )
