"""The file: golden bytes of every version, and a typed error for every cut, every flipped bit and hostile headers."""

import dataclasses
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mambaic.bundled import load_bundled
from mambaic.images.image_files import read_image

from ssmctx.codec.fingerprint import old_fingerprint
from ssmctx.entropy import CodedImage
from ssmctx.entropy.bitstream.checksums import UNCHECKED, Checksums
from ssmctx.entropy.bitstream.varint import put_varint, take_varint
from ssmctx.entropy.guard import DEFAULT_BAND, Guard
from ssmctx.errors import ArgumentError, CorruptStreamError, ModelMismatchError

DATA = Path(__file__).parent / "data"
SECTIONS = (b"stream of y", b"stream of z!", b"sums", b"guard")
IMAGE = CodedImage(bytes(range(8)), 768, 512, SECTIONS, backend="cpu")
FULL = CodedImage(
    bytes(range(8)), 768, 512, SECTIONS[:3], 300, {"hyper": (8, 12), "y": {"a": (32, 48)}}, "a backend of a plugin"
)
EXACT = dataclasses.replace(IMAGE, sections=SECTIONS[:3], backend="", exact=True)
GOLDEN = {
    1: "5349431a0100010203040506070003000000020000"
    "0b0000000c00000073747265616d206f66207973747265616d206f66207a211425cd95",
    2: "5349431a020001020304050607636f646543800680042030080c0b0c1273747265616d206f66207973747265616d206f66207a21"
    "0004020700ffff0303fa0400880900f80fdbc326320f",
    3: "5349431a030001020304050607636f64654380068004"
    "2030080c0b0c1273747265616d206f66207973747265616d206f66207a21"
    "0004021729ffff0303fa0400880900f80fdb0b938b61",
    4: "5349431a0404000102030405060703637075800680040b0c0473747265616d206f66207973747265616d206f66207a217375"
    "6d736775617264c668a9a4",
    "4 with all fields": "53"
    "49431a040f0001020304050607ac02227b226879706572223a5b382c31325d2c2279223a7b2261223a5b33322c34385d7d"
    "7d1561206261636b656e64206f66206120706c7567696e03800680040b0c73747265616d206f66207973747265616d206f66"
    "207a2173756d734fdcdd2c",
    "4 by integers": "5349431a04100001020304050607"
    "800680040b0c73747265616d206f66207973747265616d206f66207a2173756d7300e75f1e",
}
"""Versions 1 to 3 are written by the releases of their days."""


def data_of(which) -> bytes:
    return bytes.fromhex(GOLDEN[which])


