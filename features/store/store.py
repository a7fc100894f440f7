"""The feature store: features by digest, in a folder of immutable HDF5 shards. This module knows nothing of images.

STORE/<backbone>-<cut>-<fingerprint>/
    fingerprint.json            everything that decides a feature's value
    shard-<hash>.h5             `digest` uint8 [n, 32] and `features` float [n, ...]; never changed once named
    claims/                     the portions of the images that processes extract now; see `claims`
    index-<hash>/               a segment of the index of a store of many shards; see `kept_index`
    shard-<hash>.h5.retired     marks a shard that is out of use; the next clean-up removes both files
    features.h5                 the merged file for people; see `merged`
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from headstart.features.digests import hex_digests, raw_digests
from headstart.features.errors import StoreError
from headstart.features.files import NOT_WRITABLE, remove_left_over, write_atomically, write_json
from headstart.features.store import retired
from headstart.features.store.claims import remove_void_claims
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.index import Index
from headstart.features.store.kept_index import index_folders, keep_index, read_kept_index
from headstart.features.store.merged import MOST_SHARDS, largest_shards, merged_shards, write_merged
from headstart.features.store.shards import ShardFormat, read_digests, shard_content, shard_name
from headstart.features.terminal import console

SLAB_BYTES = 64 << 20
_LONGEST_DESCRIPTION = 1 << 20  # bytes
_MERGES = 3
_AT_A_TIME = 1 << 16  # digests that are looked up


def create_folder(folder: Path, root: Path | None = None) -> None:
    """Make the folder of a store if it is missing. Remove half-written files of killed processes from the folder.

    `root` is the value of `--store`, and is used only in an error message. If `root` is None, the message names
    `folder`. Raises StoreError if `folder` can't be made or written to.
    """
    try:
        with writable(root or folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_left_over(folder)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        why = "not a folder" if folder.exists() and not folder.is_dir() else error.strerror
        raise StoreError(f"--store {folder}: {why}") from error


@contextmanager
def writable(root: Path) -> Iterator[None]:
    """If writing is forbidden, turn the OSError that ends the context into a StoreError that names `root`."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise StoreError(
            f"--store {root}: can't be written to ({error.strerror}); make it writable, or name another folder"
        ) from error


