"""The whole codec: transforms around a latent codec, from images to files and back."""

from ssmctx.codec.image_codec import ImageCodec

__all__ = ["ImageCodec"]
