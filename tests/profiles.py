"""Small ICC profiles, made from their definition."""

from __future__ import annotations

import itertools
import struct

D50 = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50), **tags}
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(content))
        data += content
    head = struct.pack(">I4x", 128 + len(table) + len(data)) + bytes([2, 0x40, 0, 0]) + kind + space + pcs
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return head.ljust(128, b"\0") + table + data


def display_p3() -> bytes:
    """Display P3: its primaries, adapted to D50, and the curve of sRGB."""
    curve = b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    primaries = {b"r": (0.51512, 0.2412, -0.00105), b"g": (0.29198, 0.69225, 0.04189), b"b": (0.1571, 0.06657, 0.78407)}
    tags = {name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(*values) for name, values in primaries.items()}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {name + b"TRC": curve for name in primaries})


def grey(gamma: float) -> bytes:
    """Grey of that gamma."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def cmyk() -> bytes:
    """Grey ink for all four: L* = 100 (1 - (C + M + Y) / 3) (1 - K)."""
    ramp = bytes(range(256))
    lightness = ((1 - (c + m + y) / 3) * (1 - k) for c, m, y, k in itertools.product((0, 1), repeat=4))
    points = b"".join(bytes([round(255 * value), 128, 128]) for value in lightness)
    identity = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + points + 3 * ramp
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut, b"A2B1": lut, b"A2B2": lut})
