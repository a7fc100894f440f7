"""What a scan learnt of files, so that the next one need not read those that did not change."""

import hashlib
import os
import time
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from headstart.features.digests import DIGEST_BYTES, raw_digests
from headstart.features.files import SETTLED_NS, remove_left_over, written_atomically
from headstart.features.images.formats import KNOWN_FORMATS
from headstart.features.images.scan import ImageFile
from headstart.features.terminal import console

_COLUMNS = 6  # bytes, mtime, orientation, width, height, format
# What NumPy and zipfile raise on bytes that are no archive of theirs.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class ScanMemory:
    """Digest and header of each file below one data folder, by (path, size, mtime in ns).

    Args:
        folder: where memories are kept: one `.npz` for each data folder, that whoever saves last has written.
        data: the data folder. A file is remembered by its path within it.
        forget: begin with nothing in mind. A memory that is damaged, or of another form, is the same.
    """

    def __init__(self, folder: Path, data: Path, forget: bool = False) -> None:
        self._root = f"{data}{os.sep}"
        self._file = folder / f"{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]}.npz"
        self._started = time.time_ns()
        self._rows: dict[str, int] = {}
        self._loaded: dict[str, np.ndarray] = {}
        if not forget:
            with suppress(*_DAMAGE):
                self._load()

    def recall(self, path: str) -> ImageFile | None:
        """What is known of the file, if it is as it was."""
        row = self._rows.get(path.removeprefix(self._root))
        if row is None:
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None
        size, mtime, orientation, width, height, format = self._loaded["numbers"][row].tolist()
        if (status.st_size, status.st_mtime_ns) != (size, mtime):
            return None
        digest = self._loaded["digests"][row].tobytes().hex()
        return ImageFile(path, digest, size, mtime, orientation, width, height, KNOWN_FORMATS[format])

    def save(self, images: Iterable[ImageFile]) -> None:
        """Remember `images` and nothing else, for the next scan."""
        settled = [image for image in images if image.mtime_ns < self._started - SETTLED_NS]
        paths = b"\0".join(os.fsencode(image.path.removeprefix(self._root)) for image in settled)
        formats = {name: number for number, name in enumerate(KNOWN_FORMATS)}
        numbers = [(i.bytes, i.mtime_ns, i.orientation, i.width, i.height, formats[i.format]) for i in settled]
        digests = raw_digests([image.digest for image in settled])
        learnt: dict[str, np.ndarray] = {
            "paths": np.frombuffer(paths, np.uint8),
            "digests": np.frombuffer(digests.tobytes(), np.uint8).reshape(-1, DIGEST_BYTES),
            "numbers": np.array(numbers, np.int64).reshape(-1, _COLUMNS),
        }
        if self._loaded and all(np.array_equal(learnt[name], array) for name, array in self._loaded.items()):
            return
        try:
            with written_atomically(self._file) as partial:
                np.savez(partial, allow_pickle=False, **learnt)
            remove_left_over(self._file.parent)
        except OSError as error:  # a store that can only be read, or is full
            console.print(f"the next scan will read all files again: {error}", markup=False)

    def _load(self) -> None:
        with self._file.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in ("paths", "digests", "numbers")}
        names = os.fsdecode(loaded["paths"].tobytes()).split("\0")
        for name, width, dtype in (("digests", DIGEST_BYTES, np.uint8), ("numbers", _COLUMNS, np.int64)):
            if loaded[name].shape != (len(names), width) or loaded[name].dtype != dtype:
                raise ValueError(f"{name} of {len(names)} files can't be {loaded[name].dtype} {loaded[name].shape}")
        self._rows = {name: row for row, name in enumerate(names)}
        self._loaded = loaded
