"""A model of CompressAI that writes files: its transforms and its latent codec in an ImageCodec."""

from __future__ import annotations

from compressai.models import SimpleVAECompressionModel

from ssmctx import ImageCodec


def with_files(model: SimpleVAECompressionModel, stride: int = 64) -> ImageCodec:
    """The same weights with `encode(image)` and `decode(data)`.

    Args:
        model: with g_a, g_s and latent_codec.
        stride: of g_a and h_a together.
    """
    codec = ImageCodec(model.g_a, model.g_s, model.latent_codec, stride).eval()
    codec.update()
    return codec
