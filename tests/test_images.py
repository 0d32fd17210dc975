"""Image files: colours as their profile and mode define them, damage that ends nothing, messages that help."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from mambaic.errors import DataError
from mambaic.images.image_files import as_pillow, image_size, read_image
from PIL import Image, ImageCms, TiffImagePlugin
from profiles import cmyk, display_p3, grey
from sample_images import sample_image


def read(image: Image.Image, path, **options) -> np.ndarray:
    image.save(path, **options)
    return read_image(path).permute(1, 2, 0).numpy()


def colour(image: Image.Image, path, **options) -> list[int]:
    """The first pixel."""
    return read(image, path, **options)[0, 0].tolist()


ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
P3, SRGB = (224, 150, 120), (237, 146, 114)


def linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def encoded(value: float) -> float:
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055


# --- profiles


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_profile_is_applied(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    found = colour(Image.new("RGB", (8, 8), P3), tmp_path / f"a.{suffix}", icc_profile=display_p3(), **options)
    assert np.abs(np.subtract(found, SRGB)).max() <= 1 + (suffix == "jpg")


def test_a_profile_holds_under_transparency_and_in_palettes(tmp_path):
    clear = Image.new("RGBA", (2, 2), (*P3, 255))
    clear.putpixel((1, 0), (*P3, 0))
    clear.putpixel((0, 1), (*P3, 128))
    found = read(clear, tmp_path / "a.png", icc_profile=display_p3()).astype(int)
    assert np.abs(found[0, 0] - SRGB).max() <= 1
    assert (found[0, 1] == 255).all()
    assert np.abs(found[1, 0] - (255 - 128 / 255 * (255 - np.array(SRGB)))).max() <= 1.5
    indexed = Image.new("P", (2, 2), 0)
    indexed.putpalette(list(P3))
    assert np.abs(np.subtract(colour(indexed, tmp_path / "b.png", icc_profile=display_p3()), SRGB)).max() <= 1


def test_a_grey_profile_is_applied(tmp_path):
    expected = np.array([255 * encoded((v / 255) ** (461 / 256)) for v in range(256)]).reshape(16, 16, 1)
    assert np.abs(read(Image.fromarray(ramp), tmp_path / "a.png", icc_profile=grey(1.8)) - expected).max() <= 1
    deep = Image.fromarray(ramp.astype(np.uint16) * 257)
    assert np.abs(read(deep, tmp_path / "b.png", icc_profile=grey(1.8)) - expected).max() <= 1
    both = Image.merge("LA", [Image.fromarray(ramp), Image.new("L", (16, 16), 255)])
    assert np.abs(read(both, tmp_path / "c.png", icc_profile=grey(1.8)) - expected).max() <= 1


def test_a_cmyk_profile_is_applied(tmp_path):
    for ink, lightness in ((0, 1), (51, 0.8), (128, 127 / 255), (255, 0)):
        luminance = ((lightness + 0.16) / 1.16) ** 3 if lightness > 0.08 else lightness / 9.033
        for suffix in ("tif", "jpg"):
            found = colour(Image.new("CMYK", (8, 8), (0, 0, 0, ink)), tmp_path / f"a.{suffix}", icc_profile=cmyk())
            assert np.abs(np.subtract(found, 255 * encoded(luminance))).max() <= 1.5


def test_pixels_that_are_srgb_already_stay_exactly_as_they_are(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = sample_image(20, 30)
    assert (read(as_pillow(pixels), tmp_path / "a.png", icc_profile=srgb) == pixels.permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("profile", [b"no profile", display_p3()[:200], bytes(3000), cmyk(), grey(1.8)])
def test_a_profile_that_is_broken_or_of_another_kind_is_ignored(tmp_path, profile):
    assert colour(Image.new("RGB", (4, 4), P3), tmp_path / "a.png", icc_profile=profile) == list(P3)


def test_a_pillow_without_colour_management_says_so(tmp_path, monkeypatch):
    def missing(*_):
        raise ImportError("no _imagingcms")

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", missing)
    with pytest.warns(UserWarning, match="built without ImageCms: colour profiles are not applied"):
        assert colour(Image.new("RGB", (4, 4), P3), tmp_path / "a.png", icc_profile=display_p3()) == list(P3)


# --- modes


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (200, 100, 0, 51), (244, 224, 204)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
        ("LAB", (150, 150, 100), (161, 129, 191)),  # L* 58.8, a* 22, b* -28 under D50
        ("I;16", 0x8080, (128, 128, 128)),
        ("I;16B", 0x8080, (128, 128, 128)),
        ("I", 0x8080, (128, 128, 128)),
    ],
)
def test_modes_mean_what_they_are_defined_as(tmp_path, mode, pixel, expected):
    image = Image.new("RGBA" if mode == "RGBX" else mode, (4, 4), pixel)
    if mode == "RGBX":
        image = image.convert("RGB")
    found = colour(image, tmp_path / "a.tif")
    assert np.abs(np.subtract(found, expected)).max() <= (2 if mode in ("LAB", "YCbCr") else 1)


def tiff(tmp_path, bits: tuple[int, ...], photometric: int, data: bytes, extra: int | None = None):
    """An uncompressed TIFF file of one row, from its definition."""
    width = 8 * len(data) // sum(bits)
    tags = [(256, 3, (width,)), (257, 3, (1,)), (258, 3, bits), (259, 3, (1,)), (262, 3, (photometric,))]
    tags += [(273, 4, (8,)), (277, 3, (len(bits),)), (278, 3, (1,)), (279, 4, (len(data),))]
    tags += [(338, 3, (extra,))] if extra is not None else []
    start = 8 + len(data) + len(data) % 2
    entries, after = b"", b""
    for tag, kind, values in tags:
        content = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(content) > 4:
            offset = start + 2 + 12 * len(tags) + 4 + len(after)
            after, content = after + content, struct.pack("<I", offset)
        entries += struct.pack("<HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", start) + data + bytes(len(data) % 2)
    path = tmp_path / "a.tif"
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4) + after)
    return read_image(path).permute(1, 2, 0).numpy()[0].tolist()


def test_tiff_of_12_bits_and_with_white_as_zero(tmp_path):
    assert tiff(tmp_path, (12,), 1, bytes([0xFF, 0xF0, 0x00])) == [[255] * 3, [0] * 3]
    assert tiff(tmp_path, (16,), 0, struct.pack("<2H", 0, 0xFFFF)) == [[255] * 3, [0] * 3]
    assert tiff(tmp_path, (16,), 1, struct.pack("<2H", 0, 0xFFFF)) == [[0] * 3, [255] * 3]
    assert tiff(tmp_path, (8,), 0, bytes([0, 255])) == [[255] * 3, [0] * 3]


def test_tiff_whose_colours_are_multiplied_by_the_opacity(tmp_path):
    assert tiff(tmp_path, (8, 8), 1, bytes([50, 100, 0, 0]), 1) == [[205] * 3, [255] * 3]  # 50 + 255 - 100
    found = tiff(tmp_path, (8, 8, 8, 8), 2, bytes([50, 0, 100, 100]), 1)
    assert np.abs(np.subtract(found[0], [205, 155, 255])).max() <= 1


def png(path, depth: int, kind: int, rows: bytes, width: int, transparent: bytes):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)), (b"tRNS", transparent)]
    chunks += [(b"IDAT", zlib.compress(b"\0" + rows)), (b"IEND", b"")]
    file = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + file)
    return read_image(path).permute(1, 2, 0).numpy()[0].tolist()


@pytest.mark.parametrize(
    ("depth", "kind", "rows", "transparent", "expected"),
    [
        (1, 0, [0b01000000], ">H 0", [255, 255]),
        (2, 0, [0b10010000], ">H 2", [255, 85]),
        (4, 0, [0x7A], ">H 7", [255, 170]),
        (8, 0, [7, 119], ">H 7", [255, 119]),
        (16, 0, [0x12, 0x34, 0x80, 0x80], ">H 4660", [255, 128]),
        (8, 2, [7, 7, 7, 9, 9, 9], ">3H 7 7 7", [255, 9]),
        (16, 2, [0x12, 0x34] * 3 + [0x34, 0x12] * 3, ">3H 4660 4660 4660", [255, 0x34]),
    ],
)
def test_one_transparent_colour_of_a_png_at_every_depth(tmp_path, depth, kind, rows, transparent, expected):
    form, *values = transparent.split()
    found = png(tmp_path / "a.png", depth, kind, bytes(rows), 2, struct.pack(form, *map(int, values)))
    assert found == [[value] * 3 for value in expected]


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70000), ("I", -1)])
def test_numbers_without_a_white_are_refused(tmp_path, mode, value):
    Image.new(mode, (4, 4), value).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"cannot read .*a.tif.*(floating-point|do not fit 16 bits).*convert it to PNG"):
        read_image(tmp_path / "a.tif")


# --- damage


def exif() -> bytes:
    """Orientation 6, and a rational that can be found in the bytes."""
    made = Image.Exif()
    made[0x0112], made[0x9201] = 6, TiffImagePlugin.IFDRational(-1, 1)
    return made.tobytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_damaged_metadata_alone_is_ignored(tmp_path, suffix):
    """A rational of -1 / 0, of which Pillow makes a struct.error where it turns the image."""
    path = tmp_path / f"a.{suffix}"
    image = as_pillow(sample_image(24, 40))
    if suffix == "tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[274] = 6
        tags.tagtype[282], tags[282] = 10, TiffImagePlugin.IFDRational(-1, 1)
        image.save(path, tiffinfo=tags)
        path.write_bytes(path.read_bytes().replace(struct.pack("<ii", -1, 1), struct.pack("<ii", -1, 0)))
    else:
        image.save(path, exif=exif().replace(struct.pack(">ii", -1, 1), struct.pack(">ii", -1, 0)))
    assert read_image(path).shape == (3, 40, 24)


def test_a_long_comment_in_a_png_is_no_reason_to_refuse_it(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    comment = PngInfo()
    comment.add_text("workflow", "x" * (2 << 20), zip=True)
    assert colour(Image.new("RGB", (4, 4), P3), tmp_path / "a.png", pnginfo=comment) == list(P3)


def with_checksums(data: bytes) -> bytes:
    """A PNG file whose chunks have the checksums of what they hold, so that damage gets past them."""
    out, at = data[:8], 8
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        content = data[at + 4 : at + 8 + size]
        if at + 12 + size > len(data):
            break
        out += struct.pack(">I", size) + content + struct.pack(">I", zlib.crc32(content))
        at += 12 + size
    return out + data[at:]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff", "ppm"])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_an_image_or_a_data_error(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)  # no header shall make the test slow
    random.seed(0)
    buffer = io.BytesIO()
    notes = {} if kind in ("bmp", "ppm") else {"exif": exif(), "icc_profile": display_p3()}
    as_pillow(sample_image(24, 30)).save(buffer, format=kind, **notes)
    whole, path, images = buffer.getvalue(), tmp_path / f"a.{kind}", 0
    for number in range(400):
        data = bytearray(whole)
        for _ in range(random.choice((1, 1, 2, 4))):
            near = min(len(data), random.choice((32, 128, 600, 4000)))
            at = random.randrange(near)
            data[len(data) - near + at if kind == "tiff" and random.random() < 0.5 else at] = random.randrange(256)
        data = with_checksums(bytes(data)) if kind == "png" else bytes(data)
        path.write_bytes(data[: random.randrange(len(data))] if number % 20 == 0 else data)
        for look in (read_image, image_size):
            try:
                found = look(path)
                images += look is read_image
                assert look is image_size or (found.shape[0] == 3 and min(found.shape) > 0)
            except DataError:  # anything else ends the test
                pass
    assert 40 < images < 400


RAISED = (struct.error, TypeError, AttributeError, RuntimeError, NotImplementedError, EOFError, zlib.error, MemoryError)


@pytest.mark.parametrize("kind", [*RAISED, IndexError, KeyError, ZeroDivisionError, OverflowError, SyntaxError])
def test_whatever_pillow_raises_is_a_data_error(tmp_path, monkeypatch, kind):
    def fail(*_, **__):
        raise kind

    as_pillow(sample_image(4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", fail)
    for look in (read_image, image_size):
        with pytest.raises(DataError, match=r"read .*a.png"):
            look(tmp_path / "a.png")


def test_an_image_above_the_limit_is_told_the_limit_and_what_to_do(tmp_path):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 15000, 12600, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))]
    file = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + file)
    for look in (read_image, image_size):
        with pytest.raises(DataError, match=r"too large \(.*189000000.*178956970.*\): cut it into parts") as error:
            look(tmp_path / "a.png")
        assert "convert" not in str(error.value)