def with_checksum(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


# --- golden bytes


def test_golden_bytes():
    for which, image in ((4, IMAGE), ("4 with all fields", FULL), ("4 by integers", EXACT)):
        data = image.to_bytes()
        assert data.hex() == GOLDEN[which]
        assert CodedImage.from_bytes(data) == image
    assert len(data_of(4)) - sum(map(len, SECTIONS)) == 29


def test_everything_but_streams_shifts_and_list_takes_64_bytes():
    """For an image of 768 x 512 and ten steps."""
    nothing = np.zeros(0, np.int64)
    guard = Guard(DEFAULT_BAND, 0, np.full(90, 128, np.uint8), nothing, nothing.astype(bool)).to_bytes(92160)
    sums = Checksums(0, (0,) * 10).to_bytes(guard)
    image = dataclasses.replace(IMAGE, sections=(bytes(100_000), bytes(2_000), sums, guard + bytes(30)))
    assert len(image.to_bytes()) - 100_000 - 2_000 - 90 - 30 <= 64


def test_version_1_is_read():
    image = CodedImage.from_bytes(data_of(1))
    assert image == CodedImage(bytes(range(8)), 768, 512, (*SECTIONS[:2], UNCHECKED, b""), version=1)


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_are_read(version):
    """Their guard, which held checksums too, becomes the two sections that today's codecs read."""
    image = CodedImage.from_bytes(data_of(version))
    y, z, sums, guard = image.sections
    expected = CodedImage(
        bytes(range(8)), 768, 512, image.sections, None, {"y": (32, 48), "hyper": (8, 12)}, "cpu", version, b"code"
    )
    assert image == expected
    assert (y, z) == SECTIONS[:2]
    assert Checksums.from_bytes(sums, guard, 1) == Checksums(7, (65535,))
    read = Guard.from_bytes(guard, 9000)
    assert (read.band, read.doublings) == (2.0**-14, 3)
    assert [x.tolist() for x in (read.shifts, read.indices)] == [[3, 250], [0, 77, 78, 8999]]
    with pytest.raises(ArgumentError, match=f"files are written in version 4, this image is of version {version}"):
        image.to_bytes()


# --- files of older releases and the checkpoint that wrote them


@pytest.fixture(scope="module")
def codec():
    return load_bundled("tiny")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_file_of_an_older_version_decodes_exactly(codec, version):
    data = (DATA / f"version-{version}.sic").read_bytes()
    assert data[4] == version
    assert torch.equal(codec.decode(data), read_image(DATA / "decoded.png"))


def test_who_can_decode_a_file(codec):
    own = old_fingerprint(codec)
    for version, coding in ((1, None), (2, codec.latent_codec.coding_fingerprint())):
        codec.check_file(dataclasses.replace(IMAGE, fingerprint=own, version=version, coding=coding))
    with pytest.raises(ModelMismatchError, match=rf"with model 0001020304050607, this codec has {own.hex()}: use its"):
        codec.check_file(dataclasses.replace(IMAGE, version=1))
    with pytest.raises(ModelMismatchError, match=r"with model 0001020304050607, this codec has .*: use its checkpoint"):
        codec.check_file(IMAGE)
    with pytest.raises(ModelMismatchError, match=r"with coder and tables 636f6465, this codec has .*: make the model"):
        codec.check_file(dataclasses.replace(IMAGE, fingerprint=own, version=3, coding=b"code"))


# --- damage


@pytest.mark.parametrize("which", GOLDEN)
def test_every_cut_and_every_flipped_bit_raises(which):
    data = data_of(which)
    CodedImage.from_bytes(data)
    for length in range(len(data)):
        with pytest.raises(CorruptStreamError):
            CodedImage.from_bytes(data[:length])
    for index in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[index] ^= 1 << bit
            with pytest.raises(CorruptStreamError):
                CodedImage.from_bytes(bytes(changed))


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"SIC\x1a", *(b"SIC\x1a" + bytes([version]) for version in range(1, 6))]),
    st.booleans(),
)
def test_foreign_data_raises(data, start, right_checksum):
    data = with_checksum(start + data) if right_checksum else start + data
    try:
        image = CodedImage.from_bytes(data)
    except CorruptStreamError:
        return
    assert len(data) + 3 >= sum(map(len, image.sections))


