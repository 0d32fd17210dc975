"""Calls of a latent codec: its methods, and the options that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.codec.streams import named_shape, unnamed_shape
from ssmctx.errors import ArgumentError

__all__ = ["compress_latent", "decompress_latent", "latent_options"]


def latent_options(latent_codec: nn.Module, quality: Any) -> dict[str, Any]:
    """The keyword that hands on a quality: none for None.

    Raises:
        ArgumentError: the latent codec takes no quality; some of CompressAI's would ignore it.
    """
    if quality is None:
        return {}
    if "quality" not in inspect.signature(_method(latent_codec, "compress")).parameters:
        name = type(latent_codec).__name__
        raise ArgumentError(f"{name} has one rate, got quality={quality!r}: leave it out")
    return {"quality": quality}


@torch.no_grad()
def compress_latent(latent_codec: nn.Module, y: Tensor, quality: float | None, zeroing: float = 0.0) -> dict[str, Any]:
    """What the latent codec's `compress` gives, "shape" with names; called inside `coding_numerics`.

    Args:
        latent_codec: what codes.
        y: latent (batch, M, h, w).
        quality: as the latent codec takes it; None leaves it out.
        zeroing: one of the latent codec's `zeroings`; 0 leaves it out.
    """
    options = latent_options(latent_codec, quality)
    if zeroing:
        options["zeroing"] = zeroing
    out: dict[str, Any] = _method(latent_codec, "compress")(y, **options)
    return {**out, "shape": named_shape(out["shape"])}


@torch.no_grad()
def decompress_latent(
    latent_codec: nn.Module, strings: Sequence[Sequence[bytes]], shape: Mapping[str, Any], quality: float | None
) -> Tensor:
    """The y_hat of strings and shape as `compress_latent` gives them; the rest is as it takes it."""
    options = latent_options(latent_codec, quality)
    y_hat: Tensor = _method(latent_codec, "decompress")(strings, unnamed_shape(shape), **options)["y_hat"]
    return y_hat


def _method(latent_codec: nn.Module, name: str) -> Any:
    """A method of the latent codec, which a wrapper such as DataParallel hides."""
    method = getattr(latent_codec, name, None)
    if method is None:
        raise ArgumentError(
            f"ImageCodec: latent_codec is a {type(latent_codec).__name__}, which has no {name}: wrap the whole codec "
            "or modules inside the latent codec"
        )
    return method
