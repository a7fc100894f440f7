"""Scratch files for features that do not fit in memory. Rows are read when they are needed."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import StoreError
from headstart.features.files import require_space, scratch_folder

Rows = slice | np.ndarray  # a slice of rows, row numbers int64 [n], or a mask bool [N]
Piece = tuple[np.ndarray, np.ndarray]  # positions int64 [n], and features [n, D] of the examples at these positions
_WINDOW_BYTES = 32 << 20  # of features, float32, that are read ahead
_BLOCK_BYTES = 16 << 20
_READERS = 8  # a disk answers several reads at a time: with one, 200,000 scattered rows took five times as long
_FEW = 32  # runs of rows that one thread reads
_numbers = itertools.count()


@dataclass(frozen=True)
class Part:
    """The features of all examples at one cut, before they are written to a file.

    Each of `pieces` has positions of examples, and the features of these examples. Each position occurs once.
    """

    width: int
    dtype: np.dtype[Any]
    pieces: Iterable[Piece]


class FeaturesOnDisk:
    """The features of N examples at some cuts, with a scratch file for each cut. The object is indexed like an array.

    `features[rows]` reads the features of these rows, float32 [n, D]. The object takes up to 8 bytes of memory per
    example. The object can be pickled for another process of this host, which then reads the same files. The process
    that wrote the files removes them when it no longer needs them. The files of a killed process are removed by the
    next command that uses the same folder for scratch files.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, files: Sequence[_File], rows: range | np.ndarray) -> None:
        self._files, self._rows = tuple(files), rows

    @classmethod
    def write(cls, parent: Path, count: int, parts: Sequence[Part]) -> FeaturesOnDisk:
        """Write the features of `count` examples to files in a new scratch folder in `parent`.

        Raises OSError if the folder can't be written to, or if its disk has not enough space.
        """
        require_space(parent, count * sum(part.width * part.dtype.itemsize for part in parts))
        folder = _Folder(parent)
        files = [_File(folder.path / str(at), part.width, part.dtype, folder) for at, part in enumerate(parts)]
        for file, part in zip(files, parts, strict=True):
            file.write(part.pieces)
        return cls(files, range(count))

    @property
    def shape(self) -> tuple[int, int]:
        """Return (N, D)."""
        return len(self._rows), sum(file.width for file in self._files)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Read the features of the examples at `rows`, float32 [n, D].

        Raises StoreError if a file is cut off, and OSError if a file can't be read.
        """
        places = _as_array(self.take(rows)._rows)
        order = np.argsort(places, kind="stable")
        found = np.empty((len(places), self.shape[1]), np.float32)
        start = 0
        for file in self._files:
            found[order, start : start + file.width] = file.read(places[order])
            start += file.width
        return found

    def take(self, rows: Rows) -> FeaturesOnDisk:
        """Return the features of the examples at `rows`, still on disk. Nothing is read."""
        if isinstance(rows, np.ndarray):
            kept, rows = self._rows, np.flatnonzero(rows) if rows.dtype == bool else rows
            return FeaturesOnDisk(self._files, kept.start + kept.step * rows if isinstance(kept, range) else kept[rows])
        return FeaturesOnDisk(self._files, self._rows[rows])

    def parts(self, numbers: Sequence[int]) -> FeaturesOnDisk:
        """Return the features at some of the cuts, side by side and still on disk. Nothing is read.

        `numbers` are the positions of these cuts among all cuts, from 0.
        """
        return FeaturesOnDisk([self._files[number] for number in numbers], self._rows)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> FeaturesOnDisk:
        """Apply `function` to all features. Return the results, which are written to another scratch file.

        `function` maps float32 [n, D] to float32 [n, K].
        """
        pieces = ((np.arange(len(self))[at], function(self[at])) for at in blocks(self))
        first = next(pieces)
        part = Part(first[1].shape[1], np.dtype(np.float32), itertools.chain([first], pieces))
        return FeaturesOnDisk.write(self._files[0].path.parent.parent, len(self), [part])

    def touch(self) -> None:
        """Mark the files as used now. Other hosts remove files that were not used for a day."""
        for file in self._files:
            os.utime(file.descriptor)


Features = np.ndarray | FeaturesOnDisk  # float32 [N, D], in memory or on disk


def taken(features: Features, rows: Rows) -> Features:
    """Select `rows` of `features`. Features on disk are not read."""
    return features.take(rows) if isinstance(features, FeaturesOnDisk) else features[rows]


def blocks(features: Features) -> Iterator[slice]:
    """Yield slices that divide the rows of `features` into blocks, in order. Features in memory are one block."""
    count, width = features.shape
    size = count if isinstance(features, np.ndarray) else max(1, _BLOCK_BYTES // (4 * width))
    return (slice(start, start + size) for start in range(0, count, max(1, size)))


def batches(features: Features, order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield rows of `features` in batches, float32 [b, D]. A batch has `size` rows; the last batch may have fewer.

    `order`, int64 [n], holds the positions of the rows, in the order in which the rows are yielded. If the features are
    on disk, a thread reads some batches ahead.
    """
    if isinstance(features, np.ndarray):
        for start in range(0, len(order), size):
            yield features[order[start : start + size]]
        return
    features.touch()
    many = size * max(1, _WINDOW_BYTES // (4 * size * features.shape[1]))
    with ThreadPoolExecutor(1) as reader:
        windows = (order[start : start + many] for start in range(0, len(order), many))
        ahead = [reader.submit(features.__getitem__, window) for window in itertools.islice(windows, 1)]
        while ahead:
            window = ahead.pop().result()
            ahead += [reader.submit(features.__getitem__, after) for after in itertools.islice(windows, 1)]
            for start in range(0, len(window), size):
                yield window[start : start + size]


class _Folder:
    """A scratch folder in `parent`. It is removed with the last reference to this object, or when the process ends."""

    def __init__(self, parent: Path) -> None:
        stack = ExitStack()
        self.path = stack.enter_context(scratch_folder(parent, f"features-{next(_numbers)}"))
        weakref.finalize(self, stack.close)


class _File:
    """A file of rows, [N, width]."""

    def __init__(self, path: Path, width: int, dtype: np.dtype[Any], folder: _Folder | None = None) -> None:
        self.path, self.width, self.dtype, self._folder = path, width, dtype, folder
        self._descriptor: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _File, (self.path, self.width, self.dtype)  # the folder belongs to the process that wrote it

    @property
    def descriptor(self) -> int:
        """Return a descriptor of the file, open for reading."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor

    def write(self, pieces: Iterable[Piece]) -> None:
        with self.path.open("wb", buffering=0) as file:
            for positions, rows in pieces:
                order = np.argsort(positions)
                ascending, stored = positions[order], rows[order].astype(self.dtype, copy=False)
                for start, stop in _runs(ascending):
                    file.seek(int(ascending[start]) * stored[0].nbytes)
                    _write_whole(file, stored[start:stop].data.cast("B"))

    def read(self, ascending: np.ndarray) -> np.ndarray:
        """Read the rows at some positions. Return [n, width] in the stored dtype.

        `ascending`, int64 [n], lists the positions in ascending order.
        """
        rows, runs = np.empty((len(ascending), self.width), self.dtype), _runs(ascending)
        self.descriptor  # noqa: B018  # opened once, before threads use it

        def read(some: Sequence[tuple[int, int]]) -> None:
            for start, stop in some:
                self._read_into(rows[start:stop].data.cast("B"), int(ascending[start]))

        share = -(-len(runs) // _READERS)
        if len(runs) <= _FEW:
            read(runs)
        else:
            list(_readers().map(read, [runs[at : at + share] for at in range(0, len(runs), share)]))
        return rows

    def _read_into(self, buffer: memoryview, row: int) -> None:
        offset = row * self.width * self.dtype.itemsize
        while buffer:
            # No memory map: its pages would count as memory of this process, and a cut-off file would kill it.
            count = os.preadv(self.descriptor, [buffer], offset)
            if not count:
                raise StoreError(f"{self.path}: cut off while it was in use; repeat the command")
            buffer, offset = buffer[count:], offset + count


def _write_whole(file: Any, data: memoryview) -> None:
    while data:  # the system writes at most 2 GiB at a time
        data = data[file.write(data) :]


def _as_array(rows: range | np.ndarray) -> np.ndarray:
    return np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows


def _runs(ascending: np.ndarray) -> list[tuple[int, int]]:
    """Divide `ascending`, int64 [n], into slices of consecutive numbers.

    Returns the start and the stop of each slice.
    """
    if not len(ascending):
        return []
    ends = np.flatnonzero(np.diff(ascending) != 1) + 1
    return list(itertools.pairwise([0, *ends.tolist(), len(ascending)]))


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, "features")
