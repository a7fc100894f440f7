"""Reading an image's header: format, size and orientation, or a fault.

The format follows from the content of the file, not from the file's name.
"""

import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from headstart.features.images.depth import used_bits
from headstart.features.images.faults import MAX_PIXELS, Fault
from headstart.features.images.jpeg import count_scans
from headstart.features.images.opening import FORMATS, limit_lifted, open_image
from headstart.features.images.png import without_texts
from headstart.features.images.tiff import MOST_PAGES, Page, PageStream, count_pages, is_camera_raw, list_pages
from PIL import Image, ImageFile

HEADER_VERSION = 4  # part of every scan memory: raise it when a file yields another header than before
MOST_SIDE = 65_535  # JPEG's own limit. The memory for resizing grows with the longer side
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif",
    ".jp2", ".jxl", ".ppm", ".pgm", ".pbm",
})  # fmt: skip

_WEAK_MAGIC = ("BMP", "PPM")  # their magic bytes are two letters, with which a text may begin
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_GENERAL_BRANDS = (b"mif1", b"msf1")  # shared by HEIC and AVIF
_FOREIGN = {  # (offset, bytes) of image formats that Pillow can't read
    "JPEG XL": (0, (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")),
    "PSD": (0, (b"8BPS",)),
    "camera raw": (
        0,
        (b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR"),
    ),
    "camera raw of Canon": (4, (b"ftypcrx ",)),
}
_REMEDIES = {"HEIC": "`pip install 'headstart[heic]'` to read it, or convert it to JPEG or PNG"}
PREFIX_BYTES = 16
_NEARLY = 1 - 1e-9  # floating-point numbers round
_MOST_SCANS = 100  # a progressive JPEG has about ten
_ORIENTATION_TAG, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 0x0142, 0x0143
# Words in Pillow's error messages about valid files of a kind that Pillow does not support.
_NOT_KNOWN = ("unsupported", "unknown", "cannot handle", "not supported", "invalid ftyp")
_decoding = threading.BoundedSemaphore(4)  # at most four threads decode 16-bit samples: this may take much memory
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
    bits: int = 0  # bits in use of 16-bit samples, 8 to 16, or 0; see `depth`
    pages: int = 1  # full-size images in a TIFF


def inspect_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS, decoding: bool = True) -> Header | Fault | None:
    """Return the header of an image from the bytes of its file, or the fault that makes the image unusable.

    Return None if neither the suffix of `name` nor `data` shows that the file is an image.

    If `decoding` is false, no pixels are decoded. The fields `orientation` and `bits` of the header are then 1 and 0.
    The function `completed` fills in the actual values.
    """
    named = is_image(name, b"")
    format = _format_of(data)
    if format is None:
        return _unidentified(data, named)
    if format == "TIFF" and is_camera_raw(data):
        return _unsupported("camera raw")
    try:
        pages = count_pages(data) if format == "TIFF" else 1
        return _header(data, format, pages, max_pixels, decoding=decoding)
    except Exception:  # Pillow's parsers raise almost anything on hostile headers
        return _why_no_header(data, format) if named or format not in _WEAK_MAGIC else None


def inspect_pages(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> list[Header | Fault]:
    """Return the header or fault of each page of a file. Only a TIFF can have more than one page.

    If the first page has a fault, or if there are more than `MOST_PAGES` pages, the list holds one fault. If the file
    is no image, the list is empty.
    """
    first = inspect_bytes(data, name, max_pixels)
    if not isinstance(first, Header):
        return [first] if first else []
    if first.pages > MOST_PAGES:
        return [Fault("too-large", f"over {MOST_PAGES} pages; --pages first takes the first one")]
    others = list_pages(data)[1:] if first.pages > 1 else []
    return [first, *(_inspect_page(data, page, first.pages, max_pixels) for page in others)]


def _inspect_page(data: bytes, page: Page, pages: int, max_pixels: int) -> Header | Fault:
    if page.is_raw:
        return _unsupported("camera raw")
    try:
        return _header(data, "TIFF", pages, max_pixels, page.offset)
    except Exception:  # see `inspect_bytes`
        return _why_no_header(data, "TIFF", page.offset)


def completed(data: bytes, header: Header) -> Header:
    """Return `header` with its fields `orientation` and `bits` filled in. This may decode all pixels of the image.

    `data` holds the bytes of the file. `header` is the result of `inspect_bytes` for `data`, with `decoding` false.
    """
    with open_image(data, header.format) as image:
        return _completed(header, image, data)


def _completed(header: Header, image: ImageFile.ImageFile, data: bytes, first: int | None = None) -> Header:
    bits = _bits(image, data, first)  # needs the raw mode, which Pillow forgets when `_orientation` loads the pixels
    return replace(header, orientation=_orientation(image, data), bits=bits)


def _header(
    data: bytes, format: str, pages: int, max_pixels: int, first: int | None = None, decoding: bool = True
) -> Header | Fault:
    """Return the header of an image, or the fault that makes the image unusable.

    If Pillow can't read the header, Pillow raises an exception of almost any type.
    """
    with open_image(data, format, first) as image:
        width, height, tile_pixels = image.width, image.height, _tile_pixels(image)
        scans = count_scans(data) if format == "JPEG" else 1
        if fault := why_too_large(width, height, tile_pixels, scans, max_pixels):
            return fault
        if image.mode == "F" or (image.mode == "I" and format != "PPM"):
            return Fault("unsupported", f"{format} with 32 bits per sample")
        found = Header(width, height, 1, format, tile_pixels, scans, 0, pages)
        return _completed(found, image, data, first) if decoding else found


def why_too_large(width: int, height: int, tile_pixels: int, scans: int, max_pixels: int) -> Fault | None:
    """Return a fault if an image takes too much memory or time to decode. Otherwise, return None.

    For the arguments before `max_pixels`, see `Header`.
    """
    pixels = width * height
    if max(pixels, tile_pixels) > max_pixels:  # decoding a TIFF keeps a whole tile in RAM
        return Fault("too-large", f"{width} x {height} pixels, over --max-pixels {max_pixels}")
    if scans * pixels > _MOST_SCANS * max_pixels:
        return Fault("too-large", f"{width} x {height} pixels, drawn {scans} times over")
    if max(width, height) > MOST_SIDE:
        return Fault("too-large", f"{width} x {height} pixels, a side over {MOST_SIDE}")
    return None


def may_be_too_large(
    width: np.ndarray, height: np.ndarray, tile_pixels: np.ndarray, scans: np.ndarray, max_pixels: int
) -> np.ndarray:
    """Return bool [N]: for each image, whether `why_too_large` may find a fault.

    If the value of an image is false, `why_too_large` certainly finds no fault. The arguments before `max_pixels` are
    int [N].
    """
    pixels = width.astype(float) * height
    often = scans * pixels > _MOST_SCANS * float(max_pixels) * _NEARLY
    several = np.maximum(pixels, tile_pixels) > float(max_pixels) * _NEARLY
    found: np.ndarray = often | several | (np.maximum(width, height) > MOST_SIDE)
    return found


def _format_of(data: bytes) -> str | None:
    if _is_heic(data):
        return "HEIF" if "HEIF" in FORMATS else None
    prefix = data[:PREFIX_BYTES]
    accepts = ((name, Image.OPEN[name][1]) for name in FORMATS)
    return next((name for name, accept in accepts if accept and len(prefix) > 1 and accept(prefix) is True), None)


def is_image(name: str | Path, prefix: bytes) -> bool:
    """Return whether `name` has the suffix of an image file, or `prefix` is the beginning of an image file.

    `prefix` holds the first `PREFIX_BYTES` bytes of the file.
    """
    return Path(name).suffix.lower() in IMAGE_SUFFIXES or bool(_format_of(prefix) or _foreign_format(prefix))


def _is_heic(data: bytes) -> bool:
    """Return whether a file is HEIC, judged by the brands in its header."""
    if data[4:8] != b"ftyp":
        return False
    brand, others = data[8:12], data[16 : min(int.from_bytes(data[:4], "big"), 256)]
    return brand in _HEIC_BRANDS or (brand in _GENERAL_BRANDS and any(one in others for one in _HEIC_BRANDS))


def _foreign_format(data: bytes) -> str | None:
    if _is_heic(data):
        return "HEIC"
    return next((name for name, (offset, magic) in _FOREIGN.items() if data[offset:].startswith(magic)), None)


def _tile_pixels(image: Image.Image) -> int:
    """Return the number of pixels in one tile of a TIFF, at most `sys.maxsize`. If the image has no tiles, return 0."""
    tags = getattr(image, "tag_v2", {})
    width, length = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
    valid = isinstance(width, int) and isinstance(length, int)
    return max(0, min(width * length, sys.maxsize)) if valid else 0


def _bits(image: ImageFile.ImageFile, data: bytes, first: int | None) -> int:
    """Return the result of `used_bits`. If the pixels can't be decoded, return 16; a later step reports the damage."""
    with _decoding:
        try:
            return used_bits(image, data, first)
        except Exception:
            return 16


def _unidentified(data: bytes, named: bool) -> Fault | None:
    if foreign := _foreign_format(data):
        return _unsupported(foreign)
    if not named:
        return None
    return Fault("not-an-image", f"begins with {data[:8]!r}") if data else Fault("empty", "0 bytes")


def _unsupported(format: str) -> Fault:
    return Fault("unsupported", f"format {format}; {_REMEDIES.get(format, 'convert it to JPEG or PNG')}")


class _Watched(PageStream):
    """A byte stream. `ended` is true after a reader has asked for more bytes than were left."""

    ended = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.ended |= size is not None and size > len(data)
        return data


def _why_no_header(data: bytes, format: str, first: int | None = None) -> Fault:
    """Return the fault of an image whose header Pillow could not read."""
    watched = _Watched(without_texts(data), first)
    said = "can't be read"
    try:
        with limit_lifted:
            Image.OPEN[format][0](watched, "")
    except Exception as error:
        said = str(error) or type(error).__name__
    if watched.ended or "truncated" in said.lower():
        return Fault("truncated", f"the header ends within its {len(data)} bytes")
    if any(word in said.lower() for word in _NOT_KNOWN):
        return Fault("unsupported", f"{format}: {said}")
    return Fault("corrupt", f"{format} header: {said}")


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format == "TIFF":  # Pillow turns a TIFF upright while it decodes the pixels
        return 1
    if image.format == "PNG" and not any(key in data for key in _PNG_ORIENTATION):
        return 1  # Pillow would decode all pixels to look for EXIF after them
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF does not harm the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1
