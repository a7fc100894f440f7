"""What is known of an image file before its pixels are decoded: its digest and what its header says."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from features.progress import progress

Reason = Literal["empty", "not-an-image", "truncated", "corrupt", "unsupported", "too-large", "unreadable", "vanished"]

MAX_PIXELS = 100_000_000
DECODABLE = ("JPEG", "MPO", "PNG", "GIF", "BMP")  # what the graph of images.py decodes; an MPO begins with a JPEG
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})

# Formats whose plugin reads bytes only: none that runs another program. Pillow may be built without some.
Image.init()
_IDENTIFIABLE = tuple(
    name
    for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO", "AVIF", "JPEG2000")
    if name in Image.OPEN
)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_ORIENTATION_TAG = 0x0112
_PIECE = 64  # files a thread takes at a time

# The limit is `max_pixels`, checked below from the header alone; Pillow's own would only add a warning.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file as the scan saw it; `orientation` is EXIF's, 1 (upright) to 8; `width` and `height` as stored."""

    path: str
    digest: str
    bytes: int
    mtime_ns: int
    orientation: int
    width: int
    height: int

    def is_unchanged(self) -> bool:
        """Whether the file still has the size and time of the scan, and so, as far as is known, its digest."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.bytes, self.mtime_ns)


@dataclass(frozen=True)
class Reject:
    """A file that can't be used, and why."""

    path: str
    reason: Reason
    detail: str


def inspect_images(
    paths: Sequence[str | Path],
    max_pixels: int = MAX_PIXELS,
    recall: Callable[[str], ImageFile | None] | None = None,
) -> list[ImageFile | Reject | None]:
    """`inspect_image` of each of `paths`, in their order, several at a time, but for those that `recall` knows."""

    def inspect(some: Sequence[str | Path]) -> list[ImageFile | Reject | None]:
        seen = []
        for path in some:
            known = recall(str(path)) if recall else None
            seen.append(_within(known, max_pixels) if known else inspect_image(path, max_pixels))
        return seen

    pieces = [paths[start : start + _PIECE] for start in range(0, len(paths), _PIECE)]
    found: list[ImageFile | Reject | None] = []
    with ThreadPoolExecutor() as pool, progress("looking at files", len(paths), "files") as advance:
        for seen in pool.map(inspect, pieces):
            found += seen
            advance(len(seen))
    return found


def inspect_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> ImageFile | Reject | None:
    """Read one file's digest and header. None is a file that is no image by name and none by content."""
    try:
        status = os.stat(path)
        data = Path(path).read_bytes()
    except OSError as error:
        fault = why_unreadable(error)
        return Reject(str(path), fault.reason, fault.detail)
    header = inspect_bytes(data, str(path), max_pixels)
    if header is None:
        return None
    if isinstance(header, Fault):
        return Reject(str(path), header.reason, header.detail)
    digest = hashlib.sha256(data).hexdigest()
    return ImageFile(str(path), digest, len(data), status.st_mtime_ns, header.orientation, header.width, header.height)


def _within(image: ImageFile, max_pixels: int) -> ImageFile | Reject:
    if image.width * image.height <= max_pixels:
        return image
    fault = _too_large(image.width, image.height, max_pixels)
    return Reject(image.path, fault.reason, fault.detail)


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image say."""

    width: int
    height: int
    orientation: int


@dataclass(frozen=True)
class Fault:
    """Why bytes can't be used as an image."""

    reason: Reason
    detail: str


def why_unreadable(error: OSError) -> Fault:
    """The fault of a file that could not be opened or read."""
    if isinstance(error, FileNotFoundError):
        return Fault("vanished", "no such file, or a link to none")
    return Fault("unreadable", error.strerror or str(error))


def inspect_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Header | Fault | None:
    """Read the header of an image from `data`; `name` only tells a broken image from a file of another kind."""
    try:
        with Image.open(io.BytesIO(data), formats=_IDENTIFIABLE) as image:
            if image.width * image.height > max_pixels:
                return _too_large(image.width, image.height, max_pixels)
            if image.format not in DECODABLE:
                return Fault("unsupported", f"format {image.format}")
            return Header(image.width, image.height, _orientation(image))
    except UnidentifiedImageError:
        return _unidentified(data, Path(name).suffix.lower() in IMAGE_SUFFIXES)
    except Exception as error:  # Pillow's parsers raise almost anything on hostile headers
        return Fault("corrupt", f"{type(error).__name__}: {error}")


def _too_large(width: int, height: int, max_pixels: int) -> Fault:
    return Fault("too-large", f"{width} x {height} pixels, over --max-pixels {max_pixels}")


def _unidentified(data: bytes, named_as_image: bool) -> Fault | None:
    if data.startswith(_MAGIC):
        return Fault("truncated", f"the header ends within its {len(data)} bytes")
    if not named_as_image:
        return None
    return Fault("not-an-image", f"begins with {data[:8]!r}") if data else Fault("empty", "0 bytes")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF says nothing of the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1
