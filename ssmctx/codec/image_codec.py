"""The codec: padding, transforms, a latent codec, cropping, files."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.codec.fingerprint import check_same, decoder_fingerprint, old_fingerprint
from ssmctx.codec.pixels import Image, as_pixels
from ssmctx.codec.refine import Progress, lambda_at, recipe_of, refine
from ssmctx.codec.rounding import Estimate, estimate_latent
from ssmctx.codec.streams import check_shape, join_streams, named_shape, split_streams, unnamed_shape, usual_shape
from ssmctx.codec.tables import aux_loss, update_tables
from ssmctx.entropy.bitstream import CodedImage
from ssmctx.entropy.gains import QUALITY_UNITS, Quality
from ssmctx.entropy.hyperprior import Rounding
from ssmctx.entropy.numerics import coding_numerics, scan_backend
from ssmctx.errors import ArgumentError, CorruptStreamError, ShapeError
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.stages import stage

__all__ = ["ImageCodec"]


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
        lmbda: what the codec was trained to minimise lambda * MSE + bits per pixel with, MSE of values 0 to 255; of a
            codec with qualities one for each. `encode` refines for it.

    Attributes:
        lmbda: the same, free to be set.

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
        self.latent_codec: Any  # compress and decompress are no module's own
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
        out = self._compress_latent(self._analyse(x), quality)
        return {**out, "shape": {**named_shape(out["shape"]), "x": (x.shape[2], x.shape[3])}}

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
        if not (
            isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(n, int) and n >= 1 for n in size)
        ):
            raise ArgumentError(f'shape must hold the size of x as "x": (H, W), as compress gives it, got {shape!r}')
        latent = {name: value for name, value in shape.items() if name != "x"}
        with coding_numerics(self):
            out = self._method("decompress")(strings, unnamed_shape(latent), **self._options(quality))
        return {"x_hat": self.reconstruct(out["y_hat"], (size[0], size[1]))}

    def estimate(
        self, y: Tensor, x: Tensor, quality: Quality | None = None, rounding: Rounding | None = None
    ) -> Estimate:
        """Rate and distortion of a latent, as encoder and decoder compute them, differentiable in y.

        Args:
            y: latent (batch, M, h, w).
            x: the original images, (batch, 3, H, W) in [0, 1].
            quality: as the latent codec takes it; None leaves it out.
            rounding: elementwise, instead of `torch.round`, whose gradient is 0 (see `ssmctx.codec.soft_rounding`).

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
        with coding_numerics(self):
            out = estimate_latent(self.latent_codec, y, self._options(quality), rounding)
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
            x_hat = self.g_s(y_hat)
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

        Raises:
            ShapeError: another shape.
            ArgumentError: another dtype, an effort that is none, or one above 0 without a lambda; see
                `MambaICEntropyModel.compress` for more.
            NotUpdatedError: `update()` was not called.
        """
        return self._coded(image, quality, effort, lmbda, progress)[0].to_bytes()

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
        coded, y_hat = self._coded(image, quality, effort, lmbda, progress)
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
            check_same(coded.fingerprint, decoder_fingerprint(self), "model", "use its checkpoint")
            return
        check_same(coded.fingerprint, old_fingerprint(self), "model", "use its checkpoint")
        own_coding = getattr(self.latent_codec, "coding_fingerprint", None)
        if coded.coding is not None and own_coding is not None:
            check_same(coded.coding, own_coding(), "coder and tables", "make the model with the same coder")

    def _coded(
        self, image: Image, quality: float | None, effort: int, lmbda: float | None, progress: Progress | None
    ) -> tuple[CodedImage, Tensor | None]:
        """An image as a file holds it, and the encoder's own y_hat where the latent codec gives one."""
        recipe, pixels = recipe_of(effort), as_pixels(image)
        if recipe is None and lmbda is not None:
            raise ArgumentError(f"lmbda is what an effort above 0 refines for, got lmbda={lmbda} with effort=0")
        fingerprint = decoder_fingerprint(self)  # first, since it says so where the weights are elsewhere
        weight = next(self.parameters())
        x = (pixels[None].to(weight.device).float() / 255).to(weight.dtype)
        with torch.no_grad():
            y = self._analyse(x)
            plain = self._coded_latent(y, pixels, quality, fingerprint)
        if recipe is None:
            return plain
        error_weight = lambda_at(self.lmbda, quality) if lmbda is None else lmbda
        refined = refine(self, x, y, recipe, error_weight, quality, progress)
        zeroings = getattr(self.latent_codec, "zeroings", (0.0,))
        others = [(y, zeroing) for zeroing in zeroings[1:]] + [(refined, zeroing) for zeroing in zeroings]
        made = [plain] + [self._coded_latent(own, pixels, quality, fingerprint, zeroing) for own, zeroing in others]

        def cost(coded: CodedImage, y_hat: Tensor | None) -> float:
            y_hat = self._decoded_latent(coded) if y_hat is None else y_hat
            decoded = self.image_of(y_hat, (coded.height, coded.width))
            mse = (decoded.double() - pixels.cpu()).square().mean().item()
            return error_weight * mse + 8 * len(coded.to_bytes()) / pixels[0].numel()

        return min(made, key=lambda one: cost(*one))

    def _coded_latent(
        self, y: Tensor, pixels: Tensor, quality: float | None, fingerprint: bytes, zeroing: float = 0.0
    ) -> tuple[CodedImage, Tensor | None]:
        (_, height, width), out = pixels.shape, self._compress_latent(y, quality, zeroing)
        shape = {name: value for name, value in named_shape(out["shape"]).items() if name != "quality"}
        coded = CodedImage(
            fingerprint,
            width,
            height,
            tuple(split_streams(out["strings"])),
            None if quality is None else round(float(quality) * QUALITY_UNITS),
            None if shape == usual_shape((height, width), self.stride) else check_shape(shape),
            scan_backend(self.latent_codec),
            exact=bool(getattr(self.latent_codec, "exact", False)),
        )
        return coded, out.get("y_hat")

    @torch.no_grad()
    def _decoded_latent(self, coded: CodedImage) -> Tensor:
        shape = usual_shape((coded.height, coded.width), self.stride)
        if coded.shape is not None:
            padded = tuple(side + -side % self.stride for side in (coded.height, coded.width))
            shape = check_shape(dict(coded.shape), padded)
        quality = None if coded.quality is None else coded.quality / QUALITY_UNITS
        with coding_numerics(self):
            try:
                streams = join_streams(coded.sections)
                out = self._method("decompress")(streams, unnamed_shape(shape), **self._options(quality))
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

    def _analyse(self, x: Tensor) -> Tensor:
        with coding_numerics(self), stage("g_a"):
            y: Tensor = self.g_a(self._padded(x))
        return y

    @torch.no_grad()
    def _compress_latent(self, y: Tensor, quality: float | None, zeroing: float = 0.0) -> dict[str, Any]:
        options = {**self._options(quality), **({"zeroing": zeroing} if zeroing else {})}
        with coding_numerics(self):
            out: dict[str, Any] = self._method("compress")(y, **options)
        return out

    def _options(self, quality: Any) -> dict[str, Any]:
        """Single-rate latent codecs take no quality; some of CompressAI's would ignore it."""
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
