"""Pretrained codecs by name."""

from __future__ import annotations

import torch

from ssmctx.codec.image_codec import ImageCodec
from ssmctx.registry import codecs

__all__ = ["load"]


def load(name: str, device: torch.device | str = "cpu") -> ImageCodec:
    """Load a pretrained codec, in evaluation mode and ready to code.

    `base` and `tiny` are bundled with this package. Others add theirs by an entry point in the group `ssmctx.codecs`: a
    function of `device` that returns an `ImageCodec`.

    Args:
        name: from `ssmctx.registry.codecs`.
        device: where its weights are loaded.

    Returns:
        The codec, in evaluation mode.

    Raises:
        UnknownNameError: no such codec; the message lists the installed ones.
        CheckpointError: its file is damaged.

    Examples:
        >>> import ssmctx
        >>> codec = ssmctx.load("base")  # doctest: +SKIP
        >>> decoded = codec.decode(codec.encode(image, quality=2.5))  # doctest: +SKIP
    """
    codec: ImageCodec = codecs.create(name, device=device)
    return codec
