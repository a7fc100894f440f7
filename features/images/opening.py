"""Opening images with Pillow: only known formats, and without Pillow's limits on size. No pixels are decoded here."""

import functools
import importlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from headstart.features.images.png import without_texts
from headstart.features.images.tiff import PageStream
from PIL import Image, ImageFile

# Only known formats are opened. Their first bytes tell the format, and Pillow's plugins for them only read bytes. Some
# plugins for other formats run another program. A build of Pillow may lack some known formats.
KNOWN_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
Image.preinit()
for _plugin in ("WebP", "Tiff", "Avif", "Jpeg2K"):  # `preinit` loaded the others; Pillow's `init` takes longer
    with suppress(ImportError):
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")
with suppress(ImportError):  # the extra `heic`
    importlib.import_module("pillow_heif").register_heif_opener()
FORMATS = tuple(name for name in KNOWN_FORMATS if name in Image.OPEN)


@contextmanager
def open_image(data: bytes, format: str | None = None, first: int | None = None) -> Iterator[ImageFile.ImageFile]:
    """Yield the image in `data`, the bytes of a file. Its pixels can be decoded while the context is open.

    `format` is one of `FORMATS`, or None to allow all of them. `first` is the offset of a directory in a TIFF. With
    `first`, the image is the page that this directory describes. If `data` is damaged, Pillow may raise an exception of
    almost any type.
    """
    _silence_metadata_warnings()
    stream, formats = PageStream(without_texts(data), first), [format] if format else FORMATS
    with limit_lifted, Image.open(stream, formats=formats) as image:
        yield image


class _LiftedLimit:
    """A context that lifts Pillow's limit on pixels while any thread is in it. Callers check `--max-pixels` instead."""

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


limit_lifted = _LiftedLimit()


@functools.cache
def _silence_metadata_warnings() -> None:
    """Ignore Pillow's metadata warnings in the whole process. Python 3.11 can't filter warnings of one thread alone."""
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
