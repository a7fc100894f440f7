"""The kept index: files that hold the index of a large store.

A process maps these files into memory. Then it reads digests only from shards that the kept index lacks.

The index consists of segments. New shards make a new segment. When segments are merged, a new segment replaces them.
Each segment has its own folder. The files in this folder never change:

STORE/<backbone>-<cut>-<fingerprint>/index-<hash of the shards' names>/
    shards.json                             the name and the number of digests of each shard
    digests.npy, shards.npy, rows.npy       the segment's entries; see `Entries`
    replaced                                an empty file, added when the index no longer uses the segment
"""

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from headstart.features.digests import DIGEST, DIGEST_BYTES
from headstart.features.errors import StoreError
from headstart.features.files import folder_written_atomically, read_json, require_space
from headstart.features.locks import folder_locked
from headstart.features.store.index import Entries, Index, Segment, merged, names_in_use
from headstart.features.store.retired import entries_of, in_use
from headstart.features.store.shards import SHARD_NAME, ShardFormat, read_digests
from headstart.features.terminal import progress

LARGE = 500  # shards from which an index is kept
NEW = 50  # shards from which a new segment is kept; fewer are read quickly
_SHARD_DIGESTS = 1024  # fewer shards count, too, if they hold this many digests each
_AT_ONCE = 1 << 18  # digests of new shards in memory
_REPLACED_SECONDS = 3600  # processes, also of other hosts, may have mapped a segment that was replaced
_FIELDS = {"digests": DIGEST, "shards": np.dtype(np.int32), "rows": np.dtype(np.int32)}
_ENTRY_BYTES = sum(dtype.itemsize for dtype in _FIELDS.values())
_MOST_BYTES = 1 << 30  # of shards.json
_TRIES = 3


def index_folders(entries: Iterable[str]) -> frozenset[str]:
    """Return the names that have the form of a segment's name. `entries` are all names in a store's folder."""
    return frozenset(name for name in entries if name.startswith("index-"))


def read_kept_index(folder: Path, shards: Collection[str]) -> Index:
    """Return the kept index of the store in `folder`, limited to `shards`. The index may lack some or all of `shards`.

    Damaged segments of the index are ignored.
    """
    for _ in range(_TRIES):
        places = _current(folder)
        index = _chosen(folder, [segment for place in places if (segment := read_segment(place))], shards)
        if _current(folder) == places:  # else another process replaced some of them meanwhile
            break
    return index


def _current(folder: Path) -> list[Path]:
    """List the folders of the segments that are not marked as replaced."""
    places = [folder / place for place in sorted(index_folders(entries_of(folder)))]
    return [place for place in places if not (_is_folder(place) and (place / "replaced").exists())]


def _is_folder(place: Path) -> bool:
    """Return whether `place` is a folder itself, not a link to a folder.

    In a store from elsewhere, a link could lead anywhere.
    """
    try:
        return stat.S_ISDIR(place.lstat().st_mode)
    except OSError:
        return False


def remove_segment(place: Path) -> None:
    """Remove `place`, the folder of a segment. If `place` is a file or a link, remove the file or the link itself."""
    with suppress(FileNotFoundError):  # another process removed it
        if _is_folder(place):
            shutil.rmtree(place)
        else:
            place.unlink()


def _chosen(folder: Path, segments: Iterable[Segment], shards: Collection[str]) -> Index:
    """Return an index of the shards in `shards` that at least one segment holds.

    If several of `segments` hold a shard, the index uses the longest of these segments for the shard.
    """
    left, chosen = set(shards), []
    for segment in sorted(segments, key=lambda segment: -len(segment.entries.digests)):
        limited = segment.limited_to(left)
        if limited.in_use.any():
            chosen.append(limited)
            left.difference_update(limited.names)
    return Index(folder, chosen)


def keep_index(folder: Path, form: ShardFormat) -> None:
    """Bring the kept index of the store in `folder` up to date, if the store is large.

    New shards are added only if there are many. If another process is updating the index, or if the folder can't be
    written to, nothing is done. Memory use does not grow with the number of digests. Raises OSError if the disk is
    full. Raises StoreError if a shard is damaged, or if a segment does not fit its shards.
    """
    if not os.access(folder, os.W_OK):  # else shards would be read in vain
        return
    with suppress(BlockingIOError), folder_locked(folder, wait=False):
        names = in_use(entries_of(folder))
        segments = list(read_kept_index(folder, names).segments)
        new = sorted(set(names).difference(names_in_use(segments)[0]))
        if _are_many(folder, form, names, LARGE):
            if _are_many(folder, form, new, NEW):
                segments += [_kept(folder, [Segment.of(shards)]) for shards in _in_parts(folder, form, new)]
            segments.sort(key=lambda segment: -segment.size)
            long = _long_ones(segments)
            if len(long) < len(segments):
                segments = [*long, _kept(folder, [segment for segment in segments if segment not in long])]
        _remove_replaced(folder, {segment.source for segment in segments})


def _are_many(folder: Path, form: ShardFormat, names: Sequence[str], limit: int) -> bool:
    if len(names) >= limit:
        return True
    size = sum((folder / name).lstat().st_size for name in names)
    return size >= limit * _SHARD_DIGESTS * (form.image_bytes + DIGEST_BYTES)


