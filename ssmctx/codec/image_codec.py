"""The codec: padding, transforms, a latent codec, cropping, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.codec.image_files import check_file, code_image, decoded_latent
from ssmctx.codec.latents import compress_latent, decompress_latent, latent_options
from ssmctx.codec.pixels import Image
from ssmctx.codec.refine import Progress
from ssmctx.codec.rounding import Estimate, estimate_latent
from ssmctx.codec.tables import aux_loss, update_tables
from ssmctx.entropy.arguments import is_size
from ssmctx.entropy.bitstream import CodedImage
from ssmctx.entropy.gains import Quality
from ssmctx.entropy.graphs import called
from ssmctx.entropy.hyperprior import Rounding
from ssmctx.entropy.numerics import coding_numerics
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.layers.transforms import pad_image
from ssmctx.stages import stage

__all__ = ["ImageCodec"]

_RECORDED = 1 << 18  # pixels up to which `cuda_graphs` records g_a and g_s, too: more keep a GPU busy as they are


class ImageCodec(nn.Module):
    r"""g_a, a latent codec and g_s: tensors to tensors, images to bytes, at any size from 1x1.

    $$ y = g_a(x), \quad \hat y = \mathrm{latent\_codec}(y), \quad \hat x = g_s(\hat y) $$

    x is padded by its last row and column to multiples of `stride`, and x_hat is cropped.

    Args:
        g_a: x (batch, 3, H, W) to y (batch, M, H / 16, W / 16), or of another stride.
        g_s: y_hat to x_hat (batch, 3, H, W).
        latent_codec: a `MambaICEntropyModel`, or any latent codec in CompressAI's contract: forward(y), compress(y) and
            decompress(strings, shape), which give dicts. Used where it has them: the keyword `quality` of these three;
            `zeroings`, with the keyword `zeroing` of compress; `estimate`, `exact`, `gains`, `decoder_state` and
            `coding_fingerprint` as `MambaICEntropyModel` has them.
        stride: H and W are padded to its multiples: that of g_a, or of g_a and h_a together where the latent codec
            needs it (64 for most of CompressAI's).
        lmbda: the weight lambda of the training loss lambda * MSE + bits per pixel, with the MSE of values 0 to 255;
            one number, or one per quality. `encode` refines for it.

    Attributes:
        lmbda: as given; it may be changed.

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

    def __init__(
        self,
        g_a: nn.Module,
        g_s: nn.Module,
        latent_codec: nn.Module,
        stride: int = 16,
        lmbda: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_positive("ImageCodec", stride=stride)
        self.latent_codec: Any  # nn.Module has no compress and decompress
        self.g_a, self.g_s, self.latent_codec, self.stride = g_a, g_s, latent_codec, stride
        self.lmbda = lmbda

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
        out = self.latent_codec(y, **latent_options(self.latent_codec, quality))
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

        Raises:
            ShapeError: x is no (batch, 3, H, W).
            ArgumentError: x is no floating-point tensor, or a quality for a latent codec of one rate; see
                `MambaICEntropyModel.compress` for more.
        """
        y = self.analyse(x)
        with coding_numerics(self):
            out = compress_latent(self.latent_codec, y, quality)
        return {**out, "shape": {**out["shape"], "x": (x.shape[2], x.shape[3])}}

    @torch.no_grad()
    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: Mapping[str, Any], quality: float | None = None
    ) -> dict[str, Any]:
        """Decode what `compress` made.

        Args:
            strings: as `compress` gave them.
            shape: as `compress` gave it.
            quality: instead of shape["quality"].

        Returns:
            "x_hat" (batch, 3, H, W) in [0, 1], of the size of x.

        Raises:
            ArgumentError: the shape has no size of x.
        """
        size = shape.get("x") if isinstance(shape, Mapping) else None
        if not is_size(size):
            raise ArgumentError(f'shape must hold the size of x as "x": (H, W), as compress gives it, got {shape!r}')
        latent = {name: value for name, value in shape.items() if name != "x"}
        with coding_numerics(self):
            y_hat = decompress_latent(self.latent_codec, strings, latent, quality)
        return {"x_hat": self.reconstruct(y_hat, (size[0], size[1]))}

    def estimate(
        self, y: Tensor, x: Tensor, quality: Quality | None = None, rounding: Rounding | None = None
    ) -> Estimate:
        """Rate and distortion of a latent, as encoder and decoder compute them, differentiable in y.

        Args:
            y: latent (batch, M, h, w).
            x: the original images, (batch, 3, H, W) in [0, 1].
            quality: as the latent codec takes it; None leaves it out.
            rounding: elementwise, instead of `torch.round`, whose gradient is 0 (see `ssmctx.codec.soft_rounding`).

        Returns:
            Bits of each image, and its mean squared error of values 0 to 255, both (batch,).

        Raises:
            ShapeError: x is no (batch, 3, H, W), y no batch of as many, or g_s gives an image that is too small.

        Examples:
            >>> import torch
            >>> from torch import nn
            >>> from ssmctx import ImageCodec, MambaICEntropyModel
            >>> from ssmctx.codec import soft_rounding
            >>> g_a, g_s = nn.Conv2d(3, 10, 16, stride=16), nn.ConvTranspose2d(10, 3, 16, stride=16)
            >>> codec = ImageCodec(g_a, g_s, MambaICEntropyModel(M=10, hyper_channels=4, N=2))
            >>> x = torch.rand(1, 3, 32, 48)
            >>> y = codec.g_a(x).detach().requires_grad_()
            >>> bits, mse = codec.estimate(y, x, rounding=soft_rounding(3))
            >>> (0.01 * mse + bits / (32 * 48)).sum().backward()
            >>> y.grad.shape
            torch.Size([1, 10, 2, 3])
        """
        check_image(type(self).__name__, x, 3)
        if len(y) != len(x):
            raise ShapeError(f"a latent for each image is needed, got y {tuple(y.shape)} for x {tuple(x.shape)}")
        with coding_numerics(self):
            out = estimate_latent(self.latent_codec, y, latent_options(self.latent_codec, quality), rounding)
            with stage("g_s"):
                x_hat = self._cropped(self.g_s(out["y_hat"]), (x.shape[2], x.shape[3])).clamp(0, 1)
        bits = torch.stack([-p.log2().flatten(1).sum(1) for p in out["likelihoods"].values()]).sum(0)
        return Estimate(bits, (255 * (x_hat - x)).square().flatten(1).mean(1))

    @torch.no_grad()
    def reconstruct(self, y_hat: Tensor, size: tuple[int, int]) -> Tensor:
        """Reconstruct the images of y_hat.

        Args:
            y_hat: latent (batch, M, h, w).
            size: height and width of the images.

        Returns:
            x_hat (batch, 3, H, W) in [0, 1].
        """
        with coding_numerics(self), stage("g_s"):
            x_hat = called(self.g_s, y_hat, size[0] * size[1] <= _RECORDED)
        return self._cropped(x_hat, size).clamp(0, 1)

    def update(self, force: bool = False, update_quantiles: bool = False) -> bool:
        """Build the coding tables of the latent codec; call it after training.

        Args:
            force: build them again if they exist.
            update_quantiles: compute the quantiles of factorised priors first.

        Returns:
            Whether anything was built.
        """
        return update_tables(self.latent_codec, force, update_quantiles)

    def aux_loss(self) -> Tensor:
        """The sum of the losses that fit the quantiles of factorised priors; for the auxiliary optimiser."""
        return aux_loss(self.latent_codec)

    # --- files

    def encode(
        self,
        image: Image,
        quality: float | None = None,
        effort: int = 0,
        lmbda: float | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """Code an image as the content of a `.sic` file.

        Args:
            image: uint8, a tensor (3, H, W) or an array (H, W, 3).
            quality: as the latent codec takes it; None leaves it out.
            effort: 0 to code what g_a gives; up to 9 to refine it, in more and more steps (3: ten), and to try
                roundings that save bits, for a smaller lambda * MSE + bits per pixel. Decoding takes no longer.
            lmbda: instead of the codec's own: smaller for fewer bits, larger for less error.
            progress: called with steps done and steps in total, after each step of the refinement.

        Returns:
            The content of the file.

        Raises:
            ShapeError: another shape.
            ArgumentError: another dtype, an effort outside 0 to 9, one above 0 without a lambda, or a lambda that is
                not above 0; see `MambaICEntropyModel.compress` for more.
            NotUpdatedError: `update()` was not called.
        """
        with coding_numerics(self):
            return code_image(self, image, quality, effort, lmbda, progress)[0].to_bytes()

    def encode_with_latent(
        self,
        image: Image,
        quality: float | None = None,
        effort: int = 0,
        lmbda: float | None = None,
        progress: Progress | None = None,
    ) -> tuple[bytes, Tensor]:
        """`encode`, and the latent that `decode` will have: `image_of` makes of it what the file decodes to.

        Args:
            image: as `encode` takes it.
            quality: as `encode` takes it.
            effort: as `encode` takes it.
            lmbda: as `encode` takes it.
            progress: as `encode` takes it.

        Returns:
            The content of the file, and y_hat (1, M, h, w).
        """
        with coding_numerics(self):
            coded, y_hat = code_image(self, image, quality, effort, lmbda, progress)
            return coded.to_bytes(), decoded_latent(self, coded) if y_hat is None else y_hat

    def image_of(self, y_hat: Tensor, size: tuple[int, int]) -> Tensor:
        """The image of one latent, as `decode` gives it.

        Args:
            y_hat: latent (1, M, h, w).
            size: height and width of the image.

        Returns:
            uint8 (3, H, W), on the CPU.
        """
        return (self.reconstruct(y_hat, size)[0] * 255).round().to(torch.uint8).cpu()

    def decode(self, data: bytes | bytearray | memoryview) -> Tensor:
        """The image of a `.sic` file.

        Args:
            data: content of the file, of any version.

        Returns:
            uint8 (3, H, W); `.permute(1, 2, 0).numpy()` makes it an array (H, W, 3).

        Raises:
            ArgumentError: data is no bytes.
            ModelMismatchError: another model wrote it.
            CorruptStreamError: it is no such file, damaged, or contradicts itself.
            DecodeMismatchError: it decodes to other symbols than were encoded.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ArgumentError(f"decode takes the content of a file as bytes, got {type(data).__name__}")
        coded = CodedImage.from_bytes(bytes(data))
        with coding_numerics(self):
            self.check_file(coded)
            return self.image_of(decoded_latent(self, coded), (coded.height, coded.width))

    def check_file(self, coded: CodedImage) -> None:
        """Raise ModelMismatchError unless this codec decodes a file.

        Args:
            coded: the file, as `CodedImage.from_bytes` reads it.
        """
        check_file(self, coded)

    # --- pieces

    @torch.no_grad()
    def analyse(self, x: Tensor) -> Tensor:
        """g_a of padded images, as an encoder computes it.

        Args:
            x: images (batch, 3, H, W) in [0, 1].

        Returns:
            y (batch, M, h, w).
        """
        with coding_numerics(self), stage("g_a"):
            x = self._padded(x)
            return called(self.g_a, x, x[0, 0].numel() <= _RECORDED)

    def _padded(self, x: Tensor) -> Tensor:
        check_image(type(self).__name__, x, 3)
        if not x.is_floating_point():
            raise ArgumentError(f"x must be floating point in [0, 1], got {x.dtype}: divide by 255, or use encode")
        return pad_image(x, self.stride)

    def _cropped(self, x_hat: Tensor, size: tuple[int, int]) -> Tensor:
        if x_hat.shape[2] < size[0] or x_hat.shape[3] < size[1]:
            raise ShapeError(
                f"g_s gives an image of {tuple(x_hat.shape[2:])} pixels where {tuple(size)} are needed: "
                "make the ImageCodec with the stride of its transforms"
            )
        return x_hat[..., : size[0], : size[1]]
