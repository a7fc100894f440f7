"""Collect the features that forward passes compute at several cuts. Write them as shards, to one store per cut."""

import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from headstart.features.digests import DIGEST_BYTES, hex_digests, raw_digests
from headstart.features.store.claims import KNOWN_SECONDS
from headstart.features.store.store import FeatureStore, writable

Key = TypeVar("Key", bound=Hashable)
Taken = tuple[FeatureStore, list[str], list[np.ndarray]]  # a store, the digests collected for it, and their features

SHARD_IMAGES, SHARD_SECONDS = 1024, 30.0
MANY_IMAGES, LARGER_SHARD_IMAGES = 10_000_000, 8192  # if more images than these lack features, shards are larger
SHARD_BYTES = 256 << 20  # large maps reach this before SHARD_IMAGES
_SHARD_OVERHEAD = 1 << 16
_SHARDS_OF_SHARED = 256  # of a set that processes share: a kill loses about a shard, if the disk keeps up
_KEEP_EVERY = 64  # shards of this process, after which the kept index is brought up to date
_SHARE = 0.05  # the largest share of the time that may be spent on listing folders


def shard_size(images: int) -> int:
    """Return the number of images in a full shard. `images` is the number of images that lack features."""
    return LARGER_SHARD_IMAGES if images > MANY_IMAGES else SHARD_IMAGES


