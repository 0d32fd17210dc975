"""Streams and sizes of one image, between the nesting of latent codecs and the flat sections of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssmctx.errors import ArgumentError, CorruptStreamError

__all__ = ["check_shape", "join_streams", "named_shape", "split_streams", "unnamed_shape", "usual_shape"]

_HYPER_STRIDE = 4  # cells of y for one of z, along each side, in most codecs
_MOST_A_PIXEL = 16  # elements of a latent; most codecs have one or two


def split_streams(strings: Sequence[Any]) -> list[bytes]:
    """The streams of one image.

    Args:
        strings: a list of streams per kind, each with one stream.

    Raises:
        ArgumentError: another nesting, or more images than one.

    Examples:
        >>> from ssmctx.codec.streams import split_streams
        >>> split_streams([[b"y"], [b"z"]])
        [b'y', b'z']
    """
    streams = []
    for of_a_kind in strings:
        if not isinstance(of_a_kind, (list, tuple)) or len(of_a_kind) != 1 or not isinstance(of_a_kind[0], bytes):
            raise ArgumentError(
                "a file holds the streams of one image, [[y stream], [z stream], ...]; the latent codec gave "
                f"{str(strings)[:80]}"
            )
        streams.append(of_a_kind[0])
    return streams


def join_streams(sections: Sequence[bytes]) -> list[list[bytes]]:
    """The inverse of `split_streams`."""
    return [[section] for section in sections]


def check_shape(shape: dict[str, Any], largest: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Sizes of latents as a file can tell them.

    Args:
        shape: (H, W) or (channels, H, W), in lists and under names, nested.
        largest: height and width that no latent exceeds; None to check the form only.

    Returns:
        The same, of plain dicts, lists, tuples and numbers.

    Raises:
        ArgumentError: another form, when a latent codec gave it.
        CorruptStreamError: another form or a size beyond `largest`, when a file says it.
    """

    def plain(part: Any) -> Any:
        if isinstance(part, Mapping) and all(isinstance(name, str) for name in part):
            return {name: plain(value) for name, value in part.items()}
        if isinstance(part, (list, tuple)) and part and not any(isinstance(n, int) for n in part):
            return [plain(value) for value in part]
        if _is_size(part) and (largest is None or _fits(part, largest)):
            return tuple(map(int, part))
        if largest is None:
            raise ArgumentError(
                f"a file tells sizes of latents, (H, W) or (channels, H, W), by names; the latent codec gave {shape!r}"
            )
        raise CorruptStreamError(f"the header says latents of {shape!r} cells for {largest} pixels: damaged")

    result: dict[str, Any] = plain(shape)
    return result


def named_shape(shape: Any) -> Mapping[str, Any]:
    """Some of CompressAI's latent codecs give a size alone."""
    return shape if isinstance(shape, Mapping) else {"latent": tuple(shape)}


def unnamed_shape(shape: Mapping[str, Any]) -> Any:
    return shape["latent"] if set(shape) == {"latent"} else shape


def usual_shape(size: tuple[int, int], stride: int) -> dict[str, Any]:
    """Sizes of y and z where they follow from the image's height and width; a file then need not say them."""
    y = tuple(-(-side // stride) for side in size)
    return {"y": y, "hyper": tuple(-(-side // _HYPER_STRIDE) for side in y)}


def _is_size(part: Any) -> bool:
    return isinstance(part, (list, tuple)) and len(part) in (2, 3) and all(isinstance(n, int) and n >= 1 for n in part)


def _fits(size: Sequence[int], largest: tuple[int, ...]) -> bool:
    """No more cells than pixels along a side; with channels, few enough elements a pixel."""
    height, width = largest
    return size[-2] <= height and size[-1] <= width and math.prod(size) <= _MOST_A_PIXEL * height * width
