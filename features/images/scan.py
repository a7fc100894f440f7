"""Scanning of image files for digests and headers, or for reasons to reject them. Does not import TensorFlow."""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from headstart.features.images.faults import MAX_PIXELS, Fault, Reason
from headstart.features.images.formats import PREFIX_BYTES, inspect_bytes, is_image, why_too_large
from headstart.features.terminal import progress

MAX_FILE_BYTES = 1 << 30
_PIECE = 64  # files per task of a thread


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file at the time of the scan. The fields from `orientation` on are those of `formats.Header`."""

    path: str
    digest: str  # SHA-256 of the file's bytes, hexadecimal
    bytes: int
    mtime_ns: int
    orientation: int
    width: int
    height: int
    format: str
    tile_pixels: int = 0
    scans: int = 1

    def is_unchanged(self) -> bool:
        """Return whether size and modification time are those of the scan. Then the digest counts as unchanged."""
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
    """Inspect files in parallel. Return one result per file, in the order of `paths`; see `inspect_image`.

    A file that `recall` knows is not read. It is only checked against `max_pixels`.
    """

    def inspect(path: str | Path) -> ImageFile | Reject | None:
        known = recall(str(path)) if recall else None
        if known is None:
            return inspect_image(path, max_pixels)
        fault = why_too_large(known.width, known.height, known.tile_pixels, known.scans, max_pixels)
        return Reject(known.path, fault.reason, fault.detail) if fault else known

    pieces = [paths[start : start + _PIECE] for start in range(0, len(paths), _PIECE)]
    found: list[ImageFile | Reject | None] = []
    with ThreadPoolExecutor() as pool, progress("looking at files", len(paths), "files") as advance:
        for seen in pool.map(lambda piece: [inspect(path) for path in piece], pieces):
            found += seen
            advance(len(seen))
    return found


def inspect_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> ImageFile | Reject | None:
    """Read the digest and header of one file. Return None if neither name nor content is that of an image."""
    try:
        status = os.stat(path)
        content = content_of(path, status)
    except OSError as error:
        content = why_unreadable(error)
    if isinstance(content, Fault):
        return Reject(str(path), content.reason, content.detail) if is_image(path, b"") else None
    header = inspect_bytes(content, str(path), max_pixels)
    if header is None:
        return None
    if isinstance(header, Fault):
        return Reject(str(path), header.reason, header.detail)
    digest = hashlib.sha256(content).hexdigest()
    return ImageFile(str(path), digest, len(content), status.st_mtime_ns, **vars(header))


def content_of(path: str | Path, status: os.stat_result) -> bytes | Fault:
    """Return the bytes of a file, or a fault if it is not a regular file or too large. May raise an OSError.

    Return only the first `PREFIX_BYTES` if neither they nor the name are those of an image.
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


def why_unreadable(error: OSError) -> Fault:
    """Return the fault of a file that could not be opened or read."""
    if isinstance(error, FileNotFoundError):
        return Fault("vanished", "no such file, or a link to none")
    return Fault("unreadable", error.strerror or str(error))
