"""Inspect many files in parallel, with the result in columns. This module needs no TensorFlow."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from headstart.features.images.columns.images import Images
from headstart.features.images.columns.paths import Paths
from headstart.features.images.columns.threads import in_threads
from headstart.features.images.faults import MAX_PIXELS
from headstart.features.images.formats import may_be_too_large, why_too_large
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import ImageFile, Reject, inspect_files, page_path, sizes_and_times
from headstart.features.terminal import progress

_PIECE, _KNOWN_PIECE = 64, 1024  # files per task of a thread, to read and to look up in a scan memory
_COLUMN = 4096  # new images that wait as objects until they become columns
_KEPT_SECONDS, _KEPT_SHARE = 60.0, 0.05  # how often a scan is saved, and the largest share of the time for this
_NONE = np.zeros(0, np.int64)

TURN_BYTES = 4 << 30  # of files in a turn; the page cache surely still holds all of them when the turn ends
MANY_FILES = 20_000  # some ten seconds of work here, which is more than workers elsewhere need to start

Turn = Callable[[Images], None]


class Memory(Protocol):
    """The part of a `ScanMemory` that `inspect_images` uses."""

    images: Images

    def recall(self, files: Paths, pages: Pages = "first") -> tuple[np.ndarray, np.ndarray]:
        """Find the images of files that have not changed since a scan; see `ScanMemory.recall`."""

    def add(self, images: Images) -> None:
        """Add `images` to the memory; see `ScanMemory.add`."""


@dataclass(frozen=True)
class Inspected(Sequence[list[ImageFile | Reject]]):
    """The result of `inspect_images`, in columns.

    As a sequence, it has a list for each file: the images and rejects of the file.
    """

    files: Paths
    images: Images
    of_image: np.ndarray  # int64 [images]: the position in `files` of the file of each image, ascending
    rejects: list[Reject]
    of_reject: list[int]  # the position in `files` of the file of each reject, ascending

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, at: int) -> list[ImageFile | Reject]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[list[ImageFile | Reject]]: ...
    def __getitem__(self, at: int | slice) -> Sequence[Any]:
        if isinstance(at, slice):
            return [self[position] for position in range(len(self))[at]]
        at = range(len(self))[at]
        images = self.images[slice(*np.searchsorted(self.of_image, [at, at + 1]))]
        rejects = self.rejects[bisect_left(self.of_reject, at) : bisect_left(self.of_reject, at + 1)]
        return sorted([*images, *rejects], key=lambda one: (len(one.path), one.path))  # by page


# A function that inspects files in other processes, in any order. It takes the files, the limit of pixels, and the
# choice of pages. It yields the positions of n files, int64 [n], and their result, whose own positions are below n.
Elsewhere = Callable[[Paths, int, Pages], Iterator[tuple[np.ndarray, Inspected]]]


def inspect_images(
    paths: Iterable[str | Path],
    max_pixels: int = MAX_PIXELS,
    memory: Memory | None = None,
    pages: Pages = "first",
    turn: Turn | None = None,
    elsewhere: Elsewhere | None = None,
) -> Inspected:
    """Inspect files in parallel, each as `scan.inspect_image` does. The result can be sent to another process.

    Args:
        memory: holds the images of earlier scans. An unchanged file is not read again if `memory` has all the pages
            that are needed. While other files are read, the images found so far are saved to `memory` now and then,
            and after an error or an interruption.
        turn: is called with the images of each group of files except the last. A group has about `TURN_BYTES`.
        elsewhere: a function that reads the files, if at least `MANY_FILES` have to be read. `turn` is then not used.

    If any of `paths` is a URL, the whole call uses neither `turn` nor `elsewhere`.
    """
    files = Paths.of(paths)
    remote = any(folder.find("://") > 0 for folder in files.folders)
    with progress("looking at files", len(files), "files") as advance:
        rows, of_row = _recalled(files, memory, pages, advance, remote) if memory else (_NONE, _NONE)
        known = np.zeros(len(files), bool)
        known[of_row] = True
    found = _Found(files, memory)
    unknown = np.flatnonzero(~known)
    if elsewhere and len(unknown) >= MANY_FILES and not remote:
        with found.kept_on_error():
            for positions, seen_there in elsewhere(files[unknown], max_pixels, pages):
                found.add_part(unknown[positions], seen_there)
        unknown = _NONE
    turn = None if remote else turn  # what is fetched is kept on disk, so it is read once without turns
    parts, done = _turns(files, unknown) if turn else iter([(unknown, True)]), len(files) - len(unknown)
    for part, is_last in parts:
        with progress("looking at files", len(files), "files", done) as advance, found.kept_on_error():
            for positions, seen in _inspected(files, part, max_pixels, pages, remote):
                found.add(positions, seen)
                advance(len(positions))
        done += len(part)
        if turn and not is_last:
            turn(found.since_last())
    if memory and len(rows):
        found.recall(rows, of_row, memory.images, max_pixels)
    return found.inspected()


def inspect_part(
    files: Paths,
    max_pixels: int,
    pages: Pages,
    advance: Callable[[int], None] = lambda count: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Inspected:
    """Inspect local files. Return the same result as `inspect_images(files, max_pixels, pages=pages)`.

    `advance` is called with the number of files that were just inspected. Inspection ends early when `is_stopped`
    returns true.
    """
    found = _Found(files, None)
    for positions, seen in _inspected(files, np.arange(len(files)), max_pixels, pages, remote=False):
        found.add(positions, seen)
        advance(len(positions))
        if is_stopped():
            break
    return found.inspected()


def _inspected(
    files: Paths, positions: np.ndarray, max_pixels: int, pages: Pages, remote: bool
) -> Iterator[tuple[np.ndarray, list[list[ImageFile | Reject]]]]:
    """Inspect the files at `positions`, int64 [n]. Yield pieces of `positions`, in order, with a result per file."""
    size = 1 if remote else _PIECE
    return in_threads(lambda piece: inspect_files(files[piece], max_pixels, pages), positions, size, remote)


def _turns(files: Paths, unknown: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """Split `unknown`, the positions of some of `files`, into parts. The files of a part have about `TURN_BYTES`.

    Yield each part, and whether the part is the last.
    """

    def sizes(piece: np.ndarray) -> np.ndarray:
        return np.fromiter((size for size, _ in sizes_and_times(files[piece])), np.int64, len(piece))

    held, total, turn = [_NONE], 0, 0
    for piece, found in in_threads(sizes, unknown, _KNOWN_PIECE, remote=False):
        sums = total + np.cumsum(found)
        turns = np.maximum.accumulate(sums // TURN_BYTES)
        first, *others = np.split(piece, np.flatnonzero(np.diff(turns, prepend=turn)))
        held.append(first)
        for part in others:
            if len(whole := np.concatenate(held)):
                yield whole, False
            held = [part]
        total, turn = int(sums[-1]), int(turns[-1])
    yield np.concatenate(held), True


def _recalled(
    files: Paths, memory: Memory, pages: Pages, advance: Callable[[int], None], remote: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find the images of unchanged files in the scan memory `memory`.

    Returns two arrays with an entry per found image: the image's row in `memory`, and its file's position in `files`.
    """
    found = [(_NONE, _NONE)]
    every = np.arange(len(files))
    size = 1 if remote else _KNOWN_PIECE
    recalled = in_threads(lambda piece: memory.recall(files[piece], pages), every, size, remote)
    for positions, (rows, of_row) in recalled:
        found.append((rows, positions[of_row]))
        advance(len(np.unique(of_row)))
    return np.concatenate([rows for rows, _ in found]), np.concatenate([of_row for _, of_row in found])


