"""Image files as a scan sees them: digest and header of each, or why it can't be used; no TensorFlow."""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from headstart.features.images.faults import MAX_PIXELS, Fault, Reason
from headstart.features.images.formats import PREFIX_BYTES, inspect_bytes, is_image, too_large
from headstart.features.terminal import progress

MAX_FILE_BYTES = 1 << 30
_PIECE = 64  # files a thread takes at a time


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file as the scan saw it.

    Args:
        orientation: EXIF's, 1 (upright) to 8, of the pixels as they are decoded.
        width: as stored, before it is turned upright; `height` too.
        format: one of `FORMATS`, by content.
    """

    path: str
    digest: str
    bytes: int
    mtime_ns: int
    orientation: int
    width: int
    height: int
    format: str

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
        content = content_of(path, status)
    except OSError as error:
        content = why_unreadable(error)
    header = content if isinstance(content, Fault) else inspect_bytes(content, str(path), max_pixels)
    if header is None or (isinstance(header, Fault) and header is content and not is_image(path, b"")):
        return None
    if isinstance(header, Fault):
        return Reject(str(path), header.reason, header.detail)
    assert isinstance(content, bytes)
    digest = hashlib.sha256(content).hexdigest()
    return ImageFile(
        str(path), digest, len(content), status.st_mtime_ns,
        header.orientation, header.width, header.height, header.format,
    )  # fmt: skip


def content_of(path: str | Path, status: os.stat_result) -> bytes | Fault:
    """What the file holds; only its first bytes where they, and its name, say that it is no image.

    Raises:
        OSError: it can't be opened or read.
    """
    if not stat.S_ISREG(status.st_mode):  # a pipe would never end
        return Fault("unreadable", "not a regular file")
    with open(path, "rb") as file:
        prefix = file.read(PREFIX_BYTES)
        if not is_image(path, prefix):
            return prefix
        if status.st_size > MAX_FILE_BYTES:
            return Fault("too-large", f"{status.st_size} bytes, over {MAX_FILE_BYTES}")
        return prefix + file.read()


def _within(image: ImageFile, max_pixels: int) -> ImageFile | Reject:
    if image.width * image.height <= max_pixels:
        return image
    fault = too_large(image.width, image.height, max_pixels)
    return Reject(image.path, fault.reason, fault.detail)


def why_unreadable(error: OSError) -> Fault:
    """The fault of a file that could not be opened or read."""
    if isinstance(error, FileNotFoundError):
        return Fault("vanished", "no such file, or a link to none")
    return Fault("unreadable", error.strerror or str(error))
