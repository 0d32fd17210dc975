"""`.sic` files of versions 1 to 3, read as what version 4 holds.

offset  bytes  content of version 3
     0      4  magic "SIC" and 0x1A
     4      1  format version
     5      8  fingerprint of the model's weights
    13      4  fingerprint of coder and tables
    17      1  for information: scan backend (low four bits) and float width (high four bits) of the encoder
    18      -  nine numbers, 1 to 5 bytes each: width and height in pixels; height and width of y, height and width of z
               in latent cells; lengths of y's stream, z's stream and the guard
     -      -  y's stream, z's stream, the guard
  last      4  CRC-32 of all before it, little-endian

Its guard holds the band (2 bytes), the number of checksums (1), these (2 each; z's, then each step's), and unless the
band is 0 what a guard of today holds after its band; a CRC of all but z's checksum is xored into that one. Version 2
has no such CRC. Version 1 has after its 13 bytes width, height and the lengths of y's and z's stream as 32-bit
little-endian numbers, then the two streams; no guard, no checksums.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Callable
from typing import Any

from ssmctx.entropy.bitstream.checksums import UNCHECKED, Checksums
from ssmctx.entropy.bitstream.varint import take_varint
from ssmctx.errors import CorruptStreamError

__all__ = ["OLD_VERSIONS"]

_HEAD = 13
_CODING = struct.Struct("<4sB")
_VERSION_1 = struct.Struct("<IIII")
_CRC_BYTES = 4
_BACKENDS = ("", "reference", "torch", "cpu", "triton", "mamba_ssm")
_NUMBERS = ("width", "height", "y's height", "y's width", "z's height", "z's width")
_LENGTHS = ("the length of y's stream", "the length of z's stream", "the length of the guard")
_Z_CHECKSUM = slice(3, 5)  # bytes of the guard


def _version_1(body: bytes) -> dict[str, Any]:
    if len(body) < _HEAD + _VERSION_1.size:
        raise CorruptStreamError("the data ends within the header: it was truncated")
    width, height, *lengths = _VERSION_1.unpack_from(body, _HEAD)
    y, z = _sections(body, _HEAD + _VERSION_1.size, lengths)
    return {"fingerprint": body[5:_HEAD], "width": width, "height": height, "sections": (y, z, UNCHECKED, b"")}


def _version_2(body: bytes) -> dict[str, Any]:
    return _with_checksums(body, folded=False)


def _version_3(body: bytes) -> dict[str, Any]:
    return _with_checksums(body, folded=True)


OLD_VERSIONS: dict[int, Callable[[bytes], dict[str, Any]]] = {1: _version_1, 2: _version_2, 3: _version_3}
"""Of each version, what reads a file without its CRC-32 and gives the fields of a `CodedImage`."""


def _with_checksums(body: bytes, folded: bool) -> dict[str, Any]:
    offset = _HEAD + _CODING.size
    if len(body) < offset:
        raise CorruptStreamError("the data ends within the header: it was truncated")
    coding, encoder = _CODING.unpack_from(body, _HEAD)
    numbers = []
    for what in _NUMBERS + _LENGTHS:
        number, offset = take_varint(body, offset, what)
        numbers.append(number)
    width, height, y_height, y_width, z_height, z_width, *lengths = numbers
    y, z, guard = _sections(body, offset, lengths)
    sizes = ((y_height, y_width), (z_height, z_width))
    if any(not 1 <= rows <= height or not 1 <= columns <= width for rows, columns in sizes):
        raise CorruptStreamError(f"the header says latents of {sizes} cells for {height} x {width} pixels: damaged")
    return {
        "fingerprint": body[5:_HEAD],
        "width": width,
        "height": height,
        "sections": (y, z, *_checksums_and_guard(guard, folded)),
        "shape": {"y": sizes[0], "hyper": sizes[1]},
        "backend": _BACKENDS[encoder & 15] if encoder & 15 < len(_BACKENDS) else "",
        "coding": coding,
    }


def _checksums_and_guard(guard: bytes, folded: bool) -> tuple[bytes, bytes]:
    """The sections that hold today what a guard held then."""
    count = guard[2] if len(guard) > 2 else 0
    end = 3 + 2 * count
    if not count or len(guard) < end:
        raise CorruptStreamError("the guard ends within its checksums: it was truncated or is damaged")
    if folded:
        head, z_checksum, tail = guard[: _Z_CHECKSUM.start], guard[_Z_CHECKSUM], guard[_Z_CHECKSUM.stop :]
        crc = binascii.crc_hqx(head + tail, 0).to_bytes(2, "little")
        guard = head + bytes(a ^ b for a, b in zip(z_checksum, crc, strict=True)) + tail
    units, _, z, *steps = struct.unpack_from(f"<HB{count}H", guard)
    if not units and len(guard) > end:
        raise CorruptStreamError("a guard without a band ends with its checksums, this one goes on: damaged")
    today = guard[:2] + guard[end:] if units else b""
    return Checksums(z, tuple(steps)).to_bytes(today), today


def _sections(body: bytes, offset: int, lengths: list[int]) -> tuple[bytes, ...]:
    expected = offset + sum(lengths)
    if len(body) != expected:
        raise CorruptStreamError(
            f"the header requires {expected + _CRC_BYTES} bytes, the file has {len(body) + _CRC_BYTES}: "
            "truncated or damaged"
        )
    sections = []
    for length in lengths:
        sections.append(body[offset : offset + length])
        offset += length
    return tuple(sections)