def assert_refused(data: bytes, message: str) -> None:
    """In less than a megabyte."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptStreamError, match=message):
            CodedImage.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def text(content: bytes) -> bytes:
    return put_varint(len(content)) + content


def hostile(flags=4, fields=None, **changes) -> bytes:
    """The image with other numbers in its header, and a checksum that fits."""
    numbers = {"width": 768, "height": 512, "y": 11, "z": 12, "sums": 4} | changes
    fields = text(b"cpu") if fields is None else fields
    head = data_of(4)[:5] + bytes([flags]) + bytes(range(8)) + fields
    return with_checksum(head + b"".join(map(put_varint, numbers.values())) + b"".join(SECTIONS))


def sizes(content: str) -> dict:
    return {"flags": 2, "fields": text(content.encode())}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 2**31, "height": 2**31}, "2147483648 x 2147483648 pixels, which no ssmctx encoder writes"),
        ({"width": 0}, "0 x 512 pixels"),
        ({"width": 2**15, "height": 2**15 + 1}, "32768 x 32769 pixels"),
        ({"y": 2**32}, r"the header requires 42949673\d\d bytes or more, the file has 65: truncated or damaged"),
        ({"sums": 10}, "the header requires 62 bytes or more, the file has 61"),
        ({"flags": 32}, "the file's flags are not those of this version"),
        ({"fields": put_varint(2**35 - 1)}, "the data ends within the backend: it was truncated"),
        ({"flags": 2, "fields": put_varint(2**35 - 1)}, "the data ends within the sizes: it was truncated"),
        ({"flags": 8, "fields": put_varint(2**35 - 1)}, "the header says 34359738367 sections: damaged"),
        ({"flags": 8, "fields": put_varint(0)}, "the header says 0 sections: damaged"),
        ({"flags": 8, "fields": put_varint(65)}, "the header says 65 sections: damaged"),
        (sizes(""), "the sizes of the latents cannot be read"),
        (sizes("[1, 2]"), "the sizes of the latents cannot be read"),
        (sizes('{"y": [1, 2.5]}'), "the sizes of the latents cannot be read"),
        (sizes('{"y": true}'), "the sizes of the latents cannot be read"),
        (sizes('{"y": ' + "[" * 5000 + "]" * 5000 + "}"), "the sizes of the latents cannot be read"),
        (sizes("\xff"), "the sizes of the latents cannot be read"),
    ],
)
def test_hostile_headers_are_refused_before_anything_is_allocated(changes, message):
    assert_refused(hostile(**changes), message)


def hostile_old(**changes) -> bytes:
    """The file of version 3 with other numbers in its header, and a checksum that fits."""
    names = ("width", "height", "y0", "y1", "z0", "z1", "y", "z", "guard")
    values = dict(zip(names, (768, 512, 32, 48, 8, 12, 11, 12, 18), strict=True)) | changes
    data = data_of(3)
    return with_checksum(data[:18] + b"".join(map(put_varint, values.values())) + data[-45:-4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 2**31, "height": 2**31}, "2147483648 x 2147483648 pixels, which no ssmctx encoder writes"),
        ({"width": 2**15, "height": 2**15 + 1}, "32768 x 32769 pixels"),
        ({"width": 0}, "cells for 512 x 0 pixels"),
        ({"y0": 513}, r"latents of \(\(513, 48\)"),
        ({"z1": 769}, r"latents of .*\(8, 769\)"),
        ({"y0": 2**31}, r"latents of \(\(2147483648, 48\), \(8, 12\)\) cells for 512 x 768 pixels"),
        ({"z1": 0}, r"latents of .*\(8, 0\)"),
        ({"y": 2**32}, r"the header requires 429496\d+ bytes, the file has 7\d: truncated or damaged"),
        ({"guard": 17}, "the header requires 73 bytes, the file has 74"),
        ({"y": 24, "guard": 5}, "the guard ends within its checksums"),
    ],
)
def test_hostile_headers_of_version_3(changes, message):
    assert_refused(hostile_old(**changes), message)


@pytest.mark.parametrize(
    "shape", [{"y": (999, 1), "hyper": (1, 1)}, {"y": (0, 1)}, {"y": 3}, {"y": (99, 32, 32)}, {"y": (2**40, 2**40)}]
)
def test_a_codec_refuses_sizes_beyond_the_image(codec, shape):
    image = CodedImage.from_bytes(codec.encode(torch.zeros(3, 20, 30, dtype=torch.uint8)))
    with pytest.raises(CorruptStreamError, match=r"the header says latents of .* cells for \(32, 32\) pixels: damaged"):
        codec.decode(dataclasses.replace(image, shape=shape).to_bytes())


@pytest.mark.parametrize(
    "forged",
    [
        {"quality": 256},
        {"sections": SECTIONS[:3]},
        {"sections": (*SECTIONS, b"")},
        {"shape": {}},
        {"shape": {"y": (2, 2)}},
        {"shape": {"latent": (1, 1)}},
        {"shape": {"y": (1, 2, 2), "hyper": (1, 1)}},
        {"shape": {"y": (2, 2), "hyper": {"a": (1, 1)}}},
        {"shape": {"y": (2, 2), "hyper": (1, 1), "quality": (1, 1)}},
    ],
)
def test_a_codec_refuses_a_header_that_does_not_fit_it(codec, forged):
    image = CodedImage.from_bytes(codec.encode(torch.zeros(3, 20, 30, dtype=torch.uint8)))
    with pytest.raises(CorruptStreamError, match="the file contradicts itself or this codec: "):
        codec.decode(dataclasses.replace(image, **forged).to_bytes())


def test_the_largest_image_and_most_sections():
    image = dataclasses.replace(IMAGE, width=2**15, height=2**15, sections=(b"x",) * 64)
    assert CodedImage.from_bytes(image.to_bytes()) == image
    with pytest.raises(ArgumentError, match="got 32769 x 32768"):
        dataclasses.replace(image, width=2**15 + 1).to_bytes()
    for count in (0, 65):
        with pytest.raises(ArgumentError, match=f"has 1 to 64 sections, got {count}"):
            dataclasses.replace(image, sections=(b"x",) * count).to_bytes()


@given(
    quality=st.none() | st.integers(0, 2**35 - 1),
    shape=st.none() | st.dictionaries(st.text(), st.tuples(st.integers(1, 2**20), st.integers(1, 2**20))),
    backend=st.sampled_from(["", "cpu", "triton", "another"]),
    sections=st.lists(st.binary(max_size=9), min_size=1, max_size=9).map(tuple),
)
def test_all_fields_survive(quality, shape, backend, sections):
    image = dataclasses.replace(IMAGE, quality=quality, shape=shape, backend=backend, sections=sections)
    assert CodedImage.from_bytes(image.to_bytes()) == image


def test_what_is_for_information_may_be_unknown():
    """A backend's name that is no ASCII is written with question marks; one of version 3 may be of a later release."""
    assert CodedImage.from_bytes(dataclasses.replace(IMAGE, backend="\xe4b").to_bytes()).backend == "?b"
    data = bytearray(data_of(3)[:-4])
    data[17] = 0x4F
    assert CodedImage.from_bytes(with_checksum(bytes(data))).backend == ""


