"""The `.sic` file: one coded image that says what it is. Version 4; versions 1 to 3 are read too.

bytes  content
    4  magic "SIC" and 0x1A
    1  format version, 4
    1  flags, of what follows: 1 a quality, without it none; 2 a shape, without it the usual one; 4 a scan backend,
       without it unknown; 8 a number of sections, without it 4, or 3 with flag 16. Flag 16: integers say the table
       rows of y, and there is no guard
    8  fingerprint of the decoder: of all weights, tables and names that decoding depends on
    -  of what the flags say, in their order: the quality in 1/256 (a number); the latents' sizes as JSON, and the
       backend's name in ASCII (each a number of bytes, and these); how many sections there are (a number)
    -  width and height in pixels, then the lengths of all sections but the last (numbers)
    -  the sections: y, z, checksums, guard
    4  CRC-32 of all before it, little-endian

A number takes 1 to 5 bytes (`varint.py`). Sections of other latent codecs than ours are their streams, in order. What
older versions hold is in `old_versions.py`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssmctx.entropy.bitstream.old_versions import OLD_VERSIONS
from ssmctx.entropy.bitstream.varint import put_varint, take_varint
from ssmctx.errors import ArgumentError, CorruptStreamError

__all__ = ["CodedImage"]

_MAGIC = b"SIC\x1a"
_VERSION = 4
_FINGERPRINT = 8
_START = struct.Struct(f"<4sBB{_FINGERPRINT}s")
_CRC = struct.Struct("<I")
_QUALITY, _SHAPE, _BACKEND, _COUNT, _EXACT = 1, 2, 4, 8, 16
_MOST_SECTIONS = 64
_MAX_PIXELS = 1 << 30


@dataclass(frozen=True)
class CodedImage:
    """One coded image, as stored in a file.

    Attributes:
        fingerprint: of the decoder, 8 bytes; in versions before 4, of all weights.
        width: in pixels.
        height: in pixels.
        sections: of the latents: y, z, checksums and guard, or another latent codec's streams.
        quality: in 1/256; None where none was given.
        shape: sizes of the latents, where they do not follow from the image's; names and pairs of numbers, nested.
        backend: scan backend of the encoder, for information; "" where it is not known.
        version: of the format.
        coding: fingerprint of coder and tables, 4 bytes, in versions 2 and 3; None in others.
        exact: whether integers say the table rows, so that there is no guard: the sections are y, z and checksums.

    Examples:
        >>> from ssmctx.entropy.bitstream import CodedImage
        >>> image = CodedImage(b"8 bytes.", 30, 20, (b"y stream", b"z stream", b"sums", b"guard"), backend="cpu")
        >>> data = image.to_bytes()
        >>> len(data), CodedImage.from_bytes(data) == image
        (52, True)
    """

    fingerprint: bytes
    width: int
    height: int
    sections: tuple[bytes, ...]
    quality: int | None = None
    shape: Mapping[str, Any] | None = None
    backend: str = ""
    version: int = _VERSION
    coding: bytes | None = None
    exact: bool = False

    def to_bytes(self) -> bytes:
        """The bytes of the file, in the newest version.

        Raises:
            ArgumentError: a side below 1, more than 2^30 pixels, no sections or too many, a fingerprint of another
                length, a quality or a size that is not a non-negative integer, or an image read from an older version,
                whose fingerprint covers other weights.
        """
        if min(self.width, self.height) < 1 or self.width * self.height > _MAX_PIXELS:
            raise ArgumentError(
                f"an image has sides of at least 1 and at most 2^30 pixels, got {self.width} x {self.height}"
            )
        if not 1 <= len(self.sections) <= _MOST_SECTIONS:
            raise ArgumentError(f"a .sic file has 1 to {_MOST_SECTIONS} sections, got {len(self.sections)}")
        if self.version != _VERSION:
            raise ArgumentError(f"files are written in version {_VERSION}, this image is of version {self.version}")
        if self.coding is not None:
            raise ArgumentError(f"files of version {_VERSION} have no coding, got coding={self.coding!r}")
        if len(self.fingerprint) != _FINGERPRINT:
            raise ArgumentError(f"a fingerprint has {_FINGERPRINT} bytes, got {self.fingerprint!r}")
        flags, fields = 0, []
        if self.quality is not None:
            flags |= _QUALITY
            fields.append(put_varint(self.quality))
        for flag, text in ((_SHAPE, _to_json(self.shape)), (_BACKEND, self.backend.encode("ascii", "replace"))):
            if text:
                flags |= flag
                fields.append(put_varint(len(text)) + text)
        if self.exact:
            flags |= _EXACT
        if len(self.sections) != _usual_count(flags):
            flags |= _COUNT
            fields.append(put_varint(len(self.sections)))
        numbers = (self.width, self.height, *map(len, self.sections[:-1]))
        body = b"".join(
            [
                _START.pack(_MAGIC, _VERSION, flags, self.fingerprint),
                *fields,
                *map(put_varint, numbers),
                *self.sections,
            ]
        )
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> CodedImage:
        """Parse a file of any version.

        Raises:
            CorruptStreamError: the data is no `.sic` file, of an unknown version, cut, or damaged.
        """
        if data[:4] != _MAGIC:
            raise CorruptStreamError(f"not a .sic file: it starts with {data[:4]!r} where {_MAGIC!r} is expected")
        if len(data) < _START.size + _CRC.size:
            raise CorruptStreamError(f"a .sic file has more than {_START.size} bytes, got {len(data)}: truncated")
        version, body = data[4], data[: -_CRC.size]
        if version != _VERSION and version not in OLD_VERSIONS:
            raise CorruptStreamError(
                f"a .sic file of version {version}, this release reads up to {_VERSION}: use a newer release"
            )
        image = _parse(cls, body) if version == _VERSION else cls(**OLD_VERSIONS[version](body), version=version)
        if zlib.crc32(body) != _CRC.unpack(data[-_CRC.size :])[0]:
            raise CorruptStreamError("the file's checksum is wrong: it is damaged; copy it again from its source")
        if min(image.width, image.height) < 1 or image.width * image.height > _MAX_PIXELS:
            raise CorruptStreamError(
                f"the header says {image.width} x {image.height} pixels, which no ssmctx encoder writes"
            )
        return image


def _parse(make: type[CodedImage], body: bytes) -> CodedImage:
    _, _, flags, fingerprint = _START.unpack_from(body)
    if flags >= 2 * _EXACT:
        raise CorruptStreamError("the file's flags are not those of this version: damaged")
    offset, quality, texts = _START.size, None, [b"", b""]
    if flags & _QUALITY:
        quality, offset = take_varint(body, offset, "the quality")
    for i, (flag, what) in enumerate(((_SHAPE, "the sizes"), (_BACKEND, "the backend"))):
        if flags & flag:
            length, offset = take_varint(body, offset, what)
            texts[i], offset = body[offset : offset + length], offset + length
            if offset > len(body):
                raise CorruptStreamError(f"the data ends within {what}: it was truncated")
    count = _usual_count(flags)
    if flags & _COUNT:
        count, offset = take_varint(body, offset, "the number of sections")
        if not 1 <= count <= _MOST_SECTIONS:
            raise CorruptStreamError(f"the header says {count} sections: damaged")
    numbers = []
    for what in ("width", "height", *(f"the length of section {i}" for i in range(count - 1))):
        number, offset = take_varint(body, offset, what)
        numbers.append(number)
    width, height, *lengths = numbers
    if offset + sum(lengths) > len(body):
        raise CorruptStreamError(
            f"the header requires {offset + sum(lengths) + _CRC.size} bytes or more, the file has "
            f"{len(body) + _CRC.size}: truncated or damaged"
        )
    sections = []
    for length in lengths:
        sections.append(body[offset : offset + length])
        offset += length
    return make(
        fingerprint,
        width,
        height,
        (*sections, body[offset:]),
        quality,
        _from_json(texts[0]) if flags & _SHAPE else None,
        texts[1].decode("ascii", "replace"),
        exact=bool(flags & _EXACT),
    )


def _usual_count(flags: int) -> int:
    """Number of sections where the file does not give it."""
    return 3 if flags & _EXACT else 4


def _to_json(shape: Mapping[str, Any] | None) -> bytes:
    if shape is None:
        return b""
    try:
        text = json.dumps(shape, separators=(",", ":"), sort_keys=True)
        _sizes(json.loads(text))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"the sizes of latents must be integers, nested under names, got {shape!r}") from error
    return text.encode()


def _from_json(text: bytes) -> Mapping[str, Any]:
    try:
        shape = _sizes(json.loads(text))
    except (ValueError, RecursionError):
        shape = None
    if not isinstance(shape, Mapping):
        raise CorruptStreamError("the sizes of the latents cannot be read: the file is damaged")
    return shape


def _sizes(part: Any) -> Any:
    """Names and numbers, nested; lists as tuples, as codecs give them."""
    if isinstance(part, dict):
        return {name: _sizes(value) for name, value in part.items()}
    if isinstance(part, list):
        return tuple(map(_sizes, part))
    if type(part) is not int:
        raise ValueError("neither a size nor a group of sizes")
    return part
