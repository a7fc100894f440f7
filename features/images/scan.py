"""Read the digest and header of an image file, or reject it with a reason. For many files, see `columns.inspected`."""

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headstart.features.images.faults import MAX_FILE_BYTES, MAX_PIXELS, Fault, Reason
from headstart.features.images.files.members import OpenTars
from headstart.features.images.files.paths import is_local, is_url, name_of
from headstart.features.images.files.reading import content_elsewhere, page_digest, version_of, why_unreadable
from headstart.features.images.formats import PREFIX_BYTES, inspect_bytes, inspect_pages, is_image
from headstart.features.images.pixels import Pages


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file, or a page of an image file, at the time of the scan.

    For the fields from `orientation` to `pages`, see `formats.Header`.
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

        For a URL, the server is asked for the object's version. If the server gives none, the file counts as changed.
        """
        try:
            known = self.mtime_ns != 0 or not is_url(self.file)
            return known and version_of(self.file) == (self.bytes, self.mtime_ns)
        except OSError:
            return False

    def is_unchanged_since_read(self) -> bool:
        """Return whether the bytes that were just decoded are the bytes that the scan read.

        For a local file, only the size and the modification time are compared with those of the scan. Other files need
        no check, because their bytes were compared with the digest when they were read.
        """
        return not is_local(self.file) or self.is_unchanged()


@dataclass(frozen=True)
class Reject:
    """A file, or a page of a TIFF, that can't be used, and the reason."""

    path: str
    reason: Reason
    detail: str


def inspect_files(paths: Iterable[str], max_pixels: int, pages: Pages) -> list[list[ImageFile | Reject]]:
    """Return the result of `inspect_image` for each of `paths`.

    `paths` should be few. If `paths` names members of tars, up to two of these tars stay open until the call ends; see
    `OpenTars`.
    """
    tars = OpenTars(most=2)  # members come in the order of their tars, and each of many threads has tars of its own
    return [inspect_image(path, max_pixels, pages, tars) for path in paths]


def inspect_image(
    path: str | Path, max_pixels: int = MAX_PIXELS, pages: Pages = "first", tars: OpenTars | None = None
) -> list[ImageFile | Reject]:
    """Read the digest and header of one file. Return a list with one image, or with a reject if the file is unusable.

    If `pages` is `all`, the list holds one image or reject for each page of a TIFF. If neither the name nor the content
    of the file shows that the file is an image, the list is empty. If a URL can't be read, the list holds a reject.
    Raises DataError if this machine lacks the credentials for a URL. For `tars`, see `content_elsewhere`.
    """
    path = str(path)
    name, mtime_ns = name_of(path), 0
    try:
        if is_local(path):
            status = os.stat(path)
            content, mtime_ns = content_of(path, status), status.st_mtime_ns
        else:
            content, (_, mtime_ns) = content_elsewhere(path, tars)
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


def sizes_and_times(paths: Iterable[str]) -> list[tuple[int, int]]:
    """Return `size_and_time` of each of `paths`. The size and time of a tar are read once, not once per member."""
    tars = OpenTars()
    return [size_and_time(path, tars) for path in paths]


def size_and_time(path: str, tars: OpenTars | None = None) -> tuple[int, int]:
    """Return the size and the modification time of a file; see `version_of`.

    Both are -1 if there is no file, or if a server reports no version of an object.
    """
    try:
        version = version_of(path, tars)
    except OSError:
        return -1, -1
    known = version.mtime_ns != 0 or not is_url(path)
    return (version.bytes, version.mtime_ns) if known else (-1, -1)