class FeatureStore:
    """The features of one fingerprint, in their own folder below `root`. Only `create` makes this folder."""

    def __init__(self, root: Path, fingerprint: Fingerprint) -> None:
        self.fingerprint = fingerprint
        self.form = ShardFormat(fingerprint.to_json(), fingerprint.shape, np.dtype(fingerprint.dtype))
        self.key = fingerprint.key
        self.root, self.folder = root, root / fingerprint.folder_name
        self.merged = self.folder / "features.h5"
        self._description = self.folder / "fingerprint.json"
        self._forget()

    def create(self) -> "FeatureStore":
        """Make the folder and its `fingerprint.json` if they are missing. Return the store itself.

        If the store is large, `keep_index` brings its index on disk up to date. For errors, see `create_folder`.
        """
        create_folder(self.folder, self.root)
        remove_void_claims(self.folder)
        with writable(self.root):
            if not self._description.exists():
                write_json(self._description, self.fingerprint.to_json())
        self.keep_index()
        return self

    @classmethod
    def open(cls, folder: Path) -> "FeatureStore":
        """Open the store in `folder`.

        Raises StoreError if `fingerprint.json` is missing or damaged, or belongs to another folder.
        """
        path = folder / "fingerprint.json"
        try:
            if not path.is_file():  # opening a pipe would wait for ever
                raise ValueError("it is no regular file")
            with path.open("rb") as file:
                store = cls(folder.parent, Fingerprint.from_json(json.loads(file.read(_LONGEST_DESCRIPTION))))
        except (OSError, ValueError, TypeError, RecursionError, SyntaxError) as error:
            raise StoreError(f"{folder}: no features of headstart's: fingerprint.json: {error}") from error
        if store.folder != folder:
            raise StoreError(f"{folder}: its fingerprint.json belongs to {store.folder.name}")
        return store

    def shards(self) -> list[Path]:
        """List the finished shards in use, sorted by name."""
        return [self.folder / name for name in retired.in_use(retired.entries_of(self.folder))]

    def count(self) -> int:
        """Count the digests that have features."""
        return self._refreshed().count()

    def digests(self) -> list[str]:
        """List the digests that have features, in hexadecimal. A digest in several shards is listed several times."""
        return hex_digests(self._refreshed().digests())

    def missing(self, digests: Collection[str]) -> list[str]:
        """Return those of `digests` (hexadecimal) that have no features yet, each once, in the given order."""
        asked = list(dict.fromkeys(digests))
        return [asked[position] for position in np.flatnonzero(self.lacking(raw_digests(asked)))]

    def lacking(self, digests: np.ndarray, listed: bool = True) -> np.ndarray:
        """Return bool [N]: whether each digest has no features yet. `digests` is an array [N] of dtype `DIGEST`.

        If `listed` is true, the folder of the store is first listed again. If `listed` is false, digests whose features
        were written after the last listing count as digests without features.
        """
        index, lacking = self._refreshed() if listed else self._index, np.empty(len(digests), bool)
        for start in range(0, len(digests), _AT_A_TIME):  # a comparison copies what is compared
            piece = slice(start, start + _AT_A_TIME)
            lacking[piece] = ~index.find(digests[piece])
        return lacking

    def write_shard(self, digests: Sequence[str], features: np.ndarray) -> Path:
        """Write digests and features as one shard, atomically. Return the path of the shard.

        `digests` are n >= 1 hexadecimal digests. Features are [n, *shape], and are cast to the stored dtype. Raises
        ValueError if n is 0 or the features have a wrong shape. Raises StoreError in three cases: a value is not finite
        after the cast, the store is gone, or the store is read-only.
        """
        if features.shape != (len(digests), *self.form.shape) or not len(digests):
            raise ValueError(f"expected features {[len(digests), *self.form.shape]}. Received: {features.shape}")
        with np.errstate(over="ignore"):
            stored = features.astype(self.form.dtype, copy=False)
        finite = np.isfinite(stored).all(axis=tuple(range(1, stored.ndim)))
        if not finite.all():
            raise StoreError(
                f"features of {(~finite).sum()} images are not finite as {self.form.dtype}, "
                f"{digests[int(finite.argmin())]} the first: check --weights and --rescale, or use --precision float32"
            )
        content = shard_content(self.form, raw_digests(digests), stored)
        if not self._description.exists():  # a network share was unmounted: the file would go to another disk
            raise StoreError(f"{self.folder}: the store is gone")
        target = self.folder / shard_name(content)
        with writable(self.root):
            while True:
                write_atomically(target, content)
                if retired.put_in_use(target):
                    return target

    def retire(self, shards: Collection[Path], merge: bool = True) -> None:
        """Take `shards` out of use. Their files stay, for current readers, until `remove_retired` is called.

        If `merge` is true, write the merged file again. If `merge` is false, the caller must call `write_merged` later.
        """
        with writable(self.root):
            retired.retire(shards, self.folder)
            if merge:
                self.write_merged()

    def remove_retired(self) -> None:
        """Remove the files of retired shards."""
        if retired.has_retired(self.folder):
            with writable(self.root):
                self.write_merged()  # a process may have been killed after it retired shards
                retired.remove_retired(self.folder)

    def read(self, digests: Sequence[str] | np.ndarray) -> np.ndarray:
        """Read the features of `digests` in the order given, [N, *shape] in the stored dtype. Errors: see `stream`.

        Digests are hexadecimal, or an array of dtype `DIGEST`.
        """
        features = np.empty((len(digests), *self.form.shape), self.form.dtype)
        for positions, rows in self.stream(digests):
            features[positions] = rows
        return features

    def stream(
        self,
        digests: Sequence[str] | np.ndarray,
        shuffled: np.random.Generator | None = None,
        slab_bytes: int = SLAB_BYTES,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the features of `digests` in the order on disk, at most `slab_bytes` of one shard at a time.

        Each item is a pair of arrays. The first array, int64 [n], holds positions in `digests`. The second array,
        [n, *shape] in the stored dtype, holds the features of the digests at these positions. For `shuffled`, see
        `Index.slabs`. Raises StoreError if a digest has no features, or if a shard is damaged.
        """
        raw, slab = raw_digests(digests), max(1, slab_bytes // self.form.image_bytes)
        waiting = np.arange(len(raw))
        while len(waiting):
            # List the folder in each round: `compact` may have moved features to another shard.
            index = self._refreshed()
            found = index.find(raw[waiting])
            if not found.all():
                (lacking,) = hex_digests(raw[waiting[[int(found.argmin())]]])
                raise StoreError(f"{self.folder}: no features of {lacking}; run `headstart features`")
            done = np.zeros(len(waiting), bool)
            for piece in index.slabs(raw[waiting], slab, shuffled):
                try:
                    features = piece.read(self.form)
                except FileNotFoundError:
                    self._forget()
                    break
                done[piece.positions] = True
                yield waiting[piece.positions], features
            waiting = waiting[~done]

    def shard_of(self, digest: str) -> Path:
        """Return the shard that holds the features of `digest`. The digest must have features."""
        (slab,) = self._refreshed().slabs(raw_digests([digest]), 1)
        return slab.shard

    def write_merged(self) -> None:
        """Write the merged file. If the file can't show all shards, print a message."""
        for _ in range(_MERGES):  # another process that changes the shards may have overwritten a newer file
            index = self._refreshed()
            try:
                shards = [self.folder / name for name in largest_shards(index.shards)]
                shown = {shard: read_digests(shard, self.form) for shard in shards}
            except FileNotFoundError:
                self._forget()
                continue
            left_out = len(index) - sum(map(len, shown.values()))
            write_merged(self.merged, self.form, shown, left_out)
            if [shard.name for shard in shown] == largest_shards(self._refreshed().shards):
                break
        else:  # the process that fills the store now writes the file in the end
            return
        if left_out:
            console.print(
                f"{self.merged}: it shows {len(index) - left_out} of {len(index)} features, because "
                f"HDF5 keeps every shard open: `headstart store compact {self.folder.parent}` makes fewer and larger "
                "shards, `headstart store export` writes all features into one file"
            )

    def update_merged(self) -> None:
        """Update the merged file, and call `keep_index`. If the merged file can't be written, print a message."""
        shards = largest_shards(self._refreshed().shards)
        if (shards or self.merged.exists()) and merged_shards(self.merged) != shards:
            try:
                self.write_merged()
            except OSError as error:
                if error.errno not in NOT_WRITABLE:
                    raise
                console.print(f"{self.merged}: not up to date, and can't be written ({error.strerror})")
        self.keep_index()

    def keep_index(self) -> None:
        """Bring the kept index up to date if the store is large. Other threads can use the store during the update."""
        with suppress(OSError):  # without it, opening the store takes longer
            keep_index(self.folder, self.form)

    def merged_fault(self) -> str | None:
        """Return the reason why the merged file can't be trusted. Return None if the file is good or does not exist."""
        shown = merged_shards(self.merged)
        if not shown and self.merged.exists() and self.shards():
            return "it is not a merged file of the shards"
        gone = [name for name in shown if not (self.folder / name).exists()]
        if gone:
            return f"it shows NaN for {len(gone)} shards that are gone, {gone[0]} the first"
        if len(shown) > MOST_SHARDS:
            return f"it may show NaN: it shows {len(shown)} shards, more than a process may be allowed to open"
        return None

    def _forget(self) -> None:
        self._index, self._kept = Index(self.folder), frozenset[str]()

    def _refreshed(self) -> Index:
        """Return the index of the shards on disk, including those that other processes have written."""
        entries = retired.entries_of(self.folder)
        while True:
            names, kept = retired.in_use(entries), index_folders(entries)
            if kept != self._kept:
                self._index, self._kept = read_kept_index(self.folder, names), kept
            index = self._index.without_shards(self._index.shards.keys() - set(names))
            try:
                new = (name for name in names if name not in index.shards)
                self._index = index.with_shards({name: read_digests(self.folder / name, self.form) for name in new})
                return self._index
            except FileNotFoundError as error:  # another process removed it after it was listed
                entries = retired.entries_of(self.folder)
                if retired.in_use(entries) == names:
                    raise StoreError(f"{error.filename}: a shard that is listed and can't be opened") from error
