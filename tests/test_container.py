"""The file: golden bytes of every version, and a typed error for every cut, every flipped bit and hostile headers."""

import dataclasses
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmctx.entropy import CodedImage
from ssmctx.entropy.guard import DEFAULT_BAND, Guard
from ssmctx.entropy.varint import put_varint, take_varint
from ssmctx.errors import ArgumentError, CorruptStreamError, ModelMismatchError

PICTURE = CodedImage(
    bytes(range(8)), 768, 512, (b"stream of y", b"stream of z!", b"guard"), b"code", (32, 48), (8, 12), "cpu", 4
)
GOLDEN = {
    1: "5349431a0100010203040506070003000000020000"
    "0b0000000c00000073747265616d206f66207973747265616d206f66207a211425cd95",
    2: "5349431a020001020304050607636f646543800680042030080c0b0c1273747265616d206f66207973747265616d206f66207a21"
    "0004020700ffff0303fa0400880900f80fdbc326320f",
    3: "5349431a030001020304050607636f6465438006800420300"
    "80c0b0c0573747265616d206f66207973747265616d206f66207a216775617264",
}


def with_checksum(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_golden_bytes():
    data = PICTURE.to_bytes()
    assert data == with_checksum(bytes.fromhex(GOLDEN[3]))
    assert CodedImage.from_bytes(data) == PICTURE
    assert len(data) - sum(map(len, PICTURE.strings)) == 33


def test_everything_but_streams_shifts_and_list_takes_64_bytes():
    """For a picture of 768 x 512 and ten steps."""
    nothing = np.zeros(0, np.int64)
    fixed = Guard(DEFAULT_BAND, (0,) * 11, 0, nothing.astype(np.uint8), nothing, nothing.astype(bool)).to_bytes(92160)
    streams = (bytes(100_000), bytes(2_000), fixed + bytes(120))
    picture = dataclasses.replace(PICTURE, strings=streams)
    assert len(picture.to_bytes()) - 100_000 - 2_000 - 120 <= 64


def test_version_1_is_read():
    picture = CodedImage.from_bytes(bytes.fromhex(GOLDEN[1]))
    assert picture == CodedImage(bytes(range(8)), 768, 512, (b"stream of y", b"stream of z!"))
    picture.check_model(bytes(range(8)), b"any ")


def test_version_2_is_read():
    """Its guard, in the plain form of its day, becomes one that today's codecs read."""
    picture = CodedImage.from_bytes(bytes.fromhex(GOLDEN[2]))
    y, z, guard = picture.strings
    assert dataclasses.replace(picture, strings=PICTURE.strings) == PICTURE
    assert (y, z) == PICTURE.strings[:2]
    read = Guard.from_bytes(guard, 9000, 1)
    assert (read.band, read.checksums, read.doublings) == (2.0**-14, (7, 65535), 3)
    assert [x.tolist() for x in (read.shifts, read.places)] == [[3, 250], [0, 77, 78, 8999]]
    assert CodedImage.from_bytes(picture.to_bytes()) == picture


@pytest.mark.parametrize("version", GOLDEN)
def test_every_cut_and_every_flipped_bit_raises(version):
    data = PICTURE.to_bytes() if version == 3 else bytes.fromhex(GOLDEN[version])
    for length in range(len(data)):
        with pytest.raises(CorruptStreamError):
            CodedImage.from_bytes(data[:length])
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with pytest.raises(CorruptStreamError):
                CodedImage.from_bytes(bytes(changed))


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"SIC\x1a", b"SIC\x1a\x01", b"SIC\x1a\x02", b"SIC\x1a\x03"]),
    st.booleans(),
)
def test_foreign_data_raises(data, start, right_checksum):
    data = with_checksum(start + data) if right_checksum else start + data
    try:
        picture = CodedImage.from_bytes(data)
    except CorruptStreamError:
        return
    assert len(data) >= sum(map(len, picture.strings))


