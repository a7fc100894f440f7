"""Open an archive. The first bytes of the file decide the kind of the archive.

A compressed tar can only be read from its beginning, but images are read twice, and in any order. So the tar is
decompressed once, into a temporary file without a name. The system frees this file when the process ends, even if the
process is killed.
"""

import bz2
import gzip
import importlib
import lzma
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import IO, BinaryIO

from headstart.features.errors import DataError
from headstart.features.files import require_space
from headstart.features.terminal import console, progress
from headstart.pipeline.archives.entries import BLOCK, DAMAGE, UNSUPPORTED, Entry, message_of, require_within_limits
from headstart.pipeline.archives.names import as_paths
from headstart.pipeline.archives.parts import OpenFiles, Part
from headstart.pipeline.archives.tars import tar_entries
from headstart.pipeline.archives.zips import zip_entries

_SUFFIX = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
_KINDS = "zip, tar, tar.gz, tar.bz2, tar.xz and tar.zst are read"
_SPACE_BYTES = 1 << 26  # after so many unpacked bytes, the free space is looked at again
_XZ_MEMORY = 1 << 29  # bytes that one xz stream may use; `xz -9` needs an eighth of them


def archive_suffix(name: str) -> str:
    """Return the archive suffix of a file's name, such as `.tar.gz`. Return "" if the name has no such suffix."""
    match = _SUFFIX.search(name)
    return match[0] if match else ""


def is_archive_name(name: str) -> bool:
    """Whether a file's name has the suffix of an archive."""
    return _SUFFIX.search(name) is not None


@contextmanager
def open_plain_tar(path: Path, stop: Event | None = None) -> Iterator[list[Entry]]:
    """Open the plain tar at `path`, and yield its files. Their content can be read while the context is open.

    Raises DataError if the tar is compressed or can't be read. An OSError or EOFError that is raised in the context
    becomes a DataError, too. If another thread sets `stop`, the listing of the files ends with a DataError.
    """
    with ExitStack() as stack:
        try:
            file = OpenFiles(stack).part(path)
            kind = _kind_of(file)
            if kind != "tar":
                raise DataError(f"{path}: no plain tar ({kind}); `headstart prepare` reads other archives")
            yield _entries_of_tar(file, str(path), stop)
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', '') or error})") from error


def _entries_of_tar(file: Part, archive: str, stop: Event | None = None) -> list[Entry]:
    files = tar_entries(file, archive, stop)
    paths, notes = as_paths([entry.name for entry in files], [False] * len(files))
    _tell(archive, notes)
    renamed = zip(files, paths, strict=True)
    return [entry if entry.name == path else replace(entry, name=path) for entry, path in renamed]


def _tell(archive: str, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"{archive}: {note}")


