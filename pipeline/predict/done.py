"""The images and rejects that a file of predictions already holds."""

import hashlib
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from headstart.features.errors import DataError
from headstart.features.locks import lock
from headstart.pipeline.predict.items import Item

_DIGEST = 16  # bytes of a path's hash


class Output(Protocol):
    """An open file of predictions."""

    def is_done(self, path: str) -> bool:
        """Return whether an earlier command wrote a prediction or a reject with this path."""

    def write(self, item: Item) -> None:
        """Write a prediction or a reject. If the process is killed, at most the items of the last seconds are lost."""


def lock_output(file: IO[Any], output: Path) -> None:
    """Lock `file`, so that only one process writes to `output`. The lock ends when `file` is closed.

    `file` is the open file `output`, or a separate lock file for `output`. Raises DataError if another process has the
    lock. On a disk without locks, nothing is locked.
    """
    try:
        lock(file, wait=False)
    except BlockingIOError as error:
        raise DataError(f"--output {output}: another process writes to it; name another file") from error
    except OSError:  # a disk without locks
        pass


class Done:
    """The paths in a file of predictions, as hashes. A million paths take 32 MB."""

    def __init__(self) -> None:
        self._hashes = bytearray()
        self._sorted = np.empty(0, f"S{_DIGEST}")

    def add(self, path: str) -> None:
        """Add a path. The path must be spelled as in the file."""
        self._hashes += _hash(path)

    def __contains__(self, path: str) -> bool:
        if not self._hashes:
            return False
        if len(self._sorted) * _DIGEST < len(self._hashes):
            self._sorted = np.sort(np.frombuffer(bytes(self._hashes), self._sorted.dtype))
        asked = np.array(_hash(path), self._sorted.dtype)
        place = int(np.searchsorted(self._sorted, asked))
        return place < len(self._sorted) and bool(self._sorted[place] == asked)


def _hash(path: str) -> bytes:
    return hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=_DIGEST).digest()
