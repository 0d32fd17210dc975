"""The codec: transforms around a latent codec, from images to files and back."""

from ssmctx.codec.image_codec import ImageCodec
from ssmctx.codec.loading import load
from ssmctx.codec.rounding import Estimate, soft_rounding

__all__ = ["Estimate", "ImageCodec", "load", "soft_rounding"]