def hostile(**changes) -> bytes:
    """The picture with other numbers in its header, and a checksum that fits."""
    names = ("width", "height", "y0", "y1", "z0", "z1", "y", "z", "guard")
    values = dict(zip(names, (768, 512, 32, 48, 8, 12, 11, 12, 5), strict=True)) | changes
    head = bytes.fromhex(GOLDEN[3])[:18]
    return with_checksum(head + b"".join(map(put_varint, values.values())) + b"".join(PICTURE.strings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 2**31, "height": 2**31}, "2147483648 x 2147483648 pixels, which no encoder of ours writes"),
        ({"width": 0}, "0 x 512 pixels"),
        ({"width": 2**15, "height": 2**15 + 1}, "32768 x 32769 pixels"),
        ({"y0": 513}, r"latents of \[\(513, 48\)"),
        ({"z1": 769}, r"latents of .*\(8, 769\)"),
        ({"y0": 2**31}, r"latents of \[\(2147483648, 48\), \(8, 12\)\] cells for 512 x 768 pixels"),
        ({"z1": 0}, r"latents of .*\(8, 0\)"),
        ({"y": 2**32}, r"the header promises 429496\d+ bytes, the file has 6\d: cut off or damaged"),
        ({"guard": 4}, "the header promises 60 bytes, the file has 61"),
    ],
)
def test_hostile_headers_are_refused_before_anything_is_allocated(changes, message):
    data = hostile(**changes)
    tracemalloc.start()
    with pytest.raises(CorruptStreamError, match=message):
        CodedImage.from_bytes(data)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_largest_picture_and_latents_as_large_as_it():
    picture = dataclasses.replace(PICTURE, width=2**15, height=2**15, y_size=(2**15, 1), z_size=(1, 2**15))
    assert CodedImage.from_bytes(picture.to_bytes()) == picture
    with pytest.raises(ArgumentError, match="got 32769 x 32768"):
        dataclasses.replace(picture, width=2**15 + 1).to_bytes()


def test_what_is_for_information_may_be_unknown():
    for backend, read in (("triton", "triton"), ("mamba_ssm", "mamba_ssm"), ("another", ""), ("", "")):
        picture = dataclasses.replace(PICTURE, backend=backend, float_bytes=8)
        assert CodedImage.from_bytes(picture.to_bytes()) == dataclasses.replace(picture, backend=read)
    data = bytearray(PICTURE.to_bytes()[:-4])
    data[17] = 0x4F  # a backend of a later release
    assert CodedImage.from_bytes(with_checksum(bytes(data))).backend == ""


def test_messages():
    data = PICTURE.to_bytes()
    with pytest.raises(CorruptStreamError, match=r"not a \.sic file: it starts with b'\\x89PNG'"):
        CodedImage.from_bytes(b"\x89PNG\r\n")
    with pytest.raises(CorruptStreamError, match="the header promises 61 bytes, the file has 60: cut off or damaged"):
        CodedImage.from_bytes(data[:-1])
    with pytest.raises(CorruptStreamError, match="checksum is wrong"):
        CodedImage.from_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptStreamError, match="of version 9, this release reads up to 3: use a newer release"):
        CodedImage.from_bytes(data[:4] + b"\x09" + data[5:])
    with pytest.raises(CorruptStreamError, match="the data ends within the length of y's stream: it was cut"):
        CodedImage.from_bytes(with_checksum(bytes.fromhex(GOLDEN[3])[:26]))
    with pytest.raises(ModelMismatchError, match="written by model 0001020304050607, this one is 00000000000000ff"):
        PICTURE.check_model(b"\0\0\0\0\0\0\0\xff", b"code")
    with pytest.raises(ModelMismatchError, match="coder and tables 636f6465, this model has 65646f63"):
        PICTURE.check_model(bytes(range(8)), b"edoc")
    with pytest.raises(ArgumentError, match=r"at most 2\^30 pixels, got 0 x 5"):
        CodedImage(b"", 0, 5, (b"", b"")).to_bytes()
    with pytest.raises(ArgumentError, match="sic file needs three strings"):
        CodedImage(b"", 5, 5, (b"", b"")).to_bytes()


@given(st.integers(0, 2**35 - 1), st.binary(max_size=4))
def test_numbers_survive_and_have_one_form(value, after):
    data = put_varint(value)
    assert take_varint(data + after, 0, "it") == (value, len(data))
    with pytest.raises(CorruptStreamError, match="the data ends within it"):
        take_varint(data[:-1], 0, "it")
    with pytest.raises(CorruptStreamError, match="the data ends within it"):
        take_varint(data, len(data) + 1, "it")
    with pytest.raises(CorruptStreamError, match="it is not written as an encoder writes it"):
        take_varint(data[:-1] + bytes([data[-1] | 128, 0]) + b"\xff" * 5, 0, "it")
