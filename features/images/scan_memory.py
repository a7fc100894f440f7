"""The scan memory: it keeps digests and headers, so that the next scan does not read unchanged files again."""

import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from headstart.features.digests import DIGEST_BYTES
from headstart.features.files import SETTLED_NS, remove_left_over, written_atomically
from headstart.features.images.formats import HEADER_VERSION
from headstart.features.images.opening import FORMATS
from headstart.features.images.scan import ImageFile
from headstart.features.terminal import console

_COLUMNS = ("bytes", "mtime_ns", "orientation", "width", "height", "tile_pixels", "scans", "bits", "pages", "page")
# NumPy and zipfile raise these errors if a file is not a valid archive.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, RuntimeError, BadZipFile, zlib.error)


class ScanMemory:
    """The digest and header of each file in the folder `data`, looked up by the file's path, size and mtime in ns.

    `folder` holds one `.npz` file for each data folder. `save` replaces the file of `data`. A damaged `.npz` file, or
    one with another `HEADER_VERSION`, is ignored, so that all images are read again. With `forget`, the memory is empty
    at first.
    """

    def __init__(self, folder: Path, data: Path, forget: bool = False) -> None:
        self._root = f"{data}{os.sep}"
        self._file = folder / f"{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]}.npz"
        self._started = time.time_ns()
        self._rows: dict[str, int] = {}
        self._loaded: dict[str, np.ndarray] = {}
        self._digests, self._formats, self._numbers = "", list[bytes](), list[list[int]]()
        self._recalled: dict[str, ImageFile] = {}
        if not forget:
            with suppress(*_DAMAGE):
                self._load()

    def recall(self, path: str, page: int = 1) -> ImageFile | None:
        """Return the image at `path` as a scan found it; None if `path` is unknown, or its file has changed since.

        For a page after the first, `path` is the result of `page_path`, and `page` is the page's number.
        """
        row = self._rows.get(path.removeprefix(self._root))
        if row is None:
            return None
        digest = self._digests[row * 2 * DIGEST_BYTES : (row + 1) * 2 * DIGEST_BYTES]
        format = self._formats[row].decode("ascii", errors="replace")
        size, time_ns, orientation, width, height, *others = self._numbers[row]
        tile_pixels, scans, bits, pages, number = others
        image = ImageFile(
            path, digest, size, time_ns, orientation, width, height, format, tile_pixels, scans, bits, pages, number
        )
        if format not in FORMATS or image.page != page or not image.is_unchanged():
            return None
        self._recalled[path] = image
        return image

    def save(self, images: Sequence[ImageFile]) -> None:
        """Write `images` for the next scan, in place of all earlier content. A failure to write is only printed."""
        if len(images) == len(self._rows) and all(self._recalled.get(image.path) is image for image in images):
            return  # the file already holds these images
        # A file that was written shortly before the scan is left out: it may change again and keep its mtime.
        settled = [image for image in images if image.mtime_ns < self._started - SETTLED_NS]
        paths = b"\0".join(os.fsencode(image.path.removeprefix(self._root)) for image in settled)
        digests = bytes.fromhex("".join(image.digest for image in settled))
        numbers = [[getattr(image, name) for name in _COLUMNS] for image in settled]
        learnt: dict[str, np.ndarray] = {
            "version": np.array(HEADER_VERSION),
            "paths": np.frombuffer(paths, np.uint8),
            "digests": np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
            "formats": np.array([image.format for image in settled], np.bytes_),
            "numbers": np.array(numbers, np.int64).reshape(-1, len(_COLUMNS)),
        }
        if self._loaded and all(np.array_equal(learnt[name], array) for name, array in self._loaded.items()):
            return
        try:
            with written_atomically(self._file) as partial:
                np.savez(partial, allow_pickle=False, **learnt)
            remove_left_over(self._file.parent)
        except OSError as error:  # the store is read-only, or the disk full
            console.print(f"the next scan will read all files again: {error}")

    def _load(self) -> None:
        """Read the memory's file. A missing or damaged file raises one of the `_DAMAGE` errors."""
        with self._file.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if arrays["version"] != HEADER_VERSION:
                return
            loaded = {name: arrays[name] for name in ("version", "paths", "digests", "formats", "numbers")}
        names = os.fsdecode(loaded["paths"].tobytes()).split("\0")
        wanted = {
            "digests": (np.uint8, (len(names), DIGEST_BYTES)),
            "formats": (np.bytes_, (len(names),)),
            "numbers": (np.int64, (len(names), len(_COLUMNS))),
        }
        for name, (kind, shape) in wanted.items():
            array = loaded[name]
            if array.shape != shape or not np.issubdtype(array.dtype, kind):
                raise ValueError(f"{name} of {len(names)} files can't be {array.dtype} {array.shape}")
        self._rows = {name: row for row, name in enumerate(names)}
        self._digests = loaded["digests"].tobytes().hex()
        self._formats, self._numbers = loaded["formats"].tolist(), loaded["numbers"].tolist()
        self._loaded = loaded
