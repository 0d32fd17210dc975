"""Images as `.sic` files: what an encoder writes, after a search where it is asked for, and what a decoder reads."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ssmctx.codec.fingerprint import check_same, decoder_fingerprint, old_fingerprint
from ssmctx.codec.latents import compress_latent, decompress_latent
from ssmctx.codec.pixels import Image, as_pixels
from ssmctx.codec.refine import Progress, check_lambda, lambda_at, recipe_of, refine
from ssmctx.codec.streams import check_shape, join_streams, split_streams, usual_shape
from ssmctx.entropy.bitstream import CodedImage
from ssmctx.entropy.gains import QUALITY_UNITS, plain
from ssmctx.entropy.numerics import scan_backend
from ssmctx.errors import ArgumentError, CorruptStreamError

__all__ = ["check_file", "code_image", "decoded_latent"]


def code_image(
    codec: Any, image: Image, quality: float | None, effort: int, lmbda: float | None, progress: Progress | None
) -> tuple[CodedImage, Tensor | None]:
    """An image as a file holds it, and the encoder's own y_hat where the latent codec gives one; in `coding_numerics`.

    An effort above 0 also codes a refined latent, and both with each of the latent codec's `zeroings`, and keeps what
    costs least. The arguments are those of `ImageCodec.encode`.
    """
    recipe, pixels = recipe_of(effort), as_pixels(image)
    if recipe is None and lmbda is not None:
        raise ArgumentError(f"lmbda is what an effort above 0 refines for, got lmbda={lmbda} with effort=0")
    quality = None if quality is None else _as_stored(quality)
    fingerprint = decoder_fingerprint(codec)  # first: it raises where weights are offloaded or sharded
    weight = next(codec.parameters())
    x = (pixels[None].to(weight.device).float() / 255).to(weight.dtype)
    y = codec.analyse(x)

    def coded(y: Tensor, zeroing: float = 0.0) -> tuple[CodedImage, Tensor | None]:
        out = compress_latent(codec.latent_codec, y, quality, zeroing)
        return _as_file(codec, out, pixels.shape[1:], quality, fingerprint), out.get("y_hat")

    plain = coded(y)
    if recipe is None:
        return plain
    error_weight = lambda_at(codec.lmbda, quality) if lmbda is None else check_lambda(lmbda)
    refined = refine(codec, x, y, recipe, error_weight, quality, progress)
    others = [zeroing for zeroing in getattr(codec.latent_codec, "zeroings", ()) if zeroing]
    made = [plain, coded(refined), *(coded(one, zeroing) for one in (y, refined) for zeroing in others)]

    def cost(file: CodedImage, y_hat: Tensor | None) -> float:
        y_hat = decoded_latent(codec, file) if y_hat is None else y_hat
        decoded = codec.image_of(y_hat, (file.height, file.width))
        mse: float = (decoded.double() - pixels.cpu()).square().mean().item()
        return error_weight * mse + 8 * len(file.to_bytes()) / pixels[0].numel()

    return min(made, key=lambda one: cost(*one))


def decoded_latent(codec: Any, coded: CodedImage) -> Tensor:
    """The y_hat (1, M, h, w) of a file; called inside `coding_numerics`.

    Raises:
        CorruptStreamError: the file contradicts itself or the codec, or is damaged.
        DecodeMismatchError: it decodes to other symbols than were encoded.
    """
    shape = usual_shape((coded.height, coded.width), codec.stride)
    if coded.shape is not None:
        padded = tuple(side + -side % codec.stride for side in (coded.height, coded.width))
        shape = check_shape(dict(coded.shape), padded)
    quality = None if coded.quality is None else coded.quality / QUALITY_UNITS
    try:
        return decompress_latent(codec.latent_codec, join_streams(coded.sections), shape, quality)
    except ArgumentError as error:  # all arguments are the file's
        raise CorruptStreamError(f"the file contradicts itself or this codec: {error}") from error


def check_file(codec: Any, coded: CodedImage) -> None:
    """Raise ModelMismatchError unless a codec decodes a file."""
    if coded.version >= 4:
        check_same(coded.fingerprint, decoder_fingerprint(codec), "model", "use its checkpoint")
        return
    check_same(coded.fingerprint, old_fingerprint(codec), "model", "use its checkpoint")
    own_coding = getattr(codec.latent_codec, "coding_fingerprint", None)
    if coded.coding is not None and own_coding is not None:
        check_same(coded.coding, own_coding(), "coder and tables", "make the model with the same coder")


def _as_stored(quality: Any) -> float:
    """A quality as the decoder will read it."""
    number = plain(quality)
    if not isinstance(number, Real) or not 0 <= float(number) < 1 << 20:
        raise ArgumentError(f"a file stores a quality from 0 on, one number, got {quality!r}")
    return round(float(number) * QUALITY_UNITS) / QUALITY_UNITS


def _as_file(
    codec: Any, out: dict[str, Any], size: torch.Size, quality: float | None, fingerprint: bytes
) -> CodedImage:
    """What the latent codec gave for an image of some height and width, as a file holds it."""
    height, width = size
    shape = {name: value for name, value in out["shape"].items() if name != "quality"}
    return CodedImage(
        fingerprint,
        width,
        height,
        tuple(split_streams(out["strings"])),
        None if quality is None else round(quality * QUALITY_UNITS),
        None if shape == usual_shape((height, width), codec.stride) else check_shape(shape),
        scan_backend(codec.latent_codec),
        exact=bool(getattr(codec.latent_codec, "exact", False)),
    )
