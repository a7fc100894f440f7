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

from features.errors import DataError
from features.headers import Fault
from features.image_files import why_unreadable
from pipeline.examples import files_below, is_clutter

MAX_MEMBER_BYTES = 1 << 30
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
                return self.file.read_bytes()
            except OSError as error:
                return why_unreadable(error)
        return _read_from_zip(self.archive, self.archive.getinfo(self.name))


def _read_from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | Fault:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return Fault("unsupported", "a link or device")
    if info.file_size > MAX_MEMBER_BYTES:
        return Fault("too-large", f"{info.file_size} bytes")
    try:
        return archive.read(info)
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


def _opened_zip(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{source}: neither a folder nor a zip that can be read ({error})") from error


def _members(archive: zipfile.ZipFile, source: Path) -> list[Member]:
    return [
        Member(info.filename, f"{source}/{info.filename}", None, archive)
        for info in archive.infolist()
        if not info.is_dir() and not any(map(is_clutter, PurePosixPath(info.filename).parts))
    ]
