import io
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from headstart.features.images import formats
from headstart.features.images.decode import pillow_pixels
from headstart.features.images.faults import Fault
from headstart.features.images.formats import Header, inspect_bytes
from headstart.features.images.opening import FORMATS
from PIL import Image


def encoded(format: str = "JPEG", size: tuple[int, int] = (40, 30), **options) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, format, **options)
    return buffer.getvalue()


def drawn_often() -> bytes:
    """A JPEG of 40 x 30 pixels that is drawn some 200 times over."""
    data = encoded(progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * 200 + b"\xff\xd9"


def with_large_tile() -> bytes:
    """A TIFF of 40 x 30 pixels with a tile that claims 20,000 x 20,000."""

    def field(tag: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, 4, 1, value)

    data = encoded("TIFF").replace(field(278, 30), field(322, 20_000))
    return data.replace(struct.pack("<HHIHH", 284, 3, 1, 1, 0), field(323, 20_000))


@pytest.mark.parametrize("format", FORMATS)
def test_header_is_read_by_content_not_by_name(format: str) -> None:
    assert inspect_bytes(encoded(format), "whatever.txt") == Header(40, 30, 1, format)


def test_a_jpeg_with_further_pictures_behind_it_is_a_jpeg() -> None:
    several = encoded("MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    assert inspect_bytes(several, "x.jpg") == Header(40, 30, 1, "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>", "not-an-image"),
        (bytes(5000), "not-an-image"),
        (encoded()[:20], "truncated"),
        (encoded("PNG")[:20], "truncated"),
        (encoded("BMP")[:20], "truncated"),
        (encoded("GIF")[:11], "truncated"),
        (encoded("PNG").replace(b"IHDR", b"IHDX"), "corrupt"),
        (encoded().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), "unsupported"),
        (b"8BPS\0\1", "unsupported"),
        (encoded("EPS"), "not-an-image"),
    ],
)
def test_fault_has_its_reason(data: bytes, reason: str) -> None:
    fault = inspect_bytes(data, "x.jpg")
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert fault.detail


def test_samples_of_32_bits_have_no_known_range() -> None:
    buffer = io.BytesIO()
    Image.new("F", (4, 4)).save(buffer, "TIFF")
    fault = inspect_bytes(buffer.getvalue(), "x.tif")
    assert isinstance(fault, Fault)
    assert fault.reason == "unsupported"


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00\x01\x02", b"BMW is a car", b"P3 is a party", encoded("EPS")])
def test_no_image_by_name_and_content_is_ignored(data: bytes) -> None:
    assert inspect_bytes(data, "notes.txt") is None


def test_too_large_is_refused_from_the_header() -> None:
    fault = inspect_bytes(encoded("PNG", (100, 100)), "x.png", max_pixels=9_999)
    assert isinstance(fault, Fault)
    assert fault.reason == "too-large"
    assert "100 x 100" in fault.detail


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert inspect_bytes(encoded(exif=exif), "x.jpg") == Header(40, 30, orientation, "JPEG")


def test_a_jpeg_that_is_drawn_thousands_of_times_is_refused() -> None:
    assert isinstance(inspect_bytes(encoded(progressive=True), "x.jpg", max_pixels=1200), Header)
    fault = inspect_bytes(drawn_often(), "x.jpg", max_pixels=1200)
    assert isinstance(fault, Fault)
    assert fault.reason == "too-large"


def test_a_tile_that_claims_more_than_the_image_is_refused() -> None:
    fault = inspect_bytes(with_large_tile(), "x.tif")
    assert isinstance(fault, Fault)
    assert fault.reason == "too-large"


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "GIF"])
def test_pillow_s_own_limit_is_lifted_for_our_images_alone(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(format)
    with ThreadPoolExecutor(4) as pool:
        assert {shape.shape for shape in pool.map(pillow_pixels, [data] * 50)} == {(30, 40, 3)}
    assert isinstance(inspect_bytes(data, "x", max_pixels=1200), Header)
    assert isinstance(inspect_bytes(data[:25], "x.jpg"), Fault)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_impossible_orientation_counts_as_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert inspect_bytes(encoded(exif=exif), "x.jpg") == Header(40, 30, 1, "JPEG")


def test_tags_of_another_type_take_no_memory() -> None:
    tile = struct.pack("<HHI4s", 322, 7, 4, b"abcd") + struct.pack("<HHII", 323, 4, 1, 0xFFFFFFFF)
    data = encoded("TIFF").replace(struct.pack("<HHII", 278, 4, 1, 30), tile[:12])
    data = data.replace(struct.pack("<HHIHH", 284, 3, 1, 1, 0), tile[12:])
    assert tile in data or (tile[:12] in data and tile[12:] in data)
    assert inspect_bytes(data, "x.tif") is not None


def test_a_side_that_is_very_long_is_refused() -> None:
    fault = inspect_bytes(b"P4 1000000 1\n" + bytes(125_000), "x.pbm")
    assert isinstance(fault, Fault)
    assert fault.reason == "too-large"


@pytest.mark.parametrize("brand", [b"mif1", b"heis", b"heic"])
def test_photos_of_phones_are_unsupported_rather_than_corrupt(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", tuple(name for name in FORMATS if name != "HEIF"))
    fault = inspect_bytes(b"\0\0\0\x18ftyp" + brand + bytes(200), "x.heic")
    assert isinstance(fault, Fault)
    assert fault.reason == "unsupported"
