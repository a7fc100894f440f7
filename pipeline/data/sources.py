"""Reading a folder or a zip of images member by member, without trusting the zip."""

import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from headstart.features.errors import DataError
from headstart.features.files import require_space
from headstart.features.images.faults import Fault
from headstart.features.images.scan import MAX_FILE_BYTES, content_of, why_unreadable
from headstart.pipeline.data.examples import files_below, is_clutter
from rich.filesize import decimal

# What an archive of photographs never has: JPEG and PNG can't be packed to a hundredth of their size.
MAX_ENTRIES = 10_000_000
MAX_TOTAL_BYTES = 1 << 43
MAX_RATIO = 100
_SMALL_BYTES = 1 << 26  # a drawing, though, may be: below this, any ratio is right
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_UNSUPPORTED = (RuntimeError, NotImplementedError)  # encrypted, or packed by a method that Python lacks


@dataclass(frozen=True)
class Member:
    """One file of a source: `name` is relative to it, with slashes; `file` is None inside a zip."""

    name: str
    path: str
    file: Path | None
    archive: zipfile.ZipFile | None = None

    @property
    def escapes(self) -> bool:
        """Whether the name leads out of the source; such a member is never read."""
        path = PurePosixPath(self.name)
        return path.is_absolute() or ".." in path.parts

    def read(self) -> bytes | Fault:
        """The content, or why it can't be had."""
        if self.escapes:
            return Fault("unsupported", "a path out of the archive")
        if self.archive is None:
            assert self.file is not None
            try:
                return content_of(self.file, self.file.stat())
            except OSError as error:
                return why_unreadable(error)
        return _read_from_zip(self.archive, self.archive.getinfo(self.name))


def _read_from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | Fault:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return Fault("unsupported", "a link or device")
    if info.file_size > MAX_FILE_BYTES:
        return Fault("too-large", f"{info.file_size} bytes, over {MAX_FILE_BYTES}")
    if _is_bomb(info.file_size, info.compress_size):
        return Fault("too-large", f"{info.file_size} bytes, packed into {info.compress_size}")
    try:
        with archive.open(info) as packed:  # unlike `archive.read`, unpacks no more than the list says
            return packed.read(info.file_size + 1)
    except _DAMAGE as error:
        return Fault("corrupt", str(error))
    except _UNSUPPORTED as error:
        return Fault("unsupported", str(error))


@contextmanager
def opened_source(source: Path, data: Path) -> Iterator[list[Member]]:
    """Yield the files of a folder or zip, clutter left out.

    The competition's zip holds the images in a `train.zip` of its own; that is unpacked in `data` while it is read.

    Raises:
        DataError: neither a folder nor a zip that can be read.
    """
    if source.is_dir():
        yield [Member(str(file.relative_to(source).as_posix()), str(file), file) for file in files_below(source)]
        return
    with _opened_zip(source) as archive:
        inner = [info for info in archive.infolist() if PurePosixPath(info.filename).name == "train.zip"]
        if not inner:
            yield _members(archive, source)
            return
        made = not data.exists()
        data.mkdir(parents=True, exist_ok=True)
        try:
            with TemporaryDirectory(prefix=".", suffix=".partial", dir=data) as folder:
                unpacked = Path(folder) / "train.zip"
                require_space(data, inner[0].file_size)
                _unpack(archive, inner[0], unpacked)
                with _opened_zip(unpacked) as train:
                    yield _members(train, source / "train.zip")
        finally:
            if made and not any(data.iterdir()):
                data.rmdir()


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    try:
        with archive.open(info) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (*_DAMAGE, *_UNSUPPORTED) as error:
        raise DataError(f"{archive.filename}: its {info.filename} can't be unpacked ({error})") from error


def _is_bomb(size: int, packed: int) -> bool:
    return size > max(_SMALL_BYTES, MAX_RATIO * packed)


def _opened_zip(source: Path) -> zipfile.ZipFile:
    """The zip, by its list of contents no bomb.

    Raises:
        DataError: it can't be read, or lists more than a folder of images could.
    """
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{source}: neither a folder nor a zip that can be read ({error})") from error
    entries = archive.infolist()
    total, packed = sum(info.file_size for info in entries), source.stat().st_size
    if len(entries) <= MAX_ENTRIES and total <= MAX_TOTAL_BYTES and not _is_bomb(total, packed):
        return archive
    archive.close()
    raise DataError(
        f"{source}: {len(entries)} files of {decimal(total)} in {decimal(packed)}; no more than {MAX_ENTRIES} files, "
        f"{decimal(MAX_TOTAL_BYTES)}, or {MAX_RATIO} times the size of the zip are unpacked"
    )


def _members(archive: zipfile.ZipFile, source: Path) -> list[Member]:
    return [
        Member(info.filename, f"{source}/{info.filename}", None, archive)
        for info in archive.infolist()
        if not info.is_dir() and not any(map(is_clutter, PurePosixPath(info.filename).parts))
    ]
