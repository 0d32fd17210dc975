"""Streams and sizes of one image, between the nesting of latent codecs and the flat sections of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmctx.errors import ArgumentError, CorruptStreamError

__all__ = ["check_shape", "join_streams", "split_streams"]


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
        shape: names and pairs of whole numbers, nested.
        largest: height and width that no latent exceeds; None to check the form only.

    Returns:
        The same, of plain dicts, tuples and numbers.

    Raises:
        ArgumentError: another form, when a latent codec gave it.
        CorruptStreamError: another form or a size beyond `largest`, when a file says it.
    """

    def plain(part: Any) -> Any:
        if isinstance(part, Mapping) and all(isinstance(name, str) for name in part):
            return {name: plain(value) for name, value in part.items()}
        is_size = (
            isinstance(part, (list, tuple)) and len(part) == 2 and all(isinstance(n, int) and n >= 1 for n in part)
        )
        if is_size and (largest is None or (part[0] <= largest[0] and part[1] <= largest[1])):
            return tuple(map(int, part))
        if largest is None:
            raise ArgumentError(f"a file tells sizes of latents by names, as (H, W); the latent codec gave {shape!r}")
        raise CorruptStreamError(f"the header says latents of {shape!r} cells for {largest} pixels: damaged")

    result: dict[str, Any] = plain(shape)
    return result
