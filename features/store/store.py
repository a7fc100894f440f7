"""Features by digest in a folder of immutable HDF5 shards. Knows HDF5 and nothing of images.

STORE/<backbone>-<cut>-<fingerprint>/
    fingerprint.json      everything that decides a feature's value
    shard-<sha256>.h5     `digest` uint8 [n, 32] and `features` float [n, ...]; never changed once it has its name
    features.h5           one HDF5 virtual dataset over all shards, for people
    shard-<sha256>.h5.retired   says that others replaced that shard: no longer used, and removed a generation later
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import StoreError
from headstart.features.files import remove_left_over, write_atomically, write_json
from headstart.features.store import retired
from headstart.features.store.index import Index
from headstart.features.store.merged import shown_shards, write_view
from headstart.features.store.shards import (
    ShardFormat,
    hex_digests,
    raw_digests,
    read_digests,
    read_features,
    shard_content,
    shard_name,
)

FORMAT_VERSION = 1
SLAB_BYTES = 64 << 20
_LONGEST_DESCRIPTION = 1 << 20  # bytes


def create_folder(folder: Path) -> None:
    """Make a folder of a store if it is missing, and clear it of what killed processes left half written.

    Raises:
        StoreError: it can't be made or read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_left_over(folder)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        why = "not a folder" if folder.exists() and not folder.is_dir() else error.strerror
        raise StoreError(f"--store {folder}: {why}") from error


