"""Training data: every image file there is, and crops that depend on nothing but the seed and their number."""

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mambaic.errors import DataError
from mambaic.images.image_files import find_images, read_image, write_png
from mambaic.training.data import TrainingCrops, batches
from PIL import Image
from sample_images import sample_image, write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


# --- image files


def reread(image: Image.Image, path, **options) -> np.ndarray:
    image.save(path, **options)
    return read_image(path).permute(1, 2, 0).numpy()


ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_grey_and_black_and_white_are_repeated(tmp_path):
    assert (reread(Image.fromarray(ramp), tmp_path / "a.png") == ramp[..., None]).all()
    bits = ramp > 100
    assert (reread(Image.fromarray(bits), tmp_path / "b.png") == 255 * bits[..., None]).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path, suffix):
    values = (ramp.astype(np.uint16) * 257) + np.uint16(100) * (ramp < 255)
    assert (reread(Image.fromarray(values), tmp_path / f"a.{suffix}") == ramp[..., None]).all()


def test_16_bit_colour_keeps_its_upper_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**16, (4, 5, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    file = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + file)
    assert (read_image(tmp_path / "a.png").permute(1, 2, 0).numpy() == values >> 8).all()


def test_transparency_lies_over_white(tmp_path):
    grey = Image.fromarray(ramp)
    colour = Image.merge("RGBA", [Image.new("L", (16, 16), v) for v in (255, 0, 51)] + [grey])
    expected = np.round(255 - ramp[..., None] / 255.0 * (255 - np.array([255, 0, 51])))
    assert abs(reread(colour, tmp_path / "a.png") - expected).max() <= 1
    shade = reread(Image.merge("LA", [Image.new("L", (16, 16), 0), grey]), tmp_path / "b.png")
    assert (shade == 255 - ramp[..., None]).all()
    looked_up = Image.fromarray(ramp % 2).convert("P")
    looked_up.putpalette([10, 20, 30, 40, 50, 60])
    columns = reread(looked_up, tmp_path / "c.png")[0, :2].tolist()
    assert columns == [[10, 20, 30], [40, 50, 60]]
    columns = reread(looked_up, tmp_path / "d.png", transparency=1)[0, :2].tolist()
    assert columns == [[10, 20, 30], [255, 255, 255]]


def test_the_camera_s_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pixels = sample_image(10, 20).permute(1, 2, 0).numpy()
    turned = reread(Image.fromarray(pixels), tmp_path / "a.png", exif=exif)
    assert (turned == np.rot90(pixels, -1)).all()


def test_cmyk_and_the_first_of_several_frames(tmp_path):
    assert reread(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), tmp_path / "a.jpg").shape == (2, 3, 3)
    frames = [Image.new("RGB", (3, 2), name) for name in ("red", "blue")]
    assert (reread(frames[0], tmp_path / "b.tif", save_all=True, append_images=frames[1:]) == [255, 0, 0]).all()


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"cannot read .*a.tif.*floating-point.*convert it"):
        read_image(tmp_path / "a.tif")


# --- crops


def test_crops_are_flipped_parts_of_large_enough_images(photos):
    crops = TrainingCrops(photos, 64)
    assert (len(crops), crops.skipped, crops.broken) == (4, 1, [])
    wholes = torch.stack([read_image(path) for path in crops.paths])
    flipped = 0
    for number in range(8):
        crop = crops[number].crops[0]
        windows = wholes.unfold(2, 64, 1).unfold(3, 64, 1)
        there, mirrored = [(windows == c[:, None, None]).all(-1).all(-1).all(1).any() for c in (crop, crop.flip(-1))]
        assert there or mirrored
        flipped += int(mirrored)
    assert 0 < flipped < 8


def test_every_pass_shows_every_image_once_in_an_order_of_its_own(photos):
    crops = TrainingCrops(photos, 64)
    passes = [[crops._path(4 * epoch + index) for index in range(4)] for epoch in range(6)]
    assert all(sorted(shown) == crops.paths for shown in passes)
    assert len({tuple(shown) for shown in passes}) > 2


@given(
    processes=st.sampled_from([1, 2, 3, 6]), first=st.integers(0, 9), steps=st.integers(1, 4), seed=st.integers(0, 3)
)
def test_a_batch_is_the_same_however_it_is_shared_out(photos, processes, first, steps, seed):
    share = 6 // processes
    whole = TrainingCrops(photos, 16, seed)
    expected = [torch.cat([whole[n].crops for n in range(6 * s, 6 * s + 6)]) for s in range(first, first + steps)]
    parts = [
        batches(TrainingCrops(photos, 16, seed, 10**6), first, first + steps, 6, slice(r * share, (r + 1) * share), 0)
        for r in range(processes)
    ]
    for want, *got in zip(expected, *parts, strict=True):
        assert torch.equal(torch.cat([batch.crops for batch in got]), want)


def test_workers_change_nothing(photos):
    alone, helped = (batches(TrainingCrops(photos, 32), 1, 4, 3, slice(0, 3), workers) for workers in (0, 2))
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.crops, b.crops)


def test_another_seed_gives_other_crops(photos):
    assert not torch.equal(TrainingCrops(photos, 32, seed=0)[0].crops, TrainingCrops(photos, 32, seed=1)[0].crops)


def test_the_cache_keeps_to_its_bytes(photos):
    size = read_image(find_images(photos)[0]).nbytes
    crops = TrainingCrops(photos, 32, cache_bytes=2 * size + size // 2)
    first = [crops[number].crops for number in range(8)]
    assert len(crops._cache) == 2
    assert all(torch.equal(crops[number].crops, crop) for number, crop in enumerate(first))


def test_broken_files_are_told_and_replaced(photos, tmp_path):
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    whole = (tmp_path / "nested" / "0.png").read_bytes()
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "cut.PNG").write_bytes(whole[:3000])  # the header is whole
    (deep / "text.jpg").write_text("no image")
    crops = TrainingCrops(tmp_path, 64)
    assert (len(crops), crops.skipped) == (5, 1)
    (line,) = crops.broken
    assert "text.jpg" in line
    found = [crops[number] for number in range(10)]
    told = [line for batch in found for line in batch.broken]
    assert len(told) >= 2
    assert {"cut.PNG" in line for line in told} == {True}
    assert all(batch.crops.shape == (1, 3, 64, 64) for batch in found)
    again = TrainingCrops(tmp_path, 64)
    assert all(torch.equal(again[number].crops, found[number].crops) for number in (9, 4, 0))


def test_nothing_usable(photos, tmp_path):
    with pytest.raises(DataError, match=r"none of the 5 images .* 5 are smaller than 99x99 \(lower --crop\), 0 can"):
        TrainingCrops(photos, 99)
    buffer = io.BytesIO()
    Image.fromarray(sample_image(40, 40).permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:900])
    with pytest.raises(DataError, match=r"100 images in a row cannot be read, the last being: cannot .*cut\.png"):
        TrainingCrops(tmp_path, 32)[0]


def test_a_lying_header_is_found_out(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", sample_image(20, 20))
    write_png(tmp_path / "b.png", sample_image(40, 40))
    monkeypatch.setattr("mambaic.training.data.image_size", lambda path: (40, 40))
    crops = TrainingCrops(tmp_path, 32)
    assert any("smaller than its header says" in line for number in range(2) for line in crops[number].broken)