class Archives:
    """Opens archives, which stay open until `stack` is closed.

    An archive with too much content is refused; see `require_within_limits`. Unpacked data lie in one temporary file
    without a name, on the disk of `folder`. `folder` need not exist yet. `zip_encoding` is the value of
    `--zip-encoding`.
    """

    def __init__(self, stack: ExitStack, folder: Path, zip_encoding: str | None) -> None:
        self._stack = stack
        self._folder = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        self._zip_encoding = zip_encoding
        self._files = OpenFiles(stack)
        self._room: BinaryIO | None = None  # all that is unpacked, one archive after the other
        self._given = self._total = 0  # bytes of the archives on disk, and of all that they unpack to
        self._outermost = ""
        self.zips = 0  # number of zips opened so far

    def open(self, path: Path) -> list[Entry]:
        """List the files of the archive at `path`. Raises DataError or OptionError if the archive can't be read."""
        file = self._files.part(path)
        self._outermost, self._given = str(path), self._given + file.size
        return self._entries(file, str(path))

    def open_inner(self, entry: Entry, archive: str) -> list[Entry]:
        """List the files of the archive `entry`, which is inside another archive. Raises the same errors as `open`.

        `archive` is the name of the inner archive in messages.
        """
        if entry.fault:
            raise DataError(f"{archive}: can't be unpacked ({entry.fault.detail})")
        require_space(self._folder, entry.size)
        entries = self._entries(self._unpacked(entry.blocks(), archive, entry.packed), archive)
        self._count(len(entries), sum(one.size for one in entries))
        return entries

    def _count(self, files: int, size: int) -> None:
        """Add `size` to the number of unpacked bytes so far.

        Raises DataError if this number, or the number of files `files`, exceeds its limit.
        """
        self._total += size
        require_within_limits(f"{self._outermost}, with the archives in it", files, self._total, self._given)

    def _entries(self, file: Part, archive: str) -> list[Entry]:
        kind = _kind_of(file)
        if kind in _DECOMPRESSED:
            file = self._decompressed(file, kind, archive)
            if _kind_of(file) != "tar":
                raise DataError(f"{archive}: no tar, but something else in {kind}; {_KINDS}")
        elif kind not in ("zip", "tar"):
            raise DataError(f"{archive}: neither a folder nor an archive that can be read ({kind}); {_KINDS}")
        if kind == "zip":
            self.zips += 1
            entries, notes = zip_entries(file, archive, self._zip_encoding)
            _tell(archive, notes)
            return entries
        return _entries_of_tar(file, archive)

    def _decompressed(self, file: Part, kind: str, archive: str) -> Part:
        packed = file.size
        require_space(self._folder, packed)
        file.seek(0)
        with progress(f"unpacking {archive}", packed, "bytes") as advance:
            return self._unpacked(_told(_DECOMPRESSED[kind](file), file, advance), archive, packed)

    def _unpacked(self, blocks: Iterable[bytes], archive: str, packed: int) -> Part:
        """Append `blocks` to the temporary file of the archives. Return the part of this file that holds the blocks.

        Raises DataError if the blocks are damaged or too large.
        """
        if self._room is None:
            self._room = self._stack.enter_context(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115
        room, start, size = self._room, self._room.tell(), 0
        try:
            for block in blocks:
                if size // _SPACE_BYTES != (size + len(block)) // _SPACE_BYTES:
                    require_space(self._folder, _SPACE_BYTES)
                size += len(block)
                require_within_limits(archive, 1, size, packed)
                self._count(1, len(block))
                room.write(block)
            room.flush()
        except (*DAMAGE, *UNSUPPORTED, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # the disk's error; errors of gzip and bz2 have no number
                raise
            raise DataError(f"{archive}: can't be unpacked ({message_of(error)}); make or download it anew") from error
        return Part(lambda size, at: os.pread(room.fileno(), size, at), start, size, archive)


def _kind_of(file: Part) -> str:
    """Return `zip`, `tar` or a key of `_DECOMPRESSED`. For any other file, return a phrase for an error message."""
    file.seek(0)
    start = file.read(tarfile.BLOCKSIZE)
    if _begins_tar(start):
        return "tar"
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if zipfile.is_zipfile(file):  # a self-extracting zip begins with a program
        return "zip"
    return "its first bytes are of no archive" if start else "an empty file"


def _begins_tar(start: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(start) == tarfile.BLOCKSIZE and not any(start)  # zeros mark the end of a tar, so this tar is empty
    return True


def _told(blocks: Iterable[bytes], file: Part, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield `blocks`. After each block, call `advance` with the number of bytes of `file` that the block took."""
    before = 0
    for block in blocks:
        yield block
        before, read = file.tell(), file.tell() - before
        advance(read)


def _pieces(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _from_gzip(file: Part) -> Iterator[bytes]:
    return _pieces(gzip.GzipFile(fileobj=file, mode="rb"))


def _from_bzip2(file: Part) -> Iterator[bytes]:
    return _pieces(bz2.BZ2File(file))


def _from_xz(file: Part) -> Iterator[bytes]:
    """Yield the content of the xz streams in `file`, one after the other.

    `lzma.LZMAFile` is not used, because it would not limit the memory of a stream.
    """
    rest = file.read(BLOCK)
    while rest:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        while not stream.eof:
            if block := stream.decompress(rest, BLOCK):
                yield block
            rest = file.read(BLOCK) if stream.needs_input and not stream.eof else b""
            if stream.needs_input and not rest and not stream.eof:
                raise EOFError("it ends early")
        rest = (stream.unused_data or file.read(BLOCK)).lstrip(b"\0")


def _from_zstd(file: Part) -> Iterator[bytes]:
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise DataError(f"{file.name}: zstd needs the extra `zstd`: pip install '.[zstd]'") from error
    try:
        yield from _pieces(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error


_DECOMPRESSED: dict[str, Callable[[Part], Iterator[bytes]]] = {
    "gzip": _from_gzip,
    "bzip2": _from_bzip2,
    "xz": _from_xz,
    "zstd": _from_zstd,
}
_MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"Rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
}
