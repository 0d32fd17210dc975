"""The `.sic` file: one coded picture that says what it is.

offset  bytes  content
     0      4  magic "SIC" and 0x1A
     4      1  format version, 1
     5      8  fingerprint of the model
    13      4  width in pixels     } unsigned,
    17      4  height in pixels    } little-endian
    21      4  length of y's stream
    25      4  length of z's stream
    29      -  y's stream, z's stream
  last      4  CRC-32 of all before it
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from ssmctx.entropy.fingerprint import FINGERPRINT_BYTES
from ssmctx.errors import ArgumentError, CorruptStreamError, ModelMismatchError

__all__ = ["CodedPicture", "write_whole"]

_MAGIC = b"SIC\x1a"
_VERSION = 1
_HEADER = struct.Struct(f"<4sB{FINGERPRINT_BYTES}sIIII")
_CRC = struct.Struct("<I")
_MAX_PIXELS = 1 << 30


@dataclass(frozen=True)
class CodedPicture:
    """One coded picture, as a file holds it.

    Attributes:
        fingerprint: of the model that coded it.
        width: in pixels.
        height: in pixels.
        y_stream: the stream of y.
        z_stream: the stream of z.

    Example:
        >>> picture = CodedPicture(b"8 bytes.", 3, 2, b"y stream", b"z stream")
        >>> data = picture.to_bytes()
        >>> len(data), CodedPicture.from_bytes(data) == picture
        (49, True)
    """

    fingerprint: bytes
    width: int
    height: int
    y_stream: bytes
    z_stream: bytes

    def to_bytes(self) -> bytes:
        """The whole file.

        Raises:
            ArgumentError: a side below 1 or more than 2^30 pixels.
        """
        if min(self.width, self.height) < 1 or self.width * self.height > _MAX_PIXELS:
            raise ArgumentError(
                f"a picture has sides of at least 1 and at most 2^30 pixels, got {self.width} x {self.height}"
            )
        sizes = (self.width, self.height, len(self.y_stream), len(self.z_stream))
        body = _HEADER.pack(_MAGIC, _VERSION, self.fingerprint, *sizes) + self.y_stream + self.z_stream
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> CodedPicture:
        """Parse a whole file.

        Raises:
            CorruptStreamError: the data is no `.sic` file, of another version, cut, or damaged.
        """
        if data[:4] != _MAGIC:
            raise CorruptStreamError(f"not a .sic file: it starts with {data[:4]!r} where {_MAGIC!r} is expected")
        if len(data) < _HEADER.size + _CRC.size:
            raise CorruptStreamError(
                f"a .sic file has {_HEADER.size + _CRC.size} bytes or more, got {len(data)}: cut off"
            )
        _, version, mark, width, height, y_size, z_size = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise CorruptStreamError(
                f"a .sic file of version {version}, this release reads {_VERSION}: use another release"
            )
        expected = _HEADER.size + y_size + z_size + _CRC.size
        if len(data) != expected:
            raise CorruptStreamError(
                f"the header promises {expected} bytes, the file has {len(data)}: cut off or damaged"
            )
        body, (crc,) = data[: -_CRC.size], _CRC.unpack(data[-_CRC.size :])
        if zlib.crc32(body) != crc:
            raise CorruptStreamError("the file's checksum is wrong: it is damaged; copy it again from its source")
        if min(width, height) < 1 or width * height > _MAX_PIXELS:
            raise CorruptStreamError(f"the header says {width} x {height} pixels, which no encoder of ours writes")
        streams = body[_HEADER.size :]
        return cls(mark, width, height, streams[:y_size], streams[y_size:])

    def check_model(self, mark: bytes) -> None:
        """Raise ModelMismatchError unless the model with this fingerprint wrote the file."""
        if mark != self.fingerprint:
            raise ModelMismatchError(
                f"the file was written by model {self.fingerprint.hex()}, this one is {mark.hex()}: use its checkpoint"
            )


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file completely or not at all: to a temporary file beside it, then by renaming.

    Args:
        path: the file to make or replace.
        data: its content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
