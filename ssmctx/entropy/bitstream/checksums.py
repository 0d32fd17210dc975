"""Checksums of the symbols, by which a decoder verifies them."""

from __future__ import annotations

import binascii
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmctx.errors import CorruptStreamError

__all__ = ["UNCHECKED", "Checksums", "checksum"]

UNCHECKED = b"\0"
"""The section of an encoder that wrote neither checksums nor a guard: files of version 1."""

_ONE, _EACH = 1, 2
_SHORT = 512  # bytes of y's stream, below which one checksum serves all steps


def checksum(symbols: NDArray[np.int16]) -> int:
    """16-bit checksum of symbols."""
    return zlib.crc32(symbols.astype("<i2", copy=False).tobytes()) & 0xFFFF


@dataclass(frozen=True)
class Checksums:
    """Of z's symbols, and of y's: one for each coding step, or one for all where y's stream is short.

    Attributes:
        z: of all symbols of z.
        steps: of the symbols of each step, or of all of y in one.

    Examples:
        >>> from ssmctx.entropy.bitstream.checksums import Checksums
        >>> data = Checksums(7, (65535,)).to_bytes(guard=b"guard")
        >>> len(data), Checksums.from_bytes(data, b"guard", steps=10)
        (5, Checksums(z=7, steps=(65535,)))
    """

    z: int
    steps: tuple[int, ...]

    @classmethod
    def of(cls, z: int, steps: list[NDArray[np.int16]], stream_bytes: int) -> Checksums:
        """The checksums of a latent.

        Args:
            z: checksum of z's symbols.
            steps: the symbols of y, of each step.
            stream_bytes: length of y's stream.
        """
        if stream_bytes < _SHORT:
            steps = [np.concatenate(steps)]
        return cls(z, tuple(map(checksum, steps)))

    def to_bytes(self, guard: bytes) -> bytes:
        """A kind, z's checksum, and y's, of two bytes each.

        A CRC of everything else that has no checksum of its own, the guard's bytes and y's checksums, is xored into
        z's checksum: every flipped bit of them then changes what a decoder expects of z.
        """
        rest = struct.pack(f"<{len(self.steps)}H", *self.steps)
        kind = bytes([_ONE if len(self.steps) == 1 else _EACH])
        return kind + struct.pack("<H", self.z ^ _crc(kind, rest, guard)) + rest

    @classmethod
    def from_bytes(cls, data: bytes, guard: bytes, steps: int) -> Checksums | None:
        """Parse a section; None if the encoder wrote no checksums.

        Args:
            data: the section.
            guard: the guard's section, which these cover.
            steps: coding steps of the latent.

        Raises:
            CorruptStreamError: it is not one that `to_bytes` writes for so many steps.
        """
        if data == UNCHECKED:
            if guard:
                raise CorruptStreamError("there is a guard but there are no checksums: the stream is damaged")
            return None
        kind = data[0] if isinstance(data, bytes) and data else 0
        count = {_ONE: 1, _EACH: steps}.get(kind, 0)
        if not count or len(data) != 3 + 2 * count or (kind == _EACH and count == 1):
            came = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
            raise CorruptStreamError(
                f"the checksums of {steps} steps take 5 bytes or {3 + 2 * steps}, got {came}: truncated or damaged"
            )
        z, *rest = struct.unpack(f"<{1 + count}H", data[1:])
        return cls(z ^ _crc(data[:1], data[3:], guard), tuple(rest))


def _crc(*parts: bytes) -> int:
    return binascii.crc_hqx(b"".join(parts), 0)
