"""Read a folder or a zip of images, one file at a time. A zip may be malicious, so its content is checked."""

import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from headstart.features.errors import DataError
from headstart.features.files import require_space, scratch_folder
from headstart.features.images.faults import Fault
from headstart.features.images.scan import MAX_FILE_BYTES, content_of, why_unreadable
from headstart.pipeline.data.listing import files_below, is_clutter
from rich.filesize import decimal

# No archive of photographs exceeds these limits: JPEG and PNG can't be packed to a hundredth of their size.
MAX_ENTRIES = 10_000_000
MAX_TOTAL_BYTES = 1 << 43
MAX_RATIO = 100
_SMALL_BYTES = 1 << 26  # up to this size any ratio is accepted, because drawings compress well
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_UNSUPPORTED = (RuntimeError, NotImplementedError)  # encrypted, or packed by a method that Python lacks


@dataclass(frozen=True)
class Member:
    """One file of a folder or zip. In a zip, several files may have the same name."""

    name: str  # relative to the source, with slashes
    path: str  # as messages and `rejects.csv` name it
    content: Callable[[], bytes | Fault]
    file: Path | None = None  # None in a zip

    @property
    def escapes(self) -> bool:
        """Whether the name leads out of the source, as `../a.jpg` does. Such a member is never read."""
        path = PurePosixPath(self.name)
        return path.is_absolute() or ".." in path.parts

    def read(self) -> bytes | Fault:
        """Return the content, or a `Fault` that says why the content can't be read."""
        return Fault("unsupported", "a path out of the archive") if self.escapes else self.content()


def _read_file(file: Path) -> bytes | Fault:
    try:
        return content_of(file, file.stat())
    except OSError as error:
        return why_unreadable(error)


def _read_from_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | Fault:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return Fault("unsupported", "a link or device")
    if entry.file_size > MAX_FILE_BYTES:
        return Fault("too-large", f"{entry.file_size} bytes, over {MAX_FILE_BYTES}")
    if _is_bomb(entry.file_size, entry.compress_size):
        return Fault("too-large", f"{entry.file_size} bytes, packed into {entry.compress_size}")
    try:
        with archive.open(entry) as packed:  # `archive.read` would not stop at the size in the zip's list
            return packed.read(entry.file_size + 1)
    except _DAMAGE as error:
        return Fault("corrupt", str(error))
    except _UNSUPPORTED as error:
        return Fault("unsupported", str(error))


@contextmanager
def opened_source(source: Path, data: Path) -> Iterator[list[Member]]:
    """Yield the files of a folder or zip, without clutter. If a zip holds a `train.zip`, yield the inner zip's files.

    A `train.zip` is unpacked into a scratch folder in `data`. The end of the context removes the scratch folder.

    Raises DataError if `source` is neither a folder nor a readable zip.
    """
    if source.is_dir():
        files = files_below(source)
        yield [
            Member(file.relative_to(source).as_posix(), str(file), partial(_read_file, file), file) for file in files
        ]
        return
    with _opened_zip(source) as archive:
        inner = [entry for entry in archive.infolist() if PurePosixPath(entry.filename).name == "train.zip"]
        if not inner:
            yield _members(archive, source)
            return
        made = not data.exists()
        try:
            with scratch_folder(data) as folder:
                require_space(data, inner[0].file_size)
                _unpack(archive, inner[0], folder / "train.zip")
                with _opened_zip(folder / "train.zip") as train:
                    yield _members(train, source / "train.zip")
        finally:
            if made and not any(data.iterdir()):
                data.rmdir()


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    try:
        with archive.open(entry) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (*_DAMAGE, *_UNSUPPORTED) as error:
        raise DataError(f"{archive.filename}: its {entry.filename} can't be unpacked ({error})") from error


def _is_bomb(size: int, packed: int) -> bool:
    return size > max(_SMALL_BYTES, MAX_RATIO * packed)


def _opened_zip(source: Path) -> zipfile.ZipFile:
    """Open a zip. Raises DataError if the file is not a zip, or if its entries exceed the limits of this module."""
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{source}: neither a folder nor a zip that can be read ({error})") from error
    entries = archive.infolist()
    total, packed = sum(entry.file_size for entry in entries), source.stat().st_size
    if len(entries) <= MAX_ENTRIES and total <= MAX_TOTAL_BYTES and not _is_bomb(total, packed):
        return archive
    archive.close()
    raise DataError(
        f"{source}: {len(entries)} files of {decimal(total)} in {decimal(packed)}; no more than {MAX_ENTRIES} files, "
        f"{decimal(MAX_TOTAL_BYTES)}, or {MAX_RATIO} times the size of the zip are unpacked"
    )


def _members(archive: zipfile.ZipFile, source: Path) -> list[Member]:
    files = [entry for entry in archive.infolist() if not entry.is_dir()]
    files = [entry for entry in files if not any(map(is_clutter, PurePosixPath(entry.filename).parts))]
    return [
        Member(entry.filename, f"{source}/{entry.filename}", partial(_read_from_zip, archive, entry)) for entry in files
    ]