class _Found:
    """Collects images and rejects in any order. `inspected` sorts both by the order of their files."""

    def __init__(self, files: Paths, memory: Memory | None) -> None:
        self._files, self._memory = files, memory
        self._new, self._of_new = list[ImageFile](), list[int]()
        self._images, self._of_image = list[Images](), list[np.ndarray]()
        self._rejects: list[tuple[int, Reject]] = []
        self._kept, self._took = time.monotonic(), 0.0
        self._told = 0  # images that `since_last` returned

    def add(self, positions: np.ndarray, seen: Sequence[Sequence[ImageFile | Reject]]) -> None:
        """Add the images and rejects that were found in the files at `positions`, int64 [n]."""
        for position, found in zip(positions.tolist(), seen, strict=True):
            for one in found:
                if isinstance(one, Reject):
                    self._rejects.append((position, one))
                else:
                    self._new.append(one)
                    self._of_new.append(position)
        if len(self._new) >= _COLUMN:
            self._into_columns()
            self._keep_in_time()

    def add_part(self, positions: np.ndarray, part: Inspected) -> None:
        """Add the images and rejects of `part`, which is the result for the files at `positions`, int64 [n]."""
        of_image = positions[part.of_image]
        self._images.append(part.images.at(self._files[of_image]))
        self._of_image.append(of_image)
        self._rejects += [(int(positions[at]), one) for at, one in zip(part.of_reject, part.rejects, strict=True)]
        self._keep_in_time()

    def _keep_in_time(self) -> None:
        if time.monotonic() - self._kept > max(_KEPT_SECONDS, self._took / _KEPT_SHARE):
            self.keep()

    def keep(self) -> None:
        """Save the images found so far to the scan memory."""
        self._into_columns()
        start = time.monotonic()
        if self._memory and self._images:
            self._images = [Images.concatenated(self._images)]
            self._memory.add(self._images[0])
        self._kept = time.monotonic()
        self._took = self._kept - start

    @contextmanager
    def kept_on_error(self) -> Iterator[None]:
        """If the context ends with an error, save the images found so far to the scan memory."""
        try:
            yield
        except BaseException:
            self.keep()
            raise

    def since_last(self) -> Images:
        """Save the images found so far to the scan memory. Return the images that were added since the last call."""
        self.keep()
        every = Images.concatenated(self._images)
        self._images, start, self._told = [every], self._told, len(every)
        return every[start:]

    def recall(self, rows: np.ndarray, of_row: np.ndarray, known: Images, max_pixels: int) -> None:
        """Add the images `known[rows]` of an earlier scan. Those too large for `max_pixels` become rejects."""
        images = known if np.array_equal(rows, np.arange(len(known))) else known[rows]
        within = np.ones(len(rows), bool)
        width, height, tile, scans = (images.numbers(name) for name in ("width", "height", "tile_pixels", "scans"))
        for at in np.flatnonzero(may_be_too_large(width, height, tile, scans, max_pixels)).tolist():
            fault = why_too_large(int(width[at]), int(height[at]), int(tile[at]), int(scans[at]), max_pixels)
            if fault:
                path = page_path(self._files[of_row[at]], int(images.numbers("page")[at]))
                self._rejects.append((int(of_row[at]), Reject(path, fault.reason, fault.detail)))
                within[at] = False
        self._into_columns()
        self._images.append((images if within.all() else images[within]).at(self._paths(of_row[within])))
        self._of_image.append(of_row[within])

    def inspected(self) -> Inspected:
        """Return all images and rejects, in the order of the files."""
        self._into_columns()
        images, of_image = Images.merged(self._images), np.concatenate([_NONE, *self._of_image])
        self._images.clear()
        if (np.diff(of_image) < 0).any():
            order = np.argsort(of_image, kind="stable")
            images, of_image = images[order], of_image[order]
        self._rejects.sort(key=lambda one: one[0])
        rejects = [reject for _, reject in self._rejects]
        return Inspected(self._files, images, of_image, rejects, [position for position, _ in self._rejects])

    def _paths(self, positions: np.ndarray) -> Paths:
        """Return the paths of the files at `positions`. Nothing is copied if `positions` are those of all files."""
        return self._files if np.array_equal(positions, np.arange(len(self._files))) else self._files[positions]

    def _into_columns(self) -> None:
        if self._new:
            of_image = np.array(self._of_new, np.int64)
            self._images.append(Images.of(self._new).at(self._files[of_image]))
            self._of_image.append(of_image)
            self._new.clear()
            self._of_new.clear()
