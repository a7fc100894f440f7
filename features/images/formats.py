"""What the header of an image says, whatever its name: format, size, orientation, or why it can't be used."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from headstart.features.images.faults import MAX_PIXELS, Fault
from PIL import Image

MOST_SIDE = 65_535  # JPEG's own limit; resizing holds all of the longer side
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif",
    ".jp2", ".jxl", ".ppm", ".pgm", ".pbm",
})  # fmt: skip

# Formats whose plugin reads bytes only: none that runs another program, and none that can't be told by its first
# bytes. Pillow may be built without some.
Image.init()
KNOWN_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
FORMATS = tuple(name for name in KNOWN_FORMATS if name in Image.OPEN)
_WEAK_MAGIC = ("BMP", "PPM")  # two letters, with which a text may begin
_FOREIGN = {  # (offset, bytes) of formats that are images, and that Pillow can't read
    "HEIC": (4, tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm"))),
    "JPEG XL": (0, (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")),
    "PSD": (0, (b"8BPS",)),
}
PREFIX_BYTES = 16
_START_OF_SCAN, _MOST_SCANS = b"\xff\xda", 100  # a progressive JPEG has about ten
_ORIENTATION_TAG, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 0x0142, 0x0143
# How Pillow says that it does not know a sort of an otherwise good file.
_NOT_KNOWN = ("unsupported", "unknown", "cannot handle", "not supported", "invalid ftyp")
_PNG_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")

# The limit is `max_pixels`, checked below from the header alone; Pillow's own would only add a warning.
Image.MAX_IMAGE_PIXELS = None
# What Pillow has to say of metadata that it can read all the same.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image say."""

    width: int
    height: int
    orientation: int
    format: str


def inspect_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Header | Fault | None:
    """Read the header of an image from `data`; `name` only tells a broken image from a file of another kind."""
    named = _is_named_as_image(name)
    format = _format_of(data)
    if format is None:
        return _unidentified(data, named)
    try:
        with open_image(data, format) as image:
            fault = _why_too_much(image, data, max_pixels)
            return fault or Header(image.width, image.height, _orientation(image, data), format)
    except Exception:  # Pillow's parsers raise almost anything on hostile headers
        return _why_no_header(data, format) if named or format not in _WEAK_MAGIC else None


def _why_too_much(image: Image.Image, data: bytes, max_pixels: int) -> Fault | None:
    """What of an image's header forbids to decode it."""
    if _pixels_held(image) > max_pixels:
        return too_large(image.width, image.height, max_pixels)
    scans = data.count(_START_OF_SCAN) if image.format in ("JPEG", "MPO") else 1
    if scans * image.width * image.height > _MOST_SCANS * max_pixels:  # each takes its time
        return Fault("too-large", f"{image.width} x {image.height} pixels, drawn {scans} times over")
    if max(image.size) > MOST_SIDE:
        return Fault("too-large", f"{image.width} x {image.height} pixels, a side over {MOST_SIDE}")
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        return Fault("unsupported", f"{image.format} with 32 bits a sample")
    return None


def open_image(data: bytes, format: str | None = None) -> Image.Image:
    """The image in `data`, its header read, by content: one of `FORMATS` or, if it is known, `format`.

    Raises:
        Exception: it is none of them, or anything else that Pillow's parsers raise.
    """
    return Image.open(io.BytesIO(data), formats=[format] if format else FORMATS)


def _is_named_as_image(name: str | Path) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _format_of(data: bytes) -> str | None:
    """Which of `FORMATS` the first bytes are of."""
    prefix = data[:PREFIX_BYTES]
    accepts = ((name, Image.OPEN[name][1]) for name in FORMATS)
    return next((name for name, accept in accepts if accept and len(prefix) > 1 and accept(prefix) is True), None)


def is_image(name: str | Path, prefix: bytes) -> bool:
    """Whether a file is one by its name, or else by its first `PREFIX_BYTES`."""
    return _is_named_as_image(name) or bool(_format_of(prefix) or _foreign_format(prefix))


def _foreign_format(data: bytes) -> str | None:
    return next((name for name, (offset, magic) in _FOREIGN.items() if data[offset:].startswith(magic)), None)


def _pixels_held(image: Image.Image) -> int:
    """How many pixels decoding keeps in memory: those of the image or, in TIFF, of a tile that claims more."""
    tags = getattr(image, "tag_v2", {})
    width, length = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
    tile = width * length if isinstance(width, int) and isinstance(length, int) else 0
    return max(image.width * image.height, tile)


def too_large(width: int, height: int, max_pixels: int) -> Fault:
    """The fault of an image with more than `max_pixels`."""
    return Fault("too-large", f"{width} x {height} pixels, over --max-pixels {max_pixels}")


def _unidentified(data: bytes, named: bool) -> Fault | None:
    foreign = _foreign_format(data)
    if foreign:
        return Fault("unsupported", f"format {foreign}; convert it to JPEG or PNG")
    if not named:
        return None
    return Fault("not-an-image", f"begins with {data[:8]!r}") if data else Fault("empty", "0 bytes")


class _Watched(io.BytesIO):
    """Bytes that note whether more of them were asked for than there are."""

    ended = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.ended |= size is not None and size > len(data)
        return data


def _why_no_header(data: bytes, format: str) -> Fault:
    watched = _Watched(data)
    said = "can't be read"
    try:
        Image.OPEN[format][0](watched, "")
    except Exception as error:
        said = str(error) or type(error).__name__
    if watched.ended or "truncated" in said.lower():
        return Fault("truncated", f"the header ends within its {len(data)} bytes")
    if any(word in said.lower() for word in _NOT_KNOWN):
        return Fault("unsupported", f"{format}: {said}")
    return Fault("corrupt", f"{format} header: {said}")


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format == "TIFF":  # turned by Pillow as it is decoded
        return 1
    if image.format == "PNG" and not any(key in data for key in _PNG_ORIENTATION):
        return 1  # looking for EXIF behind the pixels, Pillow would decode them
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF says nothing of the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1
