"""The scan memory: it keeps digests and headers, so that the next scan does not read unchanged files again."""

import hashlib
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from headstart.features.digests import DIGEST, DIGEST_BYTES
from headstart.features.files import SETTLED_NS, remove_left_over, written_atomically
from headstart.features.images.columns.images import NUMBERS, Images, narrow
from headstart.features.images.columns.paths import Paths
from headstart.features.images.formats import HEADER_VERSION
from headstart.features.images.opening import FORMATS, KNOWN_FORMATS
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import sizes_and_times
from headstart.features.terminal import console

_AT_A_TIME = 4096
# The columns of the array `numbers` in the files of earlier versions. Now each column is a separate array.
_NUMBERS_BEFORE = [name for name in NUMBERS if name != "format"]
# NumPy and zipfile raise these errors if a file is not a valid archive.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, RuntimeError, BadZipFile, zlib.error)


class ScanMemory:
    """The scan memory of one data folder: the digest and header of each file, by the file's path, size and mtime in ns.

    The memory is read from a `.npz` file, and `save` replaces this file. The memory is empty at first if `forget` is
    true. It is also empty at first if the `.npz` file is missing, is damaged, or has another `HEADER_VERSION`.

    Args:
        folder: where the `.npz` files of all data folders are.
        data: the data folder.
        forget: if true, the `.npz` file is not read.
    """

    def __init__(self, folder: Path, data: Path, forget: bool = False) -> None:
        self._root = f"{data}{os.sep}"
        self._file = folder / f"{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]}.npz"
        self._started = time.time_ns()
        self.images = Images.of([])  # their paths are relative to `data`
        if not forget:
            with suppress(*_DAMAGE):
                self.images = self._loaded()
        page = self.images.numbers("page")
        firsts = np.flatnonzero(page == 1).astype(np.int32)
        hashes = np.fromiter(map(hash, self.images.files[firsts]), np.int64, len(firsts))
        order = np.argsort(hashes, kind="stable")
        self._rows, self._hashes = firsts[order], hashes[order]  # of first pages
        self._more: dict[str, dict[int, int]] = defaultdict(dict)  # rows of further pages, by path and page
        for row in np.flatnonzero(page > 1).tolist():
            self._more[self.images.files[row]][int(page[row])] = row

    def recall(self, files: Paths, pages: Pages = "first") -> tuple[np.ndarray, np.ndarray]:
        """Find the images of `files` in this memory. Unknown and changed files are left out.

        Return two arrays, int64 [n]. The first array holds the row of each image in `self.images`. The second array
        holds the position of the image's file in `files`, ascending. If `pages` is `all`, each page of a TIFF is an
        image. If the memory lacks a page of a TIFF, the TIFF is left out.
        """
        paths = list(self._relative(files))
        hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
        last = np.searchsorted(self._hashes, hashes, "right") - 1  # of several rows of a path, the last is the newest
        at = np.flatnonzero(last >= 0)
        at = at[self._hashes[last[at]] == hashes[at]]
        rows = self._rows[last[at]]
        status = np.array(sizes_and_times(files[at]), np.int64).reshape(-1, 2)
        same = np.fromiter(
            (name == paths[position] for name, position in zip(self.images.files[rows], at.tolist(), strict=True)),
            bool,
            len(at),
        )
        kept = same & self._agrees(rows, status)
        rows, at, status = rows[kept], at[kept], status[kept]
        several = np.flatnonzero(self.images.numbers("pages")[rows] > 1)
        if pages == "first" or not len(several):
            return rows, at
        found = rows.tolist()
        rows_of = [[row] for row in found]
        for number in several.tolist():
            more = self._more.get(paths[at[number]], {})
            wanted = [more.get(page, -1) for page in range(2, int(self.images.numbers("pages")[rows[number]]) + 1)]
            whole = min(wanted) >= 0 and self._agrees(np.array(wanted), status[[number]]).all()
            rows_of[number] = [found[number], *wanted] if whole else []
        return np.array(list(chain.from_iterable(rows_of)), np.int64), at.repeat([len(one) for one in rows_of])

    def _agrees(self, rows: np.ndarray, status: np.ndarray) -> np.ndarray:
        """Return for each image in `rows` whether its file still has the size and modification time in `status`."""
        size, time_ns = self.images.numbers("bytes")[rows], self.images.numbers("mtime_ns")[rows]
        agreeing: np.ndarray = (size == status[:, 0]) & (time_ns == status[:, 1])  # `status` may be [1, 2]
        return agreeing

    def add(self, images: Images) -> None:
        """Write `images` to the disk, together with the earlier content of the scan memory.

        If the process is killed, the next scan need not read the files of `images` again.
        """
        if len(settled := self._settled(images)):
            self._write(Images.concatenated([self.images, settled]))

    def save(self, images: Images) -> None:
        """Write `images` for the next scan, in place of the earlier content. A failure to write is only printed.

        Afterwards this scan memory holds no images in RAM.
        """
        known, self.images = self.images, Images.of([])
        self._rows, self._hashes = np.zeros(0, np.int32), np.zeros(0, np.int64)
        self._more.clear()
        if images.digests is known.digests:
            return  # the file already holds these images
        settled = self._settled(images)
        if settled != known:
            self._write(settled)

    def _settled(self, images: Images) -> Images:
        """Leave out images of files written shortly before the scan. Make the paths relative to the data folder."""
        # A file just written may change again, and keep its modification time.
        settled = images.numbers("mtime_ns") < self._started - SETTLED_NS
        images = images if settled.all() else images[settled]
        return images.at(self._relative(images.files))

    def _relative(self, files: Paths) -> Paths:
        return files.with_folders([folder.removeprefix(self._root) for folder in files.folders])

    def _write(self, images: Images) -> None:
        paths = bytearray()
        for path in images.paths():
            paths += os.fsencode(path) + b"\0"
        learnt = {
            "version": np.array(HEADER_VERSION),
            "paths": np.frombuffer(memoryview(paths)[:-1], np.uint8),
            "digests": images.digests.view(np.uint8).reshape(-1, DIGEST_BYTES),
            "formats": np.array(KNOWN_FORMATS, np.bytes_),
        }
        learnt |= {name: images.numbers(name) for name in NUMBERS}
        try:
            with written_atomically(self._file) as partial:
                np.savez(partial, allow_pickle=False, **learnt)
            remove_left_over(self._file.parent)
        except OSError as error:  # the store is read-only, or the disk full
            console.print(f"the next scan will read all files again: {error}")

    def _loaded(self) -> Images:
        """Return the images in the `.npz` file. A missing or damaged file raises one of the errors in `_DAMAGE`."""
        with self._file.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if arrays["version"] != HEADER_VERSION:
                return self.images
            digests = _checked(arrays["digests"], np.uint8, (-1, DIGEST_BYTES)).reshape(-1).view(DIGEST)
            names = [name.decode("ascii") for name in _checked(arrays["formats"], np.bytes_, (-1,)).tolist()]
            codes = {name: KNOWN_FORMATS.index(name) for name in set(names)}
            formats = np.array([codes[name] for name in names], np.int64)
            if "numbers" in arrays:
                before = _checked(arrays["numbers"], np.int64, (len(digests), len(_NUMBERS_BEFORE)))
                columns = dict(zip(_NUMBERS_BEFORE, before.T, strict=True))
            else:
                columns = {name: arrays[name] for name in NUMBERS}
                formats = formats[_checked(columns["format"], np.integer, (len(digests),))]
            columns["format"] = formats
            numbers = {name: narrow(name, _checked(columns.pop(name), np.integer, (len(digests),))) for name in NUMBERS}
            files = Paths.of(_files(_checked(arrays["paths"], np.uint8, (-1,)), numbers["page"]))
        images = Images(files, digests, numbers)
        usable = np.isin(formats, [KNOWN_FORMATS.index(name) for name in FORMATS])
        return images if usable.all() else images[usable]


def _files(paths: np.ndarray, page: np.ndarray) -> Iterator[str]:
    """Yield each image's file: `a.tif` for the image `a.tif#2`. In `paths`, zero bytes separate the images' paths."""
    start = 0
    ends = np.append(np.flatnonzero(paths == 0), len(paths)) if len(page) else paths
    if len(ends) != len(page):
        raise ValueError(f"{len(ends)} paths of {len(page)} images")
    for first in range(0, len(page), _AT_A_TIME):
        rows = slice(first, first + _AT_A_TIME)
        for end, number in zip(ends[rows].tolist(), page[rows].tolist(), strict=True):
            path = os.fsdecode(paths[start:end].tobytes())
            yield path if number == 1 else path.removesuffix(f"#{number}")
            start = end + 1


def _checked(array: np.ndarray, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return `array`. Raises a ValueError if it is not of the dtype `kind`, or not of `shape` (-1: any size)."""
    fits = len(array.shape) == len(shape) and all(
        want in (-1, has) for has, want in zip(array.shape, shape, strict=True)
    )
    if not fits or not np.issubdtype(array.dtype, kind):
        raise ValueError(f"expected {kind.__name__} {shape}. Received: {array.dtype} {array.shape}")
    return array