def test_messages():
    data = IMAGE.to_bytes()
    with pytest.raises(CorruptStreamError, match=r"not a \.sic file: it starts with b'\\x89PNG'"):
        CodedImage.from_bytes(b"\x89PNG\r\n")
    with pytest.raises(CorruptStreamError, match="has more than 14 bytes, got 9: truncated"):
        CodedImage.from_bytes(data[:9])
    with pytest.raises(CorruptStreamError, match="the header requires 56 bytes or more, the file has 55: truncated"):
        CodedImage.from_bytes(data[:55])
    with pytest.raises(CorruptStreamError, match="checksum is wrong"):
        CodedImage.from_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptStreamError, match="of version 9, this release reads up to 4: use a newer release"):
        CodedImage.from_bytes(data[:4] + b"\x09" + data[5:])
    with pytest.raises(CorruptStreamError, match="the data ends within the length of section 0: it was truncated"):
        CodedImage.from_bytes(with_checksum(data[:22]))
    with pytest.raises(CorruptStreamError, match="the data ends within the length of y's stream: it was truncated"):
        CodedImage.from_bytes(with_checksum(data_of(3)[:26]))
    with pytest.raises(ArgumentError, match=r"at most 2\^30 pixels, got 0 x 5"):
        CodedImage(b"", 0, 5, (b"", b"")).to_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": b"9 bytes.."}, "a fingerprint has 8 bytes, got b'9 bytes"),
        ({"coding": b"code"}, "files of version 4 have no coding, got coding=b'code'"),
        ({"quality": -1}, r"integers from 0 to 2\^35 - 1, got -1"),
        ({"quality": 2**40}, r"integers from 0 to 2\^35 - 1, got 1099511627776"),
        ({"quality": 1.5}, r"integers from 0 to 2\^35 - 1, got 1.5"),
        ({"shape": {"y": (1.5, 2)}}, r"sizes of latents must be integers, nested under names, got \{'y': \(1.5, 2\)"),
    ],
)
def test_what_a_file_cannot_store_is_refused(changes, message):
    with pytest.raises(ArgumentError, match=message):
        dataclasses.replace(IMAGE, **changes).to_bytes()


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
