"""Damaged and forged files: whatever the bytes are, a typed error or an image of the promised size, in bounded memory.

SSMCTX_FUZZ=20000 runs the long one (a few minutes).
"""

import os
import random
import resource
import zlib

import pytest
import torch
from mambaic.codec import MambaIC

from ssmctx.entropy import CodedImage
from ssmctx.entropy.bitstream.varint import put_varint, take_varint
from ssmctx.errors import CorruptStreamError, DecodeMismatchError, ModelMismatchError, StreamError

RUNS = int(os.environ.get("SSMCTX_FUZZ", "1000"))
HEADER = 14  # where the numbers start: the backend's length, then, after its name, the others
NUMBERS = 6


@pytest.fixture(scope="module")
def codec() -> MambaIC:
    torch.manual_seed(5)
    model = MambaIC("tiny").eval()
    model.update()
    return model


@pytest.fixture(scope="module")
def files(codec) -> list[bytes]:
    return [codec.encode((torch.rand(3, *size) * 255).to(torch.uint8)) for size in [(16, 16), (33, 50), (1, 70)]]


def damage(data: bytes, chance: random.Random) -> bytes:
    """A file cut, with flipped bits, with other numbers in its header, or with parts of itself elsewhere."""
    kind = chance.choice(["cut", "flip", "flip", "number", "number", "move", "insert"])
    changed = bytearray(data)
    index = chance.randrange(len(data))
    if kind == "cut":
        del changed[index:]
    elif kind == "flip":
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "number":
        return with_number(data, chance.randrange(NUMBERS), chance.choice([0, 1, 2, 17, 255, 65536, 2**31, 2**35 - 1]))
    elif kind == "move":
        length = chance.randrange(1, 20)
        target = chance.randrange(len(data))
        changed[target : target + length] = data[index : index + length]
    else:
        changed[index:index] = chance.randbytes(chance.randrange(1, 9))
    return bytes(changed)


def with_number(data: bytes, which: int, value: int) -> bytes:
    start = HEADER
    for number in range(which):
        length, start = take_varint(data, start, "")
        start += 0 if number else length  # the backend's name
    _, end = take_varint(data, start, "")
    return data[:start] + put_varint(value) + data[end:]


def with_checksum(data: bytes) -> bytes:
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def test_damage_of_any_kind_ends_in_a_typed_error(codec, files):
    """The file's checksum repaired in three of four, so that what lies behind it is met."""
    chance = random.Random(0)
    seen = set()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(RUNS):
        original = chance.choice(files)
        data = damage(original, chance)
        data = with_checksum(data) if chance.random() < 0.75 and len(data) > 4 else data
        try:
            coded = CodedImage.from_bytes(data)
            pixels = codec.decode(data)
        except StreamError as error:
            seen.add(type(error))
            continue
        assert pixels.shape == (3, coded.height, coded.width)
    assert seen >= {CorruptStreamError, ModelMismatchError, DecodeMismatchError}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in KiB
    assert grown < 2**20, f"{grown} KiB"
