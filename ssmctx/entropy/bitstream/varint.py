"""Integers below 2^35 in as few bytes as they need: seven bits per byte, lowest first."""

from __future__ import annotations

from ssmctx.errors import ArgumentError, CorruptStreamError

__all__ = ["put_varint", "take_varint"]

_LONGEST = 5


def put_varint(value: int) -> bytes:
    """The bytes of a number from 0 to 2^35 - 1; all but the last have their top bit set.

    Raises:
        ArgumentError: another number.

    Examples:
        >>> from ssmctx.entropy.bitstream.varint import put_varint
        >>> put_varint(5).hex(), put_varint(768).hex()
        ('05', '8006')
    """
    if not isinstance(value, int) or not 0 <= value < 1 << 7 * _LONGEST:
        raise ArgumentError(f"a file stores integers from 0 to 2^{7 * _LONGEST} - 1, got {value!r}")
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def take_varint(data: bytes, offset: int, what: str) -> tuple[int, int]:
    """The number at an offset in the data, and the offset after it.

    Args:
        data: may end too soon.
        offset: where the number starts.
        what: its name in error messages.

    Raises:
        CorruptStreamError: the data ends within the number, it is longer than 5 bytes, or longer than it needs to be.

    Examples:
        >>> from ssmctx.entropy.bitstream.varint import take_varint
        >>> take_varint(bytes.fromhex("ff8006"), 1, "width")
        (768, 3)
    """
    value = 0
    for count in range(_LONGEST):
        if offset + count >= len(data):
            raise CorruptStreamError(f"the data ends within {what}: it was truncated")
        byte = data[offset + count]
        value |= (byte & 127) << 7 * count
        if byte < 128:
            if byte == 0 and count:
                break
            return value, offset + count + 1
    raise CorruptStreamError(f"{what} is not written as an encoder writes it: damaged")
