"""Read many files, but keep few of them open. The system allows a process about a thousand open files."""

import errno
import io
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

_MOST_OPEN = 32


class Part(io.RawIOBase):
    """A range of a file, which can be read like a whole file. A `Part` need not be closed: it keeps no file open."""

    def __init__(self, read_at: Callable[[int, int], bytes], start: int, size: int, name: str) -> None:
        super().__init__()
        self._read_at, self._start, self._at = read_at, start, 0
        self.size, self.name = size, name

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position to `offset` bytes from the point that `whence` names. Return the new position.

        `whence` is `os.SEEK_SET` for the beginning, `os.SEEK_CUR` for the current position, or `os.SEEK_END` for the
        end.
        """
        at = offset + (0, self._at, self.size)[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "a place before the beginning", self.name)
        self._at = at
        return at

    def tell(self) -> int:
        """Return the position, in bytes from the beginning."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes. If `size` is None or negative, read all bytes that are left."""
        left = max(0, self.size - self._at)
        data = self.read_at(left if size is None or size < 0 else min(size, left), self._at)
        self._at += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into `buffer`. Return how many bytes were read."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_at(self, size: int, at: int) -> bytes:
        """Read at most `size` bytes, beginning at byte `at`. The position of the part does not change."""
        return self._read_at(max(0, min(size, self.size - at)), self._start + at)


class OpenFiles:
    """Opens files for reading, and keeps open the 32 files that were used last. Closing `stack` closes these files."""

    def __init__(self, stack: ExitStack) -> None:
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._lock = Lock()
        stack.callback(self._close, 0)

    def part(self, path: Path) -> Part:
        """Return the whole file at `path` as a `Part`. May raise an OSError."""
        size = path.stat().st_size
        return Part(lambda size, at: self._read_at(path, size, at), 0, size, str(path))

    def _read_at(self, path: Path, size: int, at: int) -> bytes:
        with self._lock:  # so that no other thread closes the file meanwhile
            if path not in self._files:
                self._close(_MOST_OPEN - 1)
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._files.move_to_end(path)
            return os.pread(self._files[path], size, at)

    def _close(self, most: int) -> None:
        while len(self._files) > most:
            os.close(self._files.popitem(last=False)[1])
