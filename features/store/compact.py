"""Rewrite shards: merge small shards into large shards, and drop unused features.

One large shard is written at a time. Then the shards that it replaces are retired. So a killed process loses nothing,
and the large shards that it has written are kept.

`compact` and `drop_unused` raise a StoreError if another process removes shards meanwhile.
"""

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from headstart.features.digests import hex_digests
from headstart.features.errors import StoreError
from headstart.features.store.claims import Claim, Claims
from headstart.features.store.merged import MOST_SHARDS
from headstart.features.store.shards import read_digests, read_rows
from headstart.features.store.store import FeatureStore, writable
from headstart.features.terminal import console, progress

LARGE_SHARD_BYTES = 256 << 20
MANY_SHARDS = MOST_SHARDS  # with more, a store is compacted by itself, so that `features.h5` shows all features
_SHORTEST, _SHARE = 60.0, 0.1  # compaction may take so many seconds, or this share of the extraction's time
_CLAIM = "c" * 64  # the name under which a process claims the compaction; no portion has so long a name
_MOST_ROWS = np.iinfo(np.int64).max


def compact(store: FeatureStore, large: int = LARGE_SHARD_BYTES) -> None:
    """Merge small shards into large shards. Other processes can read and write the store meanwhile.

    The argument `large` is a number of bytes. A shard is small if it has at most half of this number. The features in a
    merged shard take at most this number.
    """
    with _removals_named(store):
        store.remove_retired()
        small = _small_shards(store, large)
        if len(small) > 1:
            with progress("compacting", len(small), "shards") as advance:
                _rewrite(store, small, None, large, advance)


def compact_by_itself(store: FeatureStore, extraction_seconds: float, large: int = LARGE_SHARD_BYTES) -> None:
    """Compact a store that has more than `MANY_SHARDS` shards, unless that disturbs another process.

    A store with `MANY_SHARDS` or more large shards is compacted only if it has more than `MANY_SHARDS` small shards. A
    shard is small if it has at most half as many bytes as the argument `large`. All other shards are large.

    Compaction ends early, or does not begin, in three cases:

    - Another process has a claim on the store.
    - The replaced shards could take more than half of the disk's free space.
    - The time is over: one minute or a tenth of `extraction_seconds`, whichever is longer.

    A later call continues the compaction. If a shard is damaged or can't be written, a message is printed, and no error
    is raised.
    """
    try:
        small = _small_shards(store, large)
        others = len(store.shards()) - len(small)
        if len(small) <= (MANY_SHARDS - others if others < MANY_SHARDS else MANY_SHARDS):
            return
        claims = Claims(store.folder)
        try:
            if claims.take(_CLAIM) in (Claim.MINE, Claim.TAKEN_OVER):
                _compact_while_quiet(store, small, large, claims, max(_SHORTEST, _SHARE * extraction_seconds))
        finally:
            claims.release_all()
    except (StoreError, OSError) as error:
        console.print(f"{store.folder}: not compacted: {error}")


def _compact_while_quiet(
    store: FeatureStore, small: Sequence[Path], large: int, claims: Claims, most_seconds: float
) -> None:
    store.remove_retired()
    end, room = time.monotonic() + most_seconds, shutil.disk_usage(store.folder).free / 2

    def is_disturbed(replaced: int) -> bool:
        claims.renew()
        return time.monotonic() > end or replaced + large > room or claims.others()

    if is_disturbed(replaced=0):
        return
    console.print(
        f"{store.folder}: compacting {len(small)} small shards, for at most {most_seconds:.0f} s; Ctrl-C loses nothing"
    )
    with progress("compacting", len(small), "shards") as advance:
        _rewrite(store, small, None, large, advance, is_disturbed)


def drop_unused(store: FeatureStore, used: Collection[str]) -> None:
    """Keep only the features of the digests in `used`, which are hexadecimal. Drop all other features.

    If a shard holds features to be dropped, its other features are written to a new shard, and the old shard is
    retired.
    """
    wanted = set(used)
    with _removals_named(store):
        store.remove_retired()
        mixed = [one for one in store.shards() if not wanted.issuperset(hex_digests(read_digests(one, store.form)))]
        if mixed:
            _rewrite(store, mixed, wanted, LARGE_SHARD_BYTES)


def drop_shards(store: FeatureStore, shards: Collection[Path]) -> None:
    """Remove the files of `shards`, and of all retired shards. If `shards` is empty, do nothing.

    Features that were only in `shards` must be extracted again.
    """
    if shards:
        store.retire(shards)
        store.remove_retired()


@contextmanager
def _removals_named(store: FeatureStore) -> Iterator[None]:
    try:
        with writable(store.root):
            yield
    except FileNotFoundError as error:
        raise StoreError(
            f"{store.folder}: another process changed the store meanwhile; nothing is lost, repeat the command"
        ) from error


def _small_shards(store: FeatureStore, large: int) -> list[Path]:
    """List the shards that have at most `large` / 2 bytes, the smallest first."""
    sizes = {shard: shard.lstat().st_size for shard in store.shards()}
    return sorted((shard for shard, size in sizes.items() if size <= large // 2), key=sizes.__getitem__)


def _rewrite(
    store: FeatureStore,
    shards: Sequence[Path],
    wanted: Collection[str] | None,
    large: int,
    advance: Callable[[int], None] = lambda count: None,
    is_disturbed: Callable[[int], bool] = lambda replaced: False,
) -> None:
    """Rewrite `shards` as new shards. The number `large` limits the bytes of features in a new shard; see `_batches`.

    Keep the features of the digests in `wanted`, or all features if `wanted` is None.
    """
    replaced = 0
    try:
        for sources, digests, features in _batches(store, shards, wanted, max(1, large // store.form.image_bytes)):
            written = store.write_shard(hex_digests(digests), features) if len(digests) else None
            done = [shard for shard in sources if shard != written]
            store.retire(done, merge=False)
            advance(len(sources))
            replaced += features.nbytes
            del features  # else it is held while the next batch is read
            if is_disturbed(replaced):
                break
    finally:
        store.write_merged()
    store.keep_index()


def _batches(
    store: FeatureStore, shards: Sequence[Path], wanted: Collection[str] | None, rows: int
) -> Iterator[tuple[list[Path], np.ndarray, np.ndarray]]:
    """Group `shards` into batches with up to `rows` wanted rows. A shard with more wanted rows is a batch of its own.

    For each batch, yield its shards, their wanted digests, and the features of these digests. If `wanted` is None, all
    digests are wanted.
    """
    sources: list[Path] = []
    digests: list[np.ndarray] = []
    features: list[np.ndarray] = []
    held: set[bytes] = set()
    for shard in shards:
        here, rows_here = read_rows(shard, store.form, 0, _MOST_ROWS)
        kept = np.array([wanted is None or name in wanted for name in hex_digests(here)], bool)
        if sources and sum(map(len, digests)) + int(kept.sum()) > rows:
            yield sources, _joined(digests), _joined(features)
            sources, held = [], set()
        kept &= [digest not in held for digest in here.tolist()]
        held.update(here[kept].tolist())
        sources.append(shard)
        digests.append(here[kept])
        features.append(rows_here if kept.all() else rows_here[kept])
    if sources:
        yield sources, _joined(digests), _joined(features)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Return `parts` as one array. The list is emptied, so that the caller does not hold the rows twice."""
    joined = np.concatenate(parts)
    parts.clear()
    return joined
