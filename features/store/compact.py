"""Rewrite shards: merge small shards into large ones, and drop unused features.

`compact` and `drop_unused` raise a StoreError if another process removes shards meanwhile.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from headstart.features.digests import hex_digests, raw_digests
from headstart.features.errors import StoreError
from headstart.features.store.index import Index
from headstart.features.store.shards import read_digests
from headstart.features.store.store import FeatureStore

LARGE_SHARD_BYTES = 256 << 20


def compact(store: FeatureStore, large: int = LARGE_SHARD_BYTES) -> None:
    """Rewrite small shards as shards of up to `large` bytes. Other processes may read and write meanwhile."""
    with _removals_named(store):
        store.remove_retired()
        small = [shard for shard in store.shards() if shard.lstat().st_size <= large // 2]
        if len(small) > 1:
            _rewrite(store, small, None, large)


def drop_unused(store: FeatureStore, used: Collection[str]) -> None:
    """Keep only the features of the digests in `used`, which are hexadecimal.

    A shard that holds features of other digests is rewritten and retired.
    """
    wanted = set(used)
    with _removals_named(store):
        store.remove_retired()
        mixed = [one for one in store.shards() if not wanted.issuperset(hex_digests(read_digests(one, store.form)))]
        if mixed:
            _rewrite(store, mixed, wanted, LARGE_SHARD_BYTES)


def drop_shards(store: FeatureStore, shards: Collection[Path]) -> None:
    """Remove `shards`, which are bad, and all retired shards. If `shards` is empty, do nothing.

    Features that were in no other shard must be extracted again.
    """
    if shards:
        store.retire(shards)
        store.remove_retired()


@contextmanager
def _removals_named(store: FeatureStore) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(
            f"{store.folder}: another process changed the store meanwhile; nothing is lost, repeat the command"
        ) from error


def _rewrite(store: FeatureStore, shards: Sequence[Path], wanted: set[str] | None, large: int) -> None:
    rows = max(1, large // store.form.image_bytes)
    written = {store.write_shard(digests, features) for digests, features in _batches(store, shards, wanted, rows)}
    store.retire([shard for shard in shards if shard not in written])


def _batches(
    store: FeatureStore, shards: Sequence[Path], wanted: set[str] | None, rows: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield (digests, features) from `shards`, each digest once, in batches of up to `rows` rows.

    If `wanted` is a set, yield only the digests in this set.
    """
    index = Index().with_shards({shard: read_digests(shard, store.form) for shard in shards})
    names = [name for name in hex_digests(np.unique(index.digests())) if wanted is None or name in wanted]
    digests: list[str] = []
    parts: list[np.ndarray] = []
    for slab in index.slabs(raw_digests(names), rows):
        if digests and len(digests) + len(slab.rows) > rows:
            yield digests, np.concatenate(parts)
            digests, parts = [], []
        digests = digests + [names[position] for position in slab.positions]
        parts.append(slab.read(store.form))
    if digests:
        yield digests, np.concatenate(parts)