def small_shard_size(images: int) -> int:
    """Return the number of images in a full shard if several processes together extract a set of `images` images."""
    return min(max(images // _SHARDS_OF_SHARED, 1), shard_size(images))


@dataclass
class _Collected:
    """The features of one store that are not written yet."""

    store: FeatureStore
    lacking: set[str]  # digests without features when last looked for
    digests: list[str] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)

    def add(self, digests: Sequence[str], features: np.ndarray) -> None:
        rows = [row for row, digest in enumerate(digests) if digest in self.lacking]
        self.digests += [digests[row] for row in rows]
        self.features.append(features[rows])
        self.lacking.difference_update(digests)

    def is_full(self, images: int) -> bool:
        return len(self.digests) >= images or sum(part.nbytes for part in self.features) >= SHARD_BYTES

    def taken(self) -> Taken:
        """Empty the collection. Return three things: the store, the digests that were collected, and their features."""
        digests, features = self.digests, self.features
        self.digests, self.features = [], []
        return self.store, digests, features


class ShardWriter(Generic[Key]):
    """Collects features and writes them as shards. `stores` maps each cut to its store.

    `add` collects features. `write` makes a thread write the collected features as shards. If `add` returns True, the
    caller should call `write`, so that a killed process loses few features.
    """

    def __init__(
        self,
        stores: Mapping[Key, FeatureStore],
        digests: Sequence[str] | np.ndarray,
        expected: int = 0,
        part: bool = False,
    ) -> None:
        """Prepare to collect features of `digests`.

        `expected` is the number of images that all processes together will extract.
        """
        raw = raw_digests(digests)
        self._parts = {
            key: _Collected(store, set(hex_digests(raw[store.lacking(raw)]))) for key, store in stores.items()
        }
        most = max(expected, *(len(part.lacking) for part in self._parts.values()))
        self._images = shard_size(most)
        # If `digests` are one `part` of many, `keep_shards_small` has no effect.
        self._small_images = self._images if part else min(small_shard_size(len(raw)), self._images)
        self._keeps_small = False
        self._written = 0  # times that shards were written
        self._since = self._listed = time.monotonic()
        self._took = 0.0  # seconds of the last listing
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._lock = Lock()  # for what was collected, and the two fields below
        self._goes_on = False  # whether the thread writes, and will look for collected features again
        self._then: list[Callable[[], None]] = []  # the thread calls them once what is collected now is written

    @property
    def folder(self) -> Path:
        """The folder of the first store."""
        return next(iter(self._parts.values())).store.folder

    def keep_shards_small(self) -> None:
        """Write small shards from now on, so that this process loses few features if it is killed.

        Call this method if other processes fill the stores, too.
        """
        self._keeps_small = True

    def lacking(self) -> set[str]:
        """Return the digests that still lack features in one or more stores.

        A digest whose features were collected does not count as lacking, even if its features are not written yet.
        Features that other processes wrote after the last listing of the stores are not seen.
        """
        return set().union(*(part.lacking for part in self._parts.values()))

    def bytes_to_come(self) -> int:
        """Estimate how many bytes the features that are still to be collected will take on disk."""
        sizes = {key: part.store.form.image_bytes + DIGEST_BYTES for key, part in self._parts.items()}
        return sum(len(part.lacking) * sizes[key] + _SHARD_OVERHEAD for key, part in self._parts.items())

    def require_writable(self) -> None:
        """Raise a StoreError if a store lacks features and its folder can't be written to."""
        for part in self._parts.values():
            if part.lacking:
                with writable(part.store.root), suppress(FileNotFoundError):  # `write` tells that a folder is gone
                    tempfile.TemporaryFile(dir=part.store.folder).close()

    def extend(self, digests: Sequence[str] | np.ndarray, at_once: bool) -> np.ndarray:
        """Prepare to collect the features of more images, with the digests `digests`.

        For `at_once` and the result, see `still_lacking`.
        """
        names = digests if not isinstance(digests, np.ndarray) else hex_digests(digests)
        for part in self._parts.values():
            part.lacking.update(names)
        return self.still_lacking(names, at_once)

    def forget(self, digests: Sequence[str] | np.ndarray) -> None:
        """Stop expecting features of `digests`. They no longer count as lacking."""
        names = digests if not isinstance(digests, np.ndarray) else hex_digests(digests)
        for part in self._parts.values():
            part.lacking.difference_update(names)

    def still_lacking(self, digests: Sequence[str], at_once: bool) -> np.ndarray:
        """Return which of `digests` still lack features in one or more stores, bool [N].

        A digest whose features were collected does not count as lacking, even if its features are not written yet.

        Listing a large folder takes long. So if `at_once` is false, folders that were listed a short time ago are not
        listed again. Features that other processes wrote after the last listing are not seen.
        """
        start, raw = time.monotonic(), raw_digests(digests)
        listed = at_once or start - self._listed >= min(self._took / _SHARE, KNOWN_SECONDS)
        for part in self._parts.values():
            part.lacking.difference_update(hex_digests(raw[~part.store.lacking(raw, listed)]))
        if listed:
            self._listed = time.monotonic()
            self._took = self._listed - start
        return np.array([any(digest in part.lacking for part in self._parts.values()) for digest in digests], bool)

    def add(self, digests: Sequence[str], features: Mapping[Key, np.ndarray], seconds: float = SHARD_SECONDS) -> bool:
        """Collect the features of `digests`. Return whether it is time to call `write`.

        `features` maps each cut to the features of all `digests`, [N, ...]. It is time to write if the last `write`
        began more than `seconds` ago, or if the features of one store are enough for a shard.
        """
        with self._lock:
            for key, part in self._parts.items():
                part.add(digests, features[key])
            images = self._small_images if self._keeps_small and not self._goes_on else self._images
            return time.monotonic() - self._since > seconds or self._is_full(images)

    def write(self, then: Callable[[], None] = lambda: None) -> None:
        """Write the collected features as shards, in a thread. The thread calls `then` when the shards are on disk.

        This method does not wait until the features are on disk. If the thread is still writing earlier features, and
        the collected features fill a large shard, this method waits until the earlier features are on disk.

        An error of the thread is raised here or by `wait`. After an error, `then` is not called.
        """
        with self._lock:
            self._since = time.monotonic()
            if self._goes_on and not self._is_full(self._images):
                self._then.append(then)
                return
        self.wait()
        self._goes_on = True
        self._writing = self._thread.submit(self._write_all, self._taken(), [then])

    def wait(self) -> None:
        """Wait until all shards are written. If writing has failed, raise the error."""
        if self._writing:
            wait([self._writing])  # if an interrupt ends this, `close` waits for the thread again
            writing, self._writing = self._writing, None
            writing.result()

    def _is_full(self, images: int) -> bool:
        return any(part.is_full(images) for part in self._parts.values())

    def _taken(self) -> list[Taken]:
        with self._lock:
            return [part.taken() for part in self._parts.values()]

    def _write_all(self, shards: list[Taken], then: list[Callable[[], None]]) -> None:
        """Write `shards`, then call each function in the list `then`.

        Repeat both steps with newer features and functions, until no further write is due.
        """
        try:
            while True:
                self._write(shards)
                for call in then:
                    call()
                with self._lock:
                    is_full = self._keeps_small and self._is_full(self._small_images)
                    self._goes_on = is_full or bool(self._then)
                    then, self._then = self._then, []
                if not self._goes_on:
                    return
                shards = self._taken()
        except BaseException:
            with self._lock:  # the calls would mark portions as done whose features may not be on disk
                self._goes_on, self._then = False, []
            raise

    def _write(self, shards: Sequence[Taken]) -> None:
        for store, digests, features in shards:
            if digests:
                store.write_shard(digests, np.concatenate(features))
        self._written += 1
        if self._written % _KEEP_EVERY == 0:
            for store, _, _ in shards:
                store.keep_index()

    def close(self) -> None:
        """Write the features that are not written yet, and end the thread."""
        try:
            self._thread.shutdown()
            self._write(self._taken())
        finally:
            self.wait()
