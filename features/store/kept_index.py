"""The index of a large store on disk. It is mapped into memory, so opening the store reads only what is new.

STORE/<backbone>-<cut>-<fingerprint>/index-<hash of the names>/
    shards.json                             the name and the number of digests of each shard
    digests.npy, shards.npy, rows.npy       the fields of one `Segment`
"""

import hashlib
import json
import shutil
import stat
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
from headstart.features.digests import DIGEST
from headstart.features.files import folder_written_atomically, read_json
from headstart.features.store.index import Index, Segment
from headstart.features.store.shards import SHARD_NAME

LARGE = 500  # shards from which an index is kept
_STALE = 0.1  # an index that lacks a larger fraction of the digests than this is written anew
_REPLACED_SECONDS = 24 * 3600  # processes, also of other hosts, may have mapped an index that was replaced
_FIELDS = {"digests": DIGEST, "shards": np.dtype(np.int32), "rows": np.dtype(np.int32)}
_MOST_BYTES = 1 << 30  # of shards.json


def read_kept_index(folder: Path, shards: Collection[Path]) -> Index:
    """Of the indexes that a store keeps, return the one with the most digests of `shards`. Without any, it is empty.

    The store may come from elsewhere. A damaged index is ignored, as the shards hold the same digests.
    """
    listed = set(shards)
    found = [index for place in folder.glob("index-*") if (index := _read(place))]
    return max(found, key=lambda index: _known(index, listed), default=Index())


def keep_index(folder: Path, index: Index) -> None:
    """Keep `index` in the folder of a store.

    Nothing is written if it has few shards, or if a kept index has nearly all of its digests.
    """
    listed = set(index.shards)
    if len(listed) < LARGE or _known(read_kept_index(folder, listed), listed) >= (1 - _STALE) * len(index):
        return
    names = [shard.name for shard in index.shards]
    place = folder / f"index-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}"
    with folder_written_atomically(place, replace=True) as new:
        content = {"names": names, "lengths": list(index.lengths)}
        (new / "shards.json").write_text(json.dumps(content))
        for field, values in vars(index.as_one_segment()).items():
            np.save(new / f"{field}.npy", values)
    for other in folder.glob("index-*"):
        replaced = other / "replaced"  # since when
        if other != place and not replaced.exists():
            replaced.touch()
        elif other != place and time.time() - replaced.stat().st_mtime > _REPLACED_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def _known(index: Index, shards: Collection[Path]) -> int:
    """Return how many digests `index` has of those `shards` that it knows."""
    return sum(length for shard, length in zip(index.shards, index.lengths, strict=True) if shard in shards)


def _read(place: Path) -> Index | None:
    try:
        content = read_json(place / "shards.json", _MOST_BYTES)
        names, lengths = content["names"], content["lengths"]
        segment = Segment(*(_mapped(place / f"{field}.npy", dtype) for field, dtype in _FIELDS.items()))
        named = all(isinstance(name, str) and SHARD_NAME.fullmatch(name) and "/" not in name for name in names)
        counted = all(type(length) is int and length > 0 for length in lengths)
        if not (named and counted) or not len(set(names)) == len(names) == len(lengths):
            return None
        if {len(values) for values in vars(segment).values()} != {sum(lengths)}:
            return None
        if segment.shards.max() >= len(names) or min(segment.shards.min(), segment.rows.min()) < 0:
            return None
    except Exception:  # NumPy's reader of headers raises almost anything
        return None
    return Index([place.parent / name for name in names], lengths, [segment])


def _mapped(file: Path, dtype: np.dtype[np.generic]) -> np.ndarray:
    """Map an array [n] of `dtype` into memory. Another file raises a ValueError."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise ValueError("no regular file")
    values: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    if values.dtype != dtype or values.ndim != 1:
        raise ValueError("another array")
    return values
