"""The `.sic` file: one coded picture that says what it is. Version 3; versions 1 and 2 are read too.

offset  bytes  content
     0      4  magic "SIC" and 0x1A
     4      1  format version, 3
     5      8  fingerprint of the model's weights
    13      4  fingerprint of coder and tables
    17      1  for information: scan backend (low four bits) and float width (high four bits) of the encoder
    18      -  nine numbers, 1 to 5 bytes each (`ssmctx.entropy.varint`): width and height in pixels; height and width
               of y, height and width of z in latent cells; lengths of y's stream, z's stream and the guard
     -      -  y's stream, z's stream, the guard (`ssmctx.entropy.guard`)
  last      4  CRC-32 of all before it, little-endian

Version 2 differs in its guard, whose other bytes are not folded into z's checksum (`ssmctx.entropy.guard.folded`).
Version 1 has after its 13 bytes width, height and the lengths of y's and z's stream as 32-bit little-endian numbers,
then the two streams, no guard, and the CRC-32.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

from ssmctx.entropy.fingerprint import FINGERPRINT_BYTES
from ssmctx.entropy.guard import folded
from ssmctx.entropy.varint import put_varint, take_varint
from ssmctx.errors import ArgumentError, CorruptStreamError, ModelMismatchError

__all__ = ["CodedPicture"]

_MAGIC = b"SIC\x1a"
_VERSION = 3
_START = struct.Struct(f"<4sB{FINGERPRINT_BYTES}s")
_CODING = struct.Struct("<4sB")
_VERSION_1 = struct.Struct("<IIII")
_CRC = struct.Struct("<I")
_MAX_PIXELS = 1 << 30
_BACKENDS = ("", "reference", "torch", "cpu", "triton", "mamba_ssm")  # places are part of the format: append only
_NUMBERS = ("width", "height", "y's height", "y's width", "z's height", "z's width")
_LENGTHS = ("the length of y's stream", "the length of z's stream", "the length of the guard")


@dataclass(frozen=True)
class CodedPicture:
    """One coded picture, as a file holds it.

    Attributes:
        fingerprint: of the weights that coded it, 8 bytes.
        width: in pixels.
        height: in pixels.
        strings: y's stream, z's stream and the guard, as today's codecs make them; version 1 has no guard.
        coding: fingerprint of coder and tables, 4 bytes; None in version 1.
        y_size: height and width of y in latent cells; None in version 1.
        z_size: of z.
        backend: scan backend of the encoder, for information; "" where it is not known.
        float_bytes: width of the encoder's numbers, for information; 0 where it is not known.

    Examples:
        >>> from ssmctx.entropy.container import CodedPicture
        >>> strings = (b"y stream", b"z stream", b"guard")
        >>> picture = CodedPicture(b"8 bytes.", 30, 20, strings, b"four", (2, 2), (1, 1), "cpu", 4)
        >>> data = picture.to_bytes()
        >>> len(data), CodedPicture.from_bytes(data) == picture
        (52, True)
    """

    fingerprint: bytes
    width: int
    height: int
    strings: tuple[bytes, ...]
    coding: bytes | None = None
    y_size: tuple[int, int] | None = None
    z_size: tuple[int, int] | None = None
    backend: str = ""
    float_bytes: int = 0

    def to_bytes(self) -> bytes:
        """The whole file, in the newest version.

        Raises:
            ArgumentError: a side below 1, more than 2^30 pixels, or what version 3 needs is missing.
        """
        if min(self.width, self.height) < 1 or self.width * self.height > _MAX_PIXELS:
            raise ArgumentError(
                f"a picture has sides of at least 1 and at most 2^30 pixels, got {self.width} x {self.height}"
            )
        if len(self.strings) != 3 or self.coding is None or self.y_size is None or self.z_size is None:
            raise ArgumentError("a .sic file needs three strings, the fingerprint of the coding, and y_size and z_size")
        backend = _BACKENDS.index(self.backend) if self.backend in _BACKENDS else 0
        numbers = (self.width, self.height, *self.y_size, *self.z_size, *(len(string) for string in self.strings))
        body = b"".join(
            [
                _START.pack(_MAGIC, _VERSION, self.fingerprint),
                _CODING.pack(self.coding, backend | self.float_bytes << 4),
                *(put_varint(number) for number in numbers),
                *self.strings,
            ]
        )
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> CodedPicture:
        """Parse a whole file of any version.

        Raises:
            CorruptStreamError: the data is no `.sic` file, of an unknown version, cut, or damaged.
        """
        if data[:4] != _MAGIC:
            raise CorruptStreamError(f"not a .sic file: it starts with {data[:4]!r} where {_MAGIC!r} is expected")
        if len(data) < _START.size + _CRC.size:
            raise CorruptStreamError(f"a .sic file has more than {_START.size} bytes, got {len(data)}: cut off")
        _, version, fingerprint = _START.unpack_from(data)
        if version not in _PARSERS:
            raise CorruptStreamError(
                f"a .sic file of version {version}, this release reads up to {_VERSION}: use a newer release"
            )
        body = data[: -_CRC.size]
        picture = _PARSERS[version](cls, fingerprint, body)
        if zlib.crc32(body) != _CRC.unpack(data[-_CRC.size :])[0]:
            raise CorruptStreamError("the file's checksum is wrong: it is damaged; copy it again from its source")
        width, height = picture.width, picture.height
        sizes = [size for size in (picture.y_size, picture.z_size) if size is not None]
        if min(width, height) < 1 or width * height > _MAX_PIXELS:
            raise CorruptStreamError(f"the header says {width} x {height} pixels, which no encoder of ours writes")
        if any(not 1 <= rows <= height or not 1 <= columns <= width for rows, columns in sizes):
            raise CorruptStreamError(f"the header says latents of {sizes} cells for {height} x {width} pixels: damaged")
        return picture

    def check_model(self, fingerprint: bytes, coding: bytes) -> None:
        """Raise ModelMismatchError unless the model with these fingerprints, of weights and of coding, reads this."""
        if fingerprint != self.fingerprint:
            raise ModelMismatchError(
                f"the file was written by model {self.fingerprint.hex()}, this one is {fingerprint.hex()}: "
                "use its checkpoint"
            )
        if self.coding is not None and coding != self.coding:
            raise ModelMismatchError(
                f"the file was written with coder and tables {self.coding.hex()}, this model has {coding.hex()}: "
                "make the model with the same coder"
            )


def _version_1(make: type[CodedPicture], fingerprint: bytes, body: bytes) -> CodedPicture:
    if len(body) < _START.size + _VERSION_1.size:
        raise CorruptStreamError("the data ends within the header: it was cut")
    width, height, *lengths = _VERSION_1.unpack_from(body, _START.size)
    return make(fingerprint, width, height, _sections(body, _START.size + _VERSION_1.size, lengths))


def _version_2(make: type[CodedPicture], fingerprint: bytes, body: bytes) -> CodedPicture:
    picture = _version_3(make, fingerprint, body)
    y, z, guard = picture.strings
    return replace(picture, strings=(y, z, folded(guard)))


def _version_3(make: type[CodedPicture], fingerprint: bytes, body: bytes) -> CodedPicture:
    place = _START.size + _CODING.size
    if len(body) < place:
        raise CorruptStreamError("the data ends within the header: it was cut")
    coding, made = _CODING.unpack_from(body, _START.size)
    numbers = []
    for what in _NUMBERS + _LENGTHS:
        number, place = take_varint(body, place, what)
        numbers.append(number)
    width, height, y_height, y_width, z_height, z_width, *lengths = numbers
    strings = _sections(body, place, lengths)
    backend = _BACKENDS[made & 15] if made & 15 < len(_BACKENDS) else ""
    sizes = ((y_height, y_width), (z_height, z_width))
    return make(fingerprint, width, height, strings, coding, *sizes, backend, made >> 4)


_PARSERS = {1: _version_1, 2: _version_2, 3: _version_3}


def _sections(body: bytes, place: int, lengths: list[int]) -> tuple[bytes, ...]:
    expected = place + sum(lengths) + _CRC.size
    if len(body) + _CRC.size != expected:
        raise CorruptStreamError(
            f"the header promises {expected} bytes, the file has {len(body) + _CRC.size}: cut off or damaged"
        )
    strings = []
    for length in lengths:
        strings.append(body[place : place + length])
        place += length
    return tuple(strings)
