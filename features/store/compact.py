"""Rewriting shards: few large ones instead of many small ones, or without features that no one uses."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from headstart.features.digests import hex_digests
from headstart.features.errors import StoreError
from headstart.features.store.shards import read_digests, read_features
from headstart.features.store.store import FeatureStore

LARGE_SHARD_BYTES = 256 << 20


def compact(store: FeatureStore, large: int = LARGE_SHARD_BYTES) -> None:
    """Rewrite small shards as large ones of up to `large` bytes, and retire them; readers and writers go on.

    A change of the store by another process meanwhile raises a StoreError.
    """
    with _alone(store):
        store.remove_retired()
        small = [shard for shard in store.shards() if shard.lstat().st_size <= large // 2]
        if len(small) > 1:
            _rewrite(store, small, None, large)


def drop_unused(store: FeatureStore, used: Collection[str]) -> None:
    """Keep only the features of `used` digests (hexadecimal SHA-256): rewrite shards with others, and retire them.

    A change of the store by another process meanwhile raises a StoreError.
    """
    wanted = set(used)
    with _alone(store):
        store.remove_retired()
        mixed = [one for one in store.shards() if not wanted.issuperset(hex_digests(read_digests(one, store.form)))]
        if mixed:
            _rewrite(store, mixed, wanted, LARGE_SHARD_BYTES)


def drop_shards(store: FeatureStore, shards: Collection[Path]) -> None:
    """Remove bad `shards` at once, and all retired ones: features that only a bad shard holds must be made anew."""
    if shards:
        store.retire(shards)
        store.remove_retired()


@contextmanager
def _alone(store: FeatureStore) -> Iterator[None]:
    """Turn a shard that vanishes meanwhile into a StoreError: another process rewrites the same store."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(
            f"{store.folder}: another process changed the store meanwhile; nothing is lost, repeat the command"
        ) from error


def _rewrite(store: FeatureStore, shards: Collection[Path], wanted: set[str] | None, large: int) -> None:
    rows = max(1, large // store.form.image_bytes)
    written = {store.write_shard(digests, features) for digests, features in _batches(store, shards, wanted, rows)}
    store.retire([shard for shard in shards if shard not in written])


def _batches(
    store: FeatureStore, shards: Collection[Path], wanted: set[str] | None, rows: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Read the wanted features of `shards`, each digest once, in batches of up to `rows` rows."""
    seen: set[str] = set()
    digests: list[str] = []
    parts: list[np.ndarray] = []
    for shard in shards:
        names = hex_digests(read_digests(shard, store.form))
        chosen = [row for row, name in enumerate(names) if name not in seen and (wanted is None or name in wanted)]
        seen.update(names)
        for start in range(0, len(chosen), rows):
            piece = chosen[start : start + rows]
            if digests and len(digests) + len(piece) > rows:
                yield digests, np.concatenate(parts)
                digests, parts = [], []
            slab = read_features(shard, store.form, piece[0], piece[-1] + 1)
            digests = digests + [names[row] for row in piece]
            parts.append(slab[np.array(piece) - piece[0]])
    if digests:
        yield digests, np.concatenate(parts)