def _in_parts(folder: Path, form: ShardFormat, names: Sequence[str]) -> Iterator[Mapping[str, np.ndarray]]:
    """Read the digests of the shards whose names are in `names`.

    Yields dicts from a shard's name to all digests of the shard. Each dict has about `_AT_ONCE` digests in total.
    """
    part: dict[str, np.ndarray] = {}
    with progress("indexing", len(names), "shards") as advance:
        for name in names:
            part[name] = read_digests(folder / name, form)
            advance(1)
            if sum(map(len, part.values())) >= _AT_ONCE:
                yield part
                part = {}
    if part:
        yield part


def _long_ones(segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments not to merge. `segments` must be sorted by `size`, the largest first."""
    # A worn segment, with at least half of its digests in shards that are not in use, is always merged.
    long = [one for one in segments if 2 * one.size > len(one.entries.digests)]
    others = sum(one.size for one in segments) - sum(one.size for one in long)
    for at in range(len(long)):
        shorter = others + sum(one.size for one in long[at + 1 :])
        if shorter and 2 * shorter >= long[at].size:
            return long[:at]
    return long


def _kept(folder: Path, segments: Sequence[Segment]) -> Segment:
    """Merge `segments` into a new segment on disk. Return the new segment."""
    names, lengths = names_in_use(segments)
    count = int(lengths.sum())
    require_space(folder, _ENTRY_BYTES * count)
    place = folder / f"index-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}"
    with folder_written_atomically(place, replace=True) as new:
        (new / "shards.json").write_text(json.dumps({"names": names, "lengths": lengths.tolist()}))
        with ExitStack() as opened:
            files = [opened.enter_context((new / f"{field}.npy").open("wb")) for field in _FIELDS]
            for file, dtype in zip(files, _FIELDS.values(), strict=True):
                described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
                np.lib.format.write_array_header_1_0(file, described)
            written = 0
            for entries in merged(segments):
                written += len(entries.digests)
                for file, values in zip(files, entries, strict=True):
                    file.write(values.data)
        if written != count:
            raise max(segments, key=lambda segment: segment.source is not None).lie()
    kept = read_segment(place)
    if kept is None:
        raise OSError(f"{place}: can't be read back")
    return kept


def _remove_replaced(folder: Path, current: Collection[Path | None]) -> None:
    for name in index_folders(entries_of(folder)):
        mark = folder / name / "replaced"
        with suppress(FileNotFoundError):  # another host removed it
            if not _is_folder(folder / name):
                continue
            if folder / name not in current and not os.path.lexists(mark):
                mark.touch()
            elif os.path.lexists(mark) and time.time() - mark.lstat().st_mtime > _REPLACED_SECONDS:
                shutil.rmtree(folder / name, ignore_errors=True)


class IndexCheck:
    """Compares the kept index of a store with the store's shards. `folder` is the folder of the store."""

    def __init__(self, folder: Path) -> None:
        self._segments = {place: read_segment(place) for place in _current(folder)}
        self._wrong: set[Path] = set()

    def compare(self, shard: str, digests: np.ndarray) -> None:
        """Compare the kept index with the shard whose name is `shard`; see `faults` for the result.

        `digests` are the digests in the shard, `DIGEST` [n].
        """
        for place, segment in self._segments.items():
            if segment and shard in segment.numbers and place not in self._wrong and not segment.agrees(shard, digests):
                self._wrong.add(place)

    def faults(self) -> dict[Path, str]:
        """Return the folders of the segments that can't be used, each with the reason.

        `compare` must have been called for each shard of the store.
        """
        found = {}
        for place, segment in self._segments.items():
            if segment is None:
                found[place] = "a damaged index, which is ignored"
            elif place in self._wrong or not _counts_fit(segment):
                found[place] = "an index that does not fit its shards"
        return found


def _counts_fit(segment: Segment) -> bool:
    try:
        return np.array_equal(segment.counts(), segment.lengths)
    except StoreError:
        return False


def read_segment(place: Path) -> Segment | None:
    """Map the segment in the folder `place` into memory. If the segment is damaged, return None.

    If `place` is a link to a folder, return None, too. Whether the entries are right is not checked.
    """
    if not _is_folder(place):
        return None
    try:
        content = read_json(place / "shards.json", _MOST_BYTES)
        names, lengths = content["names"], content["lengths"]
        entries = Entries(*(_mapped(place / f"{field}.npy", dtype) for field, dtype in _FIELDS.items()))
        named = all(isinstance(name, str) and SHARD_NAME.fullmatch(name) and "/" not in name for name in names)
        counted = all(type(length) is int and 0 < length < 1 << 31 for length in lengths)
        if not (named and counted) or not len(set(names)) == len(names) == len(lengths):
            return None
        if {len(values) for values in entries} != {sum(lengths)}:
            return None
    except Exception:  # NumPy's reader of headers raises almost anything
        return None
    return Segment(names, np.array(lengths, np.int64), np.ones(len(names), bool), entries, place)


def _mapped(file: Path, dtype: np.dtype[np.generic]) -> np.ndarray:
    """Map the array in `file` into memory. Raise a ValueError unless `file` holds an array [n] of `dtype`."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise ValueError("no regular file")
    values: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    if values.dtype != dtype or values.ndim != 1:
        raise ValueError("another array")
    return values.view(np.ndarray)
