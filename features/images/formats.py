"""Reading of an image's header: format, size and orientation, or a fault. The format is found from the content."""

import functools
import importlib
import io
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from headstart.features.images.faults import MAX_PIXELS, Fault
from PIL import Image

HEADER_VERSION = 1  # part of every scan memory: raise it when a file yields another header than before
MOST_SIDE = 65_535  # JPEG's own limit. The memory for resizing grows with the longer side
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif",
    ".jp2", ".jxl", ".ppm", ".pgm", ".pbm",
})  # fmt: skip

# Only known formats are opened. Their first bytes tell the format, and Pillow's plugins for them only read bytes. Some
# plugins for other formats run another program. A build of Pillow may lack some known formats.
_KNOWN_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
Image.preinit()
for _plugin in ("WebP", "Tiff", "Avif", "Jpeg2K"):  # the others are there; to load all of Pillow's takes longer
    with suppress(ImportError):
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")
FORMATS = tuple(name for name in _KNOWN_FORMATS if name in Image.OPEN)
_WEAK_MAGIC = ("BMP", "PPM")  # their magic bytes are two letters, with which a text may begin
_FOREIGN = {  # (offset, bytes) of image formats that Pillow can't read
    "HEIC": (4, tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm"))),
    "JPEG XL": (0, (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")),
    "PSD": (0, (b"8BPS",)),
}
PREFIX_BYTES = 16
_START_OF_SCAN, _MOST_SCANS = b"\xff\xda", 100  # a progressive JPEG has about ten
_ORIENTATION_TAG, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 0x0142, 0x0143
# Words in Pillow's error messages about valid files of a kind that Pillow does not support.
_NOT_KNOWN = ("unsupported", "unknown", "cannot handle", "not supported", "invalid ftyp")
_PNG_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


@dataclass(frozen=True)
class Header:
    """The header of an image. Width and height are in pixels, as stored."""

    width: int
    height: int
    orientation: int  # EXIF orientation of the decoded pixels, 1 (upright) to 8
    format: str  # one of `FORMATS`
    tile_pixels: int = 0  # pixels of one tile of a TIFF; 0 without tiles
    scans: int = 1  # passes over the image in a JPEG: 1, or about 10 if it is progressive


def inspect_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Header | Fault | None:
    """Return the header of an image from the bytes of its file, or the fault that makes the image unusable.

    Return None if neither `name` nor the content is that of an image.
    """
    named = is_image(name, b"")
    format = _format_of(data)
    if format is None:
        return _unidentified(data, named)
    try:
        with open_image(data, format) as image:
            tile_pixels = _tile_pixels(image)
            scans = data.count(_START_OF_SCAN) if image.format in ("JPEG", "MPO") else 1
            if fault := why_too_large(image.width, image.height, tile_pixels, scans, max_pixels):
                return fault
            if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
                return Fault("unsupported", f"{image.format} with 32 bits per sample")
            return Header(image.width, image.height, _orientation(image, data), format, tile_pixels, scans)
    except Exception:  # Pillow's parsers raise almost anything on hostile headers
        return _why_no_header(data, format) if named or format not in _WEAK_MAGIC else None


def why_too_large(width: int, height: int, tile_pixels: int, scans: int, max_pixels: int) -> Fault | None:
    """Return a fault if an image takes too much memory or time to decode, else None. Arguments: see `Header`."""
    pixels = width * height
    if max(pixels, tile_pixels) > max_pixels:  # decoding a TIFF keeps a whole tile in RAM
        return Fault("too-large", f"{width} x {height} pixels, over --max-pixels {max_pixels}")
    if scans * pixels > _MOST_SCANS * max_pixels:
        return Fault("too-large", f"{width} x {height} pixels, drawn {scans} times over")
    if max(width, height) > MOST_SIDE:
        return Fault("too-large", f"{width} x {height} pixels, a side over {MOST_SIDE}")
    return None


@contextmanager
def open_image(data: bytes, format: str | None = None) -> Iterator[Image.Image]:
    """Open an image in a `with` block, where its pixels can be decoded. Errors may be of almost any type."""
    _silence_metadata_warnings()
    with _limit_lifted, Image.open(io.BytesIO(data), formats=[format] if format else FORMATS) as image:
        yield image


class _LiftedLimit:
    """A context that lifts Pillow's limit on pixels while any thread is in it. `--max-pixels` is checked instead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._limit


_limit_lifted = _LiftedLimit()


@functools.cache
def _silence_metadata_warnings() -> None:
    """Ignore Pillow's metadata warnings in the whole process. Python 3.11 can't filter warnings of one thread alone."""
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def _format_of(data: bytes) -> str | None:
    prefix = data[:PREFIX_BYTES]
    accepts = ((name, Image.OPEN[name][1]) for name in FORMATS)
    return next((name for name, accept in accepts if accept and len(prefix) > 1 and accept(prefix) is True), None)


def is_image(name: str | Path, prefix: bytes) -> bool:
    """Return whether a file is an image, judged by the suffix of `name` and by `prefix`, its first `PREFIX_BYTES`."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES or bool(_format_of(prefix) or _foreign_format(prefix))


def _foreign_format(data: bytes) -> str | None:
    return next((name for name, (offset, magic) in _FOREIGN.items() if data[offset:].startswith(magic)), None)


def _tile_pixels(image: Image.Image) -> int:
    """Return the pixels of one tile of a TIFF, 0 without tiles. `sys.maxsize` caps what a hostile file may claim."""
    tags = getattr(image, "tag_v2", {})
    width, length = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
    valid = isinstance(width, int) and isinstance(length, int)
    return max(0, min(width * length, sys.maxsize)) if valid else 0


def _unidentified(data: bytes, named: bool) -> Fault | None:
    foreign = _foreign_format(data)
    if foreign:
        return Fault("unsupported", f"format {foreign}; convert it to JPEG or PNG")
    if not named:
        return None
    return Fault("not-an-image", f"begins with {data[:8]!r}") if data else Fault("empty", "0 bytes")


class _Watched(io.BytesIO):
    """A byte stream whose `ended` tells whether a reader asked for more bytes than were left."""

    ended = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.ended |= size is not None and size > len(data)
        return data


def _why_no_header(data: bytes, format: str) -> Fault:
    """Return why Pillow could not read the header. Call the plugin directly: `Image.open` hides its error message."""
    watched = _Watched(data)
    said = "can't be read"
    try:
        with _limit_lifted:
            Image.OPEN[format][0](watched, "")
    except Exception as error:
        said = str(error) or type(error).__name__
    if watched.ended or "truncated" in said.lower():
        return Fault("truncated", f"the header ends within its {len(data)} bytes")
    if any(word in said.lower() for word in _NOT_KNOWN):
        return Fault("unsupported", f"{format}: {said}")
    return Fault("corrupt", f"{format} header: {said}")


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format == "TIFF":  # Pillow turns it upright while it decodes
        return 1
    if image.format == "PNG" and not any(key in data for key in _PNG_ORIENTATION):
        return 1  # Pillow would decode all pixels to look for EXIF after them
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF does not harm the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1
