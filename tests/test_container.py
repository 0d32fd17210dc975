"""The file: golden bytes, and a typed error for every cut and every flipped byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmctx.entropy.container import CodedPicture, write_whole
from ssmctx.errors import ArgumentError, CorruptStreamError, ModelMismatchError

PICTURE = CodedPicture(bytes(range(8)), 768, 512, b"stream of y", b"stream of z!")
GOLDEN = "5349431a010001020304050607000300000002000" + (
    "00b0000000c00000073747265616d206f66207973747265616d206f66207a21"
)


def test_golden_bytes():
    data = PICTURE.to_bytes()
    assert data[:-4].hex() == GOLDEN
    assert len(data) == 33 + 11 + 12
    assert CodedPicture.from_bytes(data) == PICTURE


def test_every_cut_and_every_flipped_byte_raises():
    data = PICTURE.to_bytes()
    for length in range(len(data)):
        with pytest.raises(CorruptStreamError):
            CodedPicture.from_bytes(data[:length])
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with pytest.raises(CorruptStreamError):
                CodedPicture.from_bytes(bytes(changed))


@given(st.binary(max_size=200), st.booleans())
def test_foreign_data_raises(data, with_magic):
    with pytest.raises(CorruptStreamError):
        CodedPicture.from_bytes(b"SIC\x1a" * with_magic + data)


def test_messages():
    data = PICTURE.to_bytes()
    with pytest.raises(CorruptStreamError, match=r"not a \.sic file: it starts with b'\\x89PNG'"):
        CodedPicture.from_bytes(b"\x89PNG\r\n")
    with pytest.raises(CorruptStreamError, match="the header promises 56 bytes, the file has 55: cut off or damaged"):
        CodedPicture.from_bytes(data[:-1])
    with pytest.raises(CorruptStreamError, match="checksum is wrong"):
        CodedPicture.from_bytes(data[:-1] + b"\x00")
    with pytest.raises(CorruptStreamError, match="of version 9, this release reads 1"):
        CodedPicture.from_bytes(data[:4] + b"\x09" + data[5:])
    with pytest.raises(ModelMismatchError, match="written by model 0001020304050607, this one is 00000000000000ff"):
        PICTURE.check_model(b"\0\0\0\0\0\0\0\xff")
    with pytest.raises(ArgumentError, match=r"at most 2\^30 pixels, got 0 x 5"):
        CodedPicture(b"", 0, 5, b"", b"").to_bytes()


def test_writing_leaves_the_whole_file_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    write_whole(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
