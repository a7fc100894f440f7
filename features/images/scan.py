"""Read digests and headers of image files, or find reasons to reject the files. This module needs no TensorFlow."""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from headstart.features.images.faults import MAX_FILE_BYTES, MAX_PIXELS, Fault, Reason
from headstart.features.images.files.paths import is_local, is_url, name_of
from headstart.features.images.files.reading import content_elsewhere, page_digest, version_of, why_unreadable
from headstart.features.images.files.urls import THREADS
from headstart.features.images.formats import PREFIX_BYTES, inspect_bytes, inspect_pages, is_image, why_too_large
from headstart.features.images.pixels import Pages
from headstart.features.terminal import progress

_PIECE = 64  # files per task of a thread
_KNOWN_SECONDS = 5e-5  # a known file on a near disk takes less; threads would only wait for Python's lock


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file, or a page of an image file, at the time of the scan.

    The fields from `orientation` to `pages` are those of `formats.Header`.
    """

    path: str  # of the file, see `files.paths`; for page 2 of a TIFF, `x.tif#2`
    digest: str  # hexadecimal SHA-256 of the file's bytes; for a page after the first, see `page_digest`
    bytes: int
    mtime_ns: int  # of a local file, or of the tar that holds the file; for a URL, see `faults.Version`
    orientation: int
    width: int
    height: int
    format: str
    tile_pixels: int = 0
    scans: int = 1
    bits: int = 0
    pages: int = 1
    page: int = 1  # counted from 1

    @property
    def file(self) -> str:
        """The path of the file, without the number of the page."""
        return self.path if self.page == 1 else self.path.removesuffix(f"#{self.page}")

    def is_unchanged(self) -> bool:
        """Return whether the file still has the size and modification time that the scan found.

        If so, its digest is still trusted. For a URL, the server is asked.
        """
        try:
            known = self.mtime_ns != 0 or not is_url(self.file)
            return known and version_of(self.file) == (self.bytes, self.mtime_ns)
        except OSError:
            return False

    def is_unchanged_since_read(self) -> bool:
        """Return whether the bytes that were just decoded have the digest of the image.

        Bytes of a file that is not local were compared with the digest when they were read.
        """
        return not is_local(self.file) or self.is_unchanged()


@dataclass(frozen=True)
class Reject:
    """A file, or a page of a TIFF, that can't be used, and the reason."""

    path: str
    reason: Reason
    detail: str


def inspect_images(
    paths: Sequence[str | Path],
    max_pixels: int = MAX_PIXELS,
    recall: Callable[[str, int], ImageFile | None] | None = None,
    pages: Pages = "first",
) -> list[list[ImageFile | Reject]]:
    """Inspect files in parallel. Return for each of `paths` the result of `inspect_image`.

    `recall` takes a path and a page number, and returns the image that an earlier scan found, or None. If `recall`
    knows all pages that `pages` asks for, the file is not read. Then its images are only checked against `max_pixels`.
    """

    def inspect(path: str | Path) -> list[ImageFile | Reject]:
        known = _recalled(str(path), pages, recall) if recall else []
        return [_within_limits(one, max_pixels) for one in known] or inspect_image(path, max_pixels, pages)

    def all_of(piece: Sequence[str | Path]) -> list[list[ImageFile | Reject]]:
        return [inspect(path) for path in piece]

    remote = any(is_url(str(path)) for path in paths)
    size = 1 if remote else _PIECE
    pieces = iter([paths[start : start + size] for start in range(0, len(paths), size)])
    found: list[list[ImageFile | Reject]] = []
    threads = ThreadPoolExecutor(THREADS if remote else None)
    with threads as pool, progress("looking at files", len(paths), "files") as advance:
        for piece in pieces:
            start = time.perf_counter()
            seen = all_of(piece)
            found += seen
            advance(len(seen))
            if time.perf_counter() - start > size * _KNOWN_SECONDS:
                break  # files are read, or the disk is far away: threads save time
        for seen in pool.map(all_of, pieces):
            found += seen
            advance(len(seen))
    return found


def _recalled(path: str, pages: Pages, recall: Callable[[str, int], ImageFile | None]) -> list[ImageFile]:
    first = recall(path, 1)
    if first is None:
        return []
    more = range(2, first.pages + 1) if pages == "all" else range(0)
    others = [recall(page_path(path, page), page) for page in more]
    return [first, *(one for one in others if one)] if all(others) else []


def _within_limits(image: ImageFile, max_pixels: int) -> ImageFile | Reject:
    fault = why_too_large(image.width, image.height, image.tile_pixels, image.scans, max_pixels)
    return Reject(image.path, fault.reason, fault.detail) if fault else image


def inspect_image(path: str | Path, max_pixels: int = MAX_PIXELS, pages: Pages = "first") -> list[ImageFile | Reject]:
    """Read the digest and header of one file. Return its image in a list, or a reject if the file can't be used.

    If `pages` is `all`, the list holds one image or reject for each page of a TIFF. The list is empty if neither the
    name nor the content of the file shows that the file is an image.
    """
    path = str(path)
    name, mtime_ns = name_of(path), 0
    try:
        if is_local(path):
            status = os.stat(path)
            content, mtime_ns = content_of(path, status), status.st_mtime_ns
        else:
            content, (_, mtime_ns) = content_elsewhere(path)
    except OSError as error:
        content = why_unreadable(error)
    if isinstance(content, Fault):
        return [Reject(path, content.reason, content.detail)] if is_url(path) or is_image(name, b"") else []
    if pages == "all":
        headers = inspect_pages(content, name, max_pixels)
    else:
        header = inspect_bytes(content, name, max_pixels)
        headers = [header] if header else []
    digest = hashlib.sha256(content).hexdigest() if headers else ""
    found: list[ImageFile | Reject] = []
    for page, one in enumerate(headers, 1):
        at = page_path(path, page)
        if isinstance(one, Fault):
            found.append(Reject(at, one.reason, one.detail))
        else:
            own = page_digest(digest, page)
            found.append(ImageFile(at, own, len(content), mtime_ns, **vars(one), page=page))
    return found


def page_path(path: str, page: int) -> str:
    """Return the path that names a page of the file at `path`: `path` for page 1, `x.tif#2` for page 2 of `x.tif`."""
    return path if page == 1 else f"{path}#{page}"


def content_of(path: str | Path, status: os.stat_result) -> bytes | Fault:
    """Return the bytes of a file, or a fault if the file is not a regular file or is too large.

    If neither the name nor the first `PREFIX_BYTES` bytes show that the file is an image, return only these first
    bytes. A file that can't be opened or read raises an OSError.
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
