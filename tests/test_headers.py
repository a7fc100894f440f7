import io
from pathlib import Path

import pytest
from PIL import Image

from features.headers import Fault, Header, ImageFile, Reject, inspect_bytes, inspect_image


def encoded(format: str = "JPEG", size: tuple[int, int] = (40, 30), **options) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP"])
def test_header_is_read_by_content_not_by_name(format: str) -> None:
    assert inspect_bytes(encoded(format), "whatever.txt") == Header(40, 30, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>", "not-an-image"),
        (bytes(5000), "not-an-image"),
        (encoded()[:20], "truncated"),
        (encoded("TIFF"), "unsupported"),
        (encoded("WEBP"), "unsupported"),
    ],
)
def test_fault_has_its_reason(data: bytes, reason: str) -> None:
    fault = inspect_bytes(data, "x.jpg")
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert fault.detail


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00\x01\x02"])
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
    assert inspect_bytes(encoded(exif=exif), "x.jpg") == Header(40, 30, orientation)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_impossible_orientation_counts_as_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert inspect_bytes(encoded(exif=exif), "x.jpg") == Header(40, 30, 1)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    gone = inspect_image(tmp_path / "gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    folder = inspect_image(tmp_path / "folder.jpg")
    assert isinstance(gone, Reject)
    assert isinstance(folder, Reject)
    assert (gone.reason, folder.reason) == ("vanished", "unreadable")


def test_a_change_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded())
    image = inspect_image(path)
    assert isinstance(image, ImageFile)
    assert image.is_unchanged()
    path.write_bytes(encoded(size=(41, 30)))
    assert not image.is_unchanged()
    path.unlink()
    assert not image.is_unchanged()
