"""A scan by a cluster: workers read files, and return digests and headers in columns. The driver joins the columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from headstart.features.cluster.crew import Crew
from headstart.features.cluster.probe import NodeError
from headstart.features.cluster.sharing import Sharing
from headstart.features.cluster.unit_job import Outcome, UnitJob
from headstart.features.cluster.worker import Job
from headstart.features.images.columns.images import Images
from headstart.features.images.columns.inspected import Inspected, inspect_part
from headstart.features.images.columns.paths import Paths
from headstart.features.images.faults import UNREAD, Fault
from headstart.features.images.files.paths import is_local
from headstart.features.images.files.reading import content_elsewhere
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import Reject, content_of, size_and_time
from headstart.features.terminal import progress

_SAMPLE = 5


@dataclass(frozen=True)
class ScanTask:
    """The task to inspect files; see `inspect_part`."""

    max_pixels: int
    pages: Pages
    sample: Sequence[tuple[str, tuple[int, int]]]  # some of the files, with their `size_and_time`
    tries_batch_sizes = takes_network = False
    kept = None  # its files are local

    def job(self, before: Job | None) -> ScanJob:
        """Return the job that does this task in a worker. The argument is ignored."""
        return ScanJob(self)

    def require_same(self, met: Any) -> None:
        """Do nothing, because all workers with the same version of headstart get the same results from a file."""


class ScanJob(UnitJob):
    """Inspects files. The items of a unit are absolute `Paths`, and its result is an `Inspected`."""

    def __init__(self, task: ScanTask) -> None:
        super().__init__()
        self._task = task

    def meet(self) -> None:
        """Raise a NodeError if this node sees none of the files in the task's `sample`."""
        require_seen(self._task.sample)

    def do(self, items: Paths) -> Inspected:
        """Inspect the files of a unit."""
        return inspect_part(items, self._task.max_pixels, self._task.pages, self.advance, self.is_stopped)


def require_seen(sample: Sequence[tuple[str, tuple[int, int]]]) -> None:
    """Raise a NodeError if no file in `sample` is the same file on this node as on the driver.

    `sample` holds a pair for each file: its path, and its `size_and_time` on the driver. Files that are missing on the
    driver are not counted.
    """
    known = [(path, version) for path, version in sample if version != (-1, -1)]
    if known and all(size_and_time(path) != version for path, version in known):
        raise NodeError(f"{known[0][0]}: this node does not see the file, or sees another one at this path")


def drawn(files: Sequence[str]) -> list[tuple[str, tuple[int, int]]]:
    """Return a sample of `files` for `require_seen`: a pair of path and `size_and_time` for each of at most five files.

    `files` are absolute paths.
    """
    return [(path, size_and_time(path)) for path in files[:: max(1, len(files) // _SAMPLE)][:_SAMPLE]]


def why_blind(unread: Sequence[str], files: int) -> str:
    """Return the reason to refuse a node that can't read files, or "" if there is no such reason.

    `unread` holds the paths that a worker on the node could not read, and `files` is the number of files that the
    worker tried. The node is refused if both are true: more than half of the files could not be read, and this process
    can read one of the first five paths in `unread`.
    """
    some = unread[:_SAMPLE] if 2 * len(unread) > files else ()
    seen_here = next(filter(_is_readable, some), "")
    return f"it can't read {seen_here}, which the driver can" if seen_here else ""


def _is_readable(path: str) -> bool:
    """Return whether this process can read a file. The file is read."""
    try:
        found = content_of(path, os.stat(path)) if is_local(path) else content_elsewhere(path)[0]
    except OSError:
        return False
    return not isinstance(found, Fault)


def inspect_by(crew: Crew, files: Paths, max_pixels: int, pages: Pages) -> Iterator[tuple[np.ndarray, Inspected]]:
    """Inspect local `files` with the workers of `crew`. Yield (positions, result) for some of `files` at a time.

    The positions, int64 [n], are indices in `files`. If a worker can't read a file, this process inspects the file
    again, and yields the result separately. For errors, see `Crew.recruit` and `Crew.answers`.
    """
    here = os.getcwd()
    every = files.with_folders([os.path.join(here, folder) for folder in files.folders])
    crew.begin(ScanTask(max_pixels, pages, drawn(every)))

    def blind(positions: Sequence[int], outcome: Outcome) -> str:
        found: Inspected = outcome.result
        unread = [at for at, one in zip(found.of_reject, found.rejects, strict=True) if one.reason in UNREAD]
        return why_blind([every[positions[at]] for at in unread], len(positions))

    with progress("looking at files", len(files), "files") as advance:
        sharing = Sharing(crew, len(files), lambda at, again: every[np.array(at)], advance, blind=blind)
        for piece in sharing.run():
            positions = np.array(piece.positions)
            if piece.result is None:
                crashed = Reject(files[piece.positions[0]], "crashed", "three workers died while they looked at it")
                yield positions, Inspected(files[positions], Images.of([]), np.zeros(0, np.int64), [crashed], [0])
                continue
            found, unread = _with_paths(files[positions], every[positions], piece.result.result)
            yield positions, found
            if len(unread):
                yield positions[unread], inspect_part(files[positions[unread]], max_pixels, pages)


def _with_paths(files: Paths, sent: Paths, found: Inspected) -> tuple[Inspected, np.ndarray]:
    """Return two things: a worker's result with the original paths, and the indices of unread files, int64 [n].

    The worker could not read these files. The rejects of these files are left out of the result.
    """
    pairs = list(zip(found.of_reject, found.rejects, strict=True))
    unread = {at for at, one in pairs if one.reason in UNREAD}
    kept = [(at, one) for at, one in pairs if at not in unread]
    rejects = [replace(one, path=files[at] + one.path.removeprefix(sent[at])) for at, one in kept]
    images = found.images.at(files[found.of_image])
    left = Inspected(files, images, found.of_image, rejects, [at for at, _ in kept])
    return left, np.array(sorted(unread), np.int64)
