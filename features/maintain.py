"""Looking after a store's folder: what is in it, whether it is whole, and less files or less features of it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.errors import StoreError
from features.files import remove_left_over
from features.progress import progress
from features.shards import fault, hex_digests, read_digests, read_features
from features.store import FeatureStore

LARGE_SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Contents:
    """What one fingerprint's folder holds; `modified` is the time of its newest shard, in seconds since 1970."""

    folder: Path
    backbone: str
    cut: str
    images: int
    shards: int
    bytes: int
    modified: float


@dataclass(frozen=True)
class BadShard:
    """A shard that can't be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """Shards read, images in the good ones, and the bad ones."""

    shards: int
    images: int
    bad: list[BadShard]


def open_stores(root: Path) -> list[FeatureStore]:
    """One store for each fingerprint in `root`, by name.

    Raises:
        StoreError: no such folder, or nothing of headstart's in it.
    """
    if not root.is_dir():
        raise StoreError(f"{root}: no such folder")
    stores = [FeatureStore.open(path.parent) for path in sorted(root.glob("*/fingerprint.json"))]
    if not stores:
        raise StoreError(f"{root}: no features in it; `headstart features` makes some")
    return stores


def contents(store: FeatureStore) -> Contents:
    """Count what `store` holds."""
    states = [shard.stat() for shard in store.shards()]
    return Contents(
        store.folder,
        store.fingerprint["backbone"],
        store.fingerprint["cut"],
        len(np.unique(store.digests())),
        len(states),
        sum(state.st_size for state in states),
        max((state.st_mtime for state in states), default=store.folder.stat().st_mtime),
    )


def verify(stores: Collection[FeatureStore], repair: bool = False) -> Verification:
    """Read every byte of every shard.

    Args:
        repair: remove bad shards, so that their images are done again.
    """
    shards = {store: store.shards() for store in stores}
    count = sum(map(len, shards.values()))
    bad: dict[Path, str] = {}
    images = 0
    with progress("verifying", count, "shards") as advance:
        for store in stores:
            for shard in shards[store]:
                reason = fault(shard, store.form)
                if reason is None:
                    images += len(read_digests(shard, store.form))
                else:
                    bad[shard] = reason
                advance(1)
    if repair:
        for store in stores:
            remove_left_over(store.folder)
            drop_shards(store, [shard for shard in shards[store] if shard in bad])
    return Verification(count, images, [BadShard(str(shard), reason) for shard, reason in bad.items()])


def drop_shards(store: FeatureStore, shards: Collection[Path]) -> None:
    """Remove bad shards, and those retired before, so that what they alone held is done again."""
    store.retire(shards)
    store.remove_retired()


def compact(store: FeatureStore, large: int = LARGE_SHARD_BYTES) -> None:
    """Write small shards again as large ones, of up to `large` bytes. Readers and writers are not disturbed.

    The small ones stay on disk, out of use, until the next time.
    """
    store.remove_retired()
    small = [shard for shard in store.shards() if shard.stat().st_size <= large // 2]
    if len(small) < 2:
        return
    _rewrite(store, small, None, large)


def drop_unused(store: FeatureStore, used: Collection[str]) -> None:
    """Keep only the features of `used` digests; what others need is written anew.

    The shards that held more stay on disk, out of use, until the next time.
    """
    store.remove_retired()
    wanted = set(used)
    mixed = [shard for shard in store.shards() if not wanted.issuperset(hex_digests(read_digests(shard, store.form)))]
    if mixed:
        _rewrite(store, mixed, wanted, LARGE_SHARD_BYTES)


def _rewrite(store: FeatureStore, shards: Collection[Path], wanted: set[str] | None, large: int) -> None:
    rows = max(1, large // store.form.image_bytes)
    written = {store.write_shard(digests, features) for digests, features in _batches(store, shards, wanted, rows)}
    store.retire([shard for shard in shards if shard not in written])


def _batches(
    store: FeatureStore, shards: Collection[Path], wanted: set[str] | None, rows: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Digests and features of `shards` in batches of up to `rows`, each wanted digest once."""
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