class FeatureStore:
    """The features of one fingerprint.

    Args:
        root: the store's folder, shared by all fingerprints. Nothing is made there before `create`.
        fingerprint: everything that decides a feature's value, as JSON knows it. Among it `backbone`, `cut`, `dtype`
            as stored, and `shape` of one image's features: `[D]`, or `[H, W, D]` for a map.
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
        self._index = Index([], {})

    def create(self) -> "FeatureStore":
        """Make the folder as `create_folder` does, and describe it."""
        create_folder(self.folder)
        if not self._description.exists():
            write_json(self._description, self.fingerprint)
        return self

    @property
    def _description(self) -> Path:
        return self.folder / "fingerprint.json"

    @classmethod
    def open(cls, folder: Path) -> "FeatureStore":
        """The store that lies in `folder`, by its `fingerprint.json`.

        Raises:
            StoreError: there is none, or another one than the folder's name says.
        """
        try:
            fingerprint = _read_description(folder / "fingerprint.json")
            store = cls(folder.parent, fingerprint)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SyntaxError) as error:
            raise StoreError(f"{folder}: no features of headstart's: fingerprint.json: {error}") from error
        if store.folder != folder:
            raise StoreError(f"{folder}: its fingerprint.json is that of {store.folder.name}")
        return store

    def shards(self) -> list[Path]:
        """The finished shards in use, by name."""
        return retired.shards_in_use(self.folder)

    def count(self) -> int:
        """How many digests have features."""
        digests = self._refreshed().digests
        return int((digests[1:] != digests[:-1]).sum()) + bool(len(digests))

    def digests(self) -> list[str]:
        """Every digest that has features."""
        return hex_digests(self._refreshed().digests)

    def missing(self, digests: Collection[str]) -> list[str]:
        """Those of `digests` (hexadecimal SHA-256) that have no features yet, in their order, each once."""
        asked = list(dict.fromkeys(digests))
        found = self._refreshed().find(raw_digests(asked))
        return [asked[position] for position in np.flatnonzero(~found)]

    def write_shard(self, digests: Sequence[str], features: np.ndarray) -> Path:
        """Write features [n, *shape], n >= 1, as one shard, in full or not at all.

        Raises:
            StoreError: a value is not finite, also after the cast to the stored dtype; or the folder is gone.
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
        if not self._description.exists():  # a share that went away; what is written now would lie below its mount
            raise StoreError(f"{self.folder}: the store is gone")
        target = self.folder / shard_name(content)
        while True:
            write_atomically(target, content)
            if retired.put_in_use(target):
                return target

    def retire(self, shards: Collection[Path]) -> None:
        """Take `shards` out of use. Their files stay, for readers that know them, until `remove_retired`."""
        retired.retire(shards, self.folder)
        self.write_view()

    def remove_retired(self) -> None:
        """Remove the files of retired shards."""
        if retired.has_retired(self.folder):
            self.write_view()  # a kill may have come between retiring and the view
            retired.remove_retired(self.folder)

    def read(self, digests: Sequence[str]) -> np.ndarray:
        """The features [N, *shape] of `digests`, in their order, in the stored dtype.

        Raises:
            StoreError: a digest has no features, or a shard is damaged.
        """
        features = np.empty((len(digests), *self.form.shape), self.form.dtype)
        for positions, rows in self.stream(digests):
            features[positions] = rows
        return features

    def stream(
        self, digests: Sequence[str], shuffled: np.random.Generator | None = None, slab_bytes: int = SLAB_BYTES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The features of `digests` as they lie on disk, a slab of a shard at a time.

        Args:
            shuffled: draws the order of shards, and of slabs within them; None keeps that of their names.
            slab_bytes: of features that are in memory at a time.

        Yields:
            int64 [n] positions in `digests`, and their features [n, *shape] in the stored dtype.

        Raises:
            StoreError: as `read`.
        """
        digests = list(digests)
        raw, slab = raw_digests(digests), max(1, slab_bytes // self.form.image_bytes)
        waiting = np.arange(len(digests))
        while len(waiting):
            # A shard that was compacted away since the folder was listed is found elsewhere: the list is made anew.
            index = self._refreshed()
            found = index.find(raw[waiting])
            if not found.all():
                lacking = digests[waiting[int(found.argmin())]]
                raise StoreError(f"{self.folder}: no features of {lacking}; run `headstart features`")
            done = np.zeros(len(waiting), bool)
            for piece in index.slabs(raw[waiting], slab, shuffled):
                try:
                    features = read_features(piece.shard, self.form, piece.first, piece.last + 1)
                except FileNotFoundError:
                    self._digests, self._index = {}, Index([], {})
                    break
                done[piece.positions] = True
                yield waiting[piece.positions], features[piece.rows - piece.first]
            waiting = waiting[~done]

    def shard_of(self, digest: str) -> Path:
        """The shard that holds the features of `digest`, which must be there."""
        (slab,) = self._refreshed().slabs(raw_digests([digest]), 1)
        return slab.shard

    def write_view(self) -> Path:
        """Write `features.h5`, a virtual dataset over all shards; NaN shows where a shard went missing."""
        while True:  # until no one changed the shards meanwhile: the last to write may have been the first to look
            index = self._refreshed()
            write_view(self._view, self.form, {shard: self._digests[shard] for shard in index.shards})
            if self.shards() == index.shards:
                return self._view

    def update_view(self) -> None:
        """Write `features.h5` if it does not show the shards in use: a kill may have come before it was written."""
        shards = [shard.name for shard in self.shards()]
        if (shards or self._view.exists()) and shown_shards(self._view) != shards:
            self.write_view()

    def view_fault(self) -> str | None:
        """Why `features.h5` shows something else than features; None for nothing, also where it lacks new shards."""
        shown = shown_shards(self._view)
        if not shown and self._view.exists() and self.shards():
            return "it is no view of the shards"
        gone = [name for name in shown if not (self.folder / name).exists()]
        return f"it shows NaN for {len(gone)} shards that are gone, {gone[0]} the first" if gone else None

    @property
    def _view(self) -> Path:
        return self.folder / "features.h5"

    def _refreshed(self) -> Index:
        """Where every digest is. Other processes write too, so the folder is looked at anew each time."""
        shards = self.shards()
        while shards != self._index.shards:
            known = self._digests
            try:
                self._digests = {
                    shard: known[shard] if shard in known else read_digests(shard, self.form) for shard in shards
                }
                self._index = Index(shards, self._digests)
            except FileNotFoundError as error:  # compacted away since it was listed
                listed, shards = shards, self.shards()
                if shards == listed:
                    raise StoreError(f"{error.filename}: a shard that is listed and can't be opened") from error
        return self._index


def _read_description(path: Path) -> Any:
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        return json.loads(file.read(_LONGEST_DESCRIPTION))
