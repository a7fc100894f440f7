"""Features by digest in a folder of immutable HDF5 shards. Knows HDF5 and nothing of images.

STORE/<backbone>-<cut>-<fingerprint>/
    fingerprint.json      everything that decides a feature's value
    shard-<sha256>.h5     `digest` uint8 [n, 32] and `features` float [n, ...]; never changed once it has its name
    features.h5           one HDF5 virtual dataset over all shards, for people
    retired.json          shards that others replaced: no longer used, and removed a generation later
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from features.errors import StoreError
from features.files import remove_left_over, write_atomically, write_json
from features.shards import (
    DIGEST,
    DIGEST_BYTES,
    ShardFormat,
    describe,
    hdf5_in_memory,
    hex_digests,
    raw_digests,
    read_digests,
    read_features,
    shard_content,
    shard_name,
)

FORMAT_VERSION = 1


class FeatureStore:
    """The features of one fingerprint.

    Args:
        root: the store's folder, shared by all fingerprints; made where it is missing.
        fingerprint: everything that decides a feature's value, as JSON knows it. Among it `backbone`, `cut`, `dtype`
            as stored, and `shape` of one image's features: `[D]`, or `[H, W, D]` for a map.

    Raises:
        StoreError: the folder can't be made or read.
    """

    def __init__(self, root: Path, fingerprint: Mapping[str, Any]) -> None:
        self.fingerprint = {"format_version": FORMAT_VERSION, **fingerprint}
        shape, dtype = tuple(self.fingerprint["shape"]), np.dtype(self.fingerprint["dtype"])
        self.form = ShardFormat(self.fingerprint, shape, dtype)
        text = json.dumps(self.fingerprint, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        cut = self.fingerprint["cut"].replace(":", "-")
        self.folder = root / f"{self.fingerprint['backbone']}-{cut}-{self.key[:12]}"
        self._digests: dict[Path, np.ndarray] = {}  # of each shard seen; shards never change
        self._index = _Index([], {})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_left_over(self.folder)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise StoreError(f"--store {root}: {error.strerror}: {self.folder}") from error
        if not (self.folder / "fingerprint.json").exists():
            write_json(self.folder / "fingerprint.json", self.fingerprint)

    @classmethod
    def open(cls, folder: Path) -> "FeatureStore":
        """The store that lies in `folder`, by its `fingerprint.json`.

        Raises:
            StoreError: there is none, or another one than the folder's name says.
        """
        try:
            fingerprint = json.loads((folder / "fingerprint.json").read_bytes())
            store = cls(folder.parent, fingerprint)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{folder}: no features of headstart's: fingerprint.json: {error}") from error
        if store.folder != folder:
            raise StoreError(f"{folder}: its fingerprint.json is that of {store.folder.name}")
        return store

    def shards(self) -> list[Path]:
        """The finished shards in use, by name."""
        retired = self._retired()
        return sorted(path for path in self.folder.glob("shard-*.h5") if path.name not in retired)

    def digests(self) -> list[str]:
        """Every digest that has features."""
        return hex_digests(self._refreshed().digests)

    def missing(self, digests: Collection[str]) -> list[str]:
        """Those of `digests` (hexadecimal SHA-256) that have no features yet, in their order, each once."""
        asked = list(dict.fromkeys(digests))
        _, _, found = self._refreshed().find(raw_digests(asked))
        return [asked[position] for position in np.flatnonzero(~found)]

    def write_shard(self, digests: Sequence[str], features: np.ndarray) -> Path:
        """Write features [n, *shape], n >= 1, as one shard, in full or not at all.

        Raises:
            StoreError: a value is not finite, also after the cast to the stored dtype.
            ValueError: the shapes don't fit.
        """
        if features.shape != (len(digests), *self.form.shape) or not len(digests):
            raise ValueError(f"expected features {[len(digests), *self.form.shape]}. Received: {features.shape}")
        with np.errstate(over="ignore"):
            stored = features.astype(self.form.dtype)
        finite = np.isfinite(stored).all(axis=tuple(range(1, stored.ndim)))
        if not finite.all():
            raise StoreError(
                f"features of {(~finite).sum()} images are not finite as {self.form.dtype}, "
                f"{digests[int(finite.argmin())]} the first: check --weights and --rescale, or use --precision float32"
            )
        content = shard_content(self.form, raw_digests(digests), stored)
        target = self.folder / shard_name(content)
        write_atomically(target, content)
        if target.name in self._retired():
            self._write_retired(self._retired() - {target.name})
        return target

    def retire(self, shards: Collection[Path]) -> None:
        """Take `shards` out of use. Their files stay, for readers that know them, until `remove_retired`."""
        self._write_retired(self._retired() | {shard.name for shard in shards})
        self.write_view()

    def remove_retired(self) -> None:
        """Remove the files of retired shards."""
        retired = self._retired()
        if retired:
            self.write_view()  # a kill may have come between the list and the view
            for name in retired:
                (self.folder / name).unlink(missing_ok=True)
            self._write_retired(set())

    def _retired(self) -> set[str]:
        path = self.folder / "retired.json"
        return set(json.loads(path.read_bytes())) if path.exists() else set()

    def _write_retired(self, names: Collection[str]) -> None:
        write_json(self.folder / "retired.json", sorted(names))

    def read(self, digests: Sequence[str]) -> np.ndarray:
        """The features [N, *shape] of `digests`, in their order, in the stored dtype.

        Raises:
            StoreError: a digest has no features, or a shard is damaged.
        """
        index = self._refreshed()
        shards, rows, found = index.find(raw_digests(digests))
        if not found.all():
            raise StoreError(f"{self.folder}: no features of {digests[int(found.argmin())]}; run `headstart features`")
        features = np.empty((len(digests), *self.form.shape), self.form.dtype)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            first, last = rows[here].min(), rows[here].max()
            slab = read_features(index.shards[shard], self.form, int(first), int(last) + 1)
            features[here] = slab[rows[here] - first]
        return features

    def write_view(self) -> Path:
        """Write `features.h5`, a virtual dataset over all shards; NaN shows where a shard went missing."""
        target = self.folder / "features.h5"
        index = self._refreshed()
        counts = [len(self._digests[shard]) for shard in index.shards]
        layout = h5py.VirtualLayout((sum(counts), *self.form.shape), self.form.dtype)
        start = 0
        for shard, count in zip(index.shards, counts, strict=True):
            layout[start : start + count] = h5py.VirtualSource(shard.name, "features", (count, *self.form.shape))
            start += count
        with hdf5_in_memory() as (buffer, file):
            file.create_virtual_dataset("features", layout, fillvalue=np.nan)
            digests = [digest for shard in index.shards for digest in hex_digests(self._digests[shard])]
            file["digest"] = np.array(digests, f"S{2 * DIGEST_BYTES}")
            describe(file, self.fingerprint)
        write_atomically(target, buffer.getvalue())
        return target

    def _refreshed(self) -> "_Index":
        """Where every digest is. Other processes write too, so the folder is looked at anew each time."""
        shards = self.shards()
        if shards != self._index.shards:
            self._digests = {
                shard: self._digests[shard] if shard in self._digests else read_digests(shard, self.form)
                for shard in shards
            }
            self._index = _Index(shards, self._digests)
        return self._index


class _Index:
    """Sorted digests of all shards, each with its place: 40 bytes an image and a binary search."""

    def __init__(self, shards: list[Path], digests: Mapping[Path, np.ndarray]) -> None:
        self.shards = shards
        each = [digests[shard] for shard in shards]
        every = np.concatenate([np.empty(0, DIGEST), *each])
        order = np.argsort(every, kind="stable")
        self.digests = every[order]
        self._shard = np.repeat(np.arange(len(each)), [len(part) for part in each])[order].astype(np.int32)
        self._row = np.concatenate([np.empty(0, np.int32), *(np.arange(len(part)) for part in each)])[order]

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each of `digests` (`DIGEST` [N]) the number of its shard, its row there, and whether it was found."""
        if not len(self.digests):
            return (
                np.zeros((2, len(digests)), np.int32)[0],
                np.zeros(len(digests), np.int32),
                np.zeros(len(digests), bool),
            )
        places = np.searchsorted(self.digests, digests).clip(max=len(self.digests) - 1)
        return self._shard[places], self._row[places], self.digests[places] == digests
