"""Read a plain tar by its headers. Nothing is unpacked to disk, and links and devices are never created."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

from headstart.features.errors import DataError
from headstart.features.images.faults import Fault
from headstart.pipeline.archives.entries import BLOCK, DAMAGE, Entry, message_of, require_within_limits
from headstart.pipeline.archives.parts import Part

# tarfile keeps a long header (a long name, extended attributes) in memory. Real ones have a few hundred bytes.
# On a long row of digits, some versions of tarfile search for minutes.
_MOST_HEADER_BYTES = 1 << 16
_AHEAD_BYTES = 1 << 12  # read with a header: often the small file after it, and the next header
_SMALL_BYTES = tarfile.BLOCKSIZE  # a file of at most this size, such as a label, may be kept in memory
_DIGITS = re.compile(rb"\d{1000}")


def tar_entries(file: Part, archive: str, stop: Event | None = None) -> list[Entry]:
    """List the content of the tar `file`, without its folders. `archive` is the name of the tar, for messages.

    A hard link has the content of the earlier file to which it leads. Other links, and devices, have a `fault`, so they
    are never read. Raises DataError if the tar is damaged or ends early, if its files exceed the limits (see
    `require_within_limits`), or if another thread sets `stop`.
    """
    entries: list[Entry] = []
    packed, total = file.size, 0
    regular: dict[str, Entry] = {}
    reader = _HeaderFile(file)
    for info in _headers(file, reader, archive):
        require_not_stopped(archive, stop)
        if not info.isdir():
            entry = _entry(file, info, regular, reader.held(info.offset_data, info.size))
            entries.append(entry)
            total += entry.size
            require_within_limits(archive, len(entries), total, packed)
    return entries


def require_not_stopped(archive: str, stop: Event | None) -> None:
    """Raise a DataError if `stop` is set. `archive` is the name of the tar that is being read."""
    if stop and stop.is_set():
        raise DataError(f"{archive}: not read to its end, because reading was stopped")


def _headers(file: Part, reader: _HeaderFile, archive: str) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar.

    Raises DataError in three cases: a header is damaged, the tar has no end mark, or data follow the end mark.
    """
    before = -1
    file.seek(0)
    try:
        with tarfile.TarFile(fileobj=reader, encoding="utf-8", errors="surrogateescape") as headers:  # type: ignore[arg-type]
            while (info := headers.next()) is not None:
                if info.offset <= before or info.size < 0 or info.offset_data < 0:  # the loop would never end
                    raise tarfile.ReadError("a header leads back")
                before = info.offset
                vars(headers)["members"].clear()  # otherwise, all headers would stay in memory
                yield info
            file.seek(headers.offset)
    except (*DAMAGE, RecursionError) as error:
        raise DataError(f"{archive}: a damaged tar ({message_of(error)}); make or download it anew") from error
    end = file.read(tarfile.BLOCKSIZE)
    if any(end) or not end:  # tarfile mistakes any damage for the end
        why = f"no header at byte {headers.offset}" if end else "it lacks the mark of its end, so files may be missing"
        raise DataError(f"{archive}: a damaged tar ({why}); make or download it anew")
    while rest := file.read(BLOCK):
        if rest.strip(b"\0"):
            raise DataError(f"{archive}: has data after the mark of its end, so files may be missing; make it anew")


class _HeaderFile:
    """A tar from which tarfile reads headers. At least 4 KiB of the tar are read at once.

    `read` raises `tarfile.ReadError` for an impossible header.
    """

    def __init__(self, file: Part) -> None:
        self._file = file
        self._ahead, self._start = b"", 0  # the bytes that were read last, and where they begin
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        start = self._file.tell()
        if not self._start <= start <= start + size <= self._start + len(self._ahead):
            self._ahead, self._start = self._file.read_at(max(size, _AHEAD_BYTES), start), start
        header = self._ahead[start - self._start : start - self._start + size]
        self._file.seek(start + len(header))
        if _DIGITS.search(header):
            raise tarfile.ReadError("a header of nothing but digits")
        return header

    def held(self, start: int, size: int) -> bytes | None:
        """Return the `size` bytes at `start`. Return None if they were not all read ahead, or if `size` is large."""
        at = start - self._start
        return self._ahead[at : at + size] if size <= _SMALL_BYTES and 0 <= at <= len(self._ahead) - size else None


def _entry(file: Part, info: tarfile.TarInfo, regular: dict[str, Entry], held: bytes | None) -> Entry:
    """Return the entry of a file in a tar. If the file is a regular file, add the entry to the dict `regular`."""
    if info.islnk() and info.linkname in regular:
        return replace(regular[info.linkname], name=info.name)
    if not info.isreg():
        return Entry(info.name, 0, 0, partial(iter, ()), fault=Fault("unsupported", "a link or device"))
    sparse: Any = info.sparse  # a list of (offset, length); its type in typeshed is wrong
    pieces: list[tuple[int, int]] = [(0, info.size)] if sparse is None else sparse
    stored = sum(length for _, length in pieces)
    blocks: Callable[[], Iterator[bytes]] = partial(_blocks, file, info.offset_data, tuple(pieces), info.size)
    if held is not None and sparse is None:
        blocks = partial(iter, (held,))
    start = info.offset_data if sparse is None else None
    regular[info.name] = entry = Entry(info.name, info.size, stored, blocks, start)
    return entry


def _blocks(file: Part, start: int, pieces: Sequence[tuple[int, int]], size: int) -> Iterator[bytes]:
    """Yield the content of a file in a tar. `pieces` has (offset in the content, length) of each stored piece.

    The tar holds the pieces one after the other, from byte `start` on. All other bytes of the content are zeros.
    """
    done = 0
    for offset, length in (*pieces, (size, 0)):
        if not done <= offset <= offset + length <= size:
            raise tarfile.ReadError("a sparse file whose pieces overlap")
        yield from (bytes(min(BLOCK, offset - at)) for at in range(done, offset, BLOCK))
        for at in range(start, start + length, BLOCK):
            block = file.read_at(min(BLOCK, start + length - at), at)  # safe in several threads
            if not block:
                raise EOFError("the archive ends early")
            yield block
        start, done = start + length, offset + length
