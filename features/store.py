"""Features by digest in a folder of immutable HDF5 shards. Knows HDF5 and nothing of images.

STORE/<backbone>-<cut>-<fingerprint>/
    fingerprint.json      everything that decides a feature's value
    shard-<sha256>.h5     `digest` uint8 [n, 32] and `features` float [n, D]; never changed once it has its name
    features.h5           one HDF5 virtual dataset over all shards, for people
"""

import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from features.errors import StoreError
from features.files import flush_to_disk, write_atomically, write_json

FORMAT_VERSION = 1
_DIGEST_BYTES = 32


class FeatureStore:
    """The features of one fingerprint.

    Args:
        root: the store's folder, shared by all fingerprints; made where it is missing.
        fingerprint: everything that decides a feature's value; `backbone`, `cut` and `dtype` among it.
        dimension: D, the length of one feature vector.

    Raises:
        StoreError: the folder can't be made or read.
    """

    def __init__(self, root: Path, fingerprint: Mapping[str, Any], dimension: int) -> None:
        self.fingerprint = {"format_version": FORMAT_VERSION, **fingerprint}
        self.dimension = dimension
        self.dtype = np.dtype(self.fingerprint["dtype"])
        text = json.dumps(self.fingerprint, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.folder = root / f"{self.fingerprint['backbone']}-{self.fingerprint['cut']}-{self.key[:12]}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise StoreError(f"--store {root}: {error.strerror}: {self.folder}") from error
        if not (self.folder / "fingerprint.json").exists():
            write_json(self.folder / "fingerprint.json", self.fingerprint)

    def shards(self) -> list[Path]:
        """The finished shards, by name."""
        return sorted(self.folder.glob("shard-*.h5"))

    def missing(self, digests: Collection[str]) -> list[str]:
        """Those of `digests` (hexadecimal SHA-256) that have no features yet, in their order, each once."""
        rows = self._rows()
        return [digest for digest in dict.fromkeys(digests) if digest not in rows]

    def write_shard(self, digests: Sequence[str], features: np.ndarray) -> Path:
        """Write features [n, D], n >= 1, as one shard, in full or not at all.

        Raises:
            StoreError: a value is not finite, also after the cast to the stored dtype.
            ValueError: the shapes don't fit.
        """
        if features.shape != (len(digests), self.dimension) or not len(digests):
            raise ValueError(f"expected features [{len(digests)}, {self.dimension}]. Received: {features.shape}")
        with np.errstate(over="ignore"):
            stored = features.astype(self.dtype)
        finite = np.isfinite(stored).all(axis=1)
        if not finite.all():
            raise StoreError(
                f"features of {(~finite).sum()} images are not finite as {self.dtype}, {digests[int(finite.argmin())]} "
                "the first: check --weights and --rescale, or use --precision float32"
            )
        content = self._shard(digests, stored)
        target = self.folder / f"shard-{hashlib.sha256(content).hexdigest()[:16]}.h5"
        partial = self.folder / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.partial"
        try:
            partial.write_bytes(content)
            flush_to_disk(partial)
            os.replace(partial, target)
            flush_to_disk(self.folder)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def read(self, digests: Sequence[str]) -> np.ndarray:
        """The features [N, D] of `digests`, in their order, in the stored dtype.

        Raises:
            StoreError: a digest has no features, or a shard is damaged.
        """
        rows = self._rows()
        wanted: dict[Path, list[tuple[int, int]]] = {}  # shard to (position in `digests`, row in the shard)
        for position, digest in enumerate(digests):
            if digest not in rows:
                raise StoreError(f"{self.folder}: no features of {digest}; run `headstart features`")
            shard, row = rows[digest]
            wanted.setdefault(shard, []).append((position, row))
        features = np.empty((len(digests), self.dimension), self.dtype)
        for shard, places in wanted.items():
            with _opened(shard) as file:
                features[[position for position, _ in places]] = file["features"][:][[row for _, row in places]]
        return features

    def write_view(self) -> Path:
        """Write `features.h5`, a virtual dataset over all shards; NaN shows where a shard went missing."""
        target = self.folder / "features.h5"
        shards = self.shards()
        counts = [len(digests) for digests in map(_read_digests, shards)]
        layout = h5py.VirtualLayout((sum(counts), self.dimension), self.dtype)
        start = 0
        for shard, count in zip(shards, counts, strict=True):
            layout[start : start + count] = h5py.VirtualSource(shard.name, "features", (count, self.dimension))
            start += count
        with _hdf5_in_memory() as (buffer, file):
            file.create_virtual_dataset("features", layout, fillvalue=np.nan)
            digests = [digest for shard in shards for digest in _read_digests(shard)]
            file["digest"] = np.array(digests, f"S{2 * _DIGEST_BYTES}")
            self._describe(file)
        write_atomically(target, buffer.getvalue())
        return target

    def _rows(self) -> dict[str, tuple[Path, int]]:
        """Digest to its shard and the row in it, read anew, since other processes write too."""
        return {digest: (shard, row) for shard in self.shards() for row, digest in enumerate(_read_digests(shard))}

    def _shard(self, digests: Sequence[str], stored: np.ndarray) -> bytes:
        # The latest format checksums its metadata, fletcher32 the data, and attributes of fixed length lie within the
        # former: no flipped byte goes unseen.
        with _hdf5_in_memory() as (buffer, file):
            raw = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, _DIGEST_BYTES)
            file.create_dataset("digest", data=raw, chunks=raw.shape, fletcher32=True)
            rows = max(1, min(len(stored), (1 << 20) // stored[0].nbytes))
            file.create_dataset("features", data=stored, chunks=(rows, self.dimension), fletcher32=True)
            self._describe(file)
        return buffer.getvalue()

    def _describe(self, file: h5py.File) -> None:
        for field, value in self.fingerprint.items():
            file.attrs[field] = np.bytes_(json.dumps(value).encode())


@contextmanager
def _hdf5_in_memory() -> Iterator[tuple[io.BytesIO, Any]]:
    """A new HDF5 file that Python writes to disk afterwards: on a full disk, HDF5 itself can crash the process."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest") as file:
        yield buffer, file


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError) as error:
        raise StoreError(f"{path}: damaged shard ({error}); delete it, and its images are done again") from error


def _read_digests(path: Path) -> list[str]:
    with _opened(path) as file:
        text = file["digest"][:].tobytes().hex()
    width = 2 * _DIGEST_BYTES
    return [text[start : start + width] for start in range(0, len(text), width)]
