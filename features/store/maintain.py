"""Looking after a store's folder: what is in it, whether it is whole, and less files or less features of it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from headstart.features.backbones.calibration import check_network, quantised_folders
from headstart.features.errors import StoreError
from headstart.features.files import remove_left_over
from headstart.features.store.shards import fault, hex_digests, read_digests, read_features
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress

LARGE_SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Contents:
    """What one fingerprint's folder holds.

    Args:
        view: number of the augmented view; 0 for images as they are.
        modified: the time of its newest shard, in seconds since 1970.
    """

    folder: Path
    backbone: str
    cut: str
    precision: str
    view: int
    images: int
    shards: int
    bytes: int
    modified: float


@dataclass(frozen=True)
class BadShard:
    """A shard, or a view of shards, that can't be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """Shards read, images in the good ones, the bad ones, bad views, and folders that can't be told what they hold."""

    shards: int
    images: int
    bad: list[BadShard]
    views: list[BadShard] = field(default_factory=list)
    folders: list[BadShard] = field(default_factory=list)


def find_stores(root: Path) -> tuple[list[FeatureStore], list[BadShard]]:
    """One store for each fingerprint in `root`, by name, and the folders that can't be told what they hold.

    Raises:
        StoreError: no such folder, or nothing of headstart's in it.
    """
    if not root.is_dir():
        raise StoreError(f"{root}: no such folder")
    stores, faults = [], []
    for path in sorted(root.glob("*/fingerprint.json")):
        try:
            stores.append(FeatureStore.open(path.parent))
        except StoreError as error:
            faults.append(BadShard(str(path.parent), f"{error}; delete the folder, and its images are done again"))
    if not stores and not faults:
        raise StoreError(f"{root}: no features in it; `headstart features` makes some")
    return stores, faults


def damaged_networks(root: Path) -> list[BadShard]:
    """The 8-bit networks in `root` that can't be used, every byte of them read."""
    faults = []
    for folder in quantised_folders(root):
        try:
            check_network(folder)
        except StoreError as error:
            faults.append(BadShard(str(folder), str(error)))
    return faults


def open_stores(root: Path) -> list[FeatureStore]:
    """The stores of `find_stores`; what is wrong with others is printed.

    Raises:
        StoreError: there are none.
    """
    stores, faults = find_stores(root)
    if not stores:
        raise StoreError(faults[0].reason)
    for folder in faults:
        console.print(f"left out: {folder.reason}", markup=False)
    return stores


def contents(store: FeatureStore) -> Contents:
    """Count what `store` holds."""
    sizes, times = [], [store.folder.stat().st_mtime]
    for shard in store.shards():
        with suppress(FileNotFoundError):  # compacted away since it was listed
            state = shard.lstat()
            sizes.append(state.st_size)
            times.append(state.st_mtime)
    fields = store.fingerprint
    modified = max(times[1:] or times)
    return Contents(
        store.folder, fields["backbone"], fields["cut"], fields["precision"], fields.get("view", 0), store.count(),
        len(sizes), sum(sizes), modified,
    )  # fmt: skip


def verify(stores: Collection[FeatureStore], repair: bool = False) -> Verification:
    """Read every byte of every shard.

    Args:
        repair: remove bad shards, so that their images are done again, and bring `features.h5` up to date.

    Raises:
        OSError: a shard can't be read for a reason that is not its own.
    """
    shards = {store: store.shards() for store in stores}
    good, images = 0, 0
    bad: dict[Path, str] = {}
    with progress("verifying", sum(map(len, shards.values())), "shards") as advance:
        for store in stores:
            for shard in shards[store]:
                with suppress(FileNotFoundError):  # compacted away since it was listed
                    reason = fault(shard, store.form)
                    if reason is None:
                        images += len(read_digests(shard, store.form))
                        good += 1
                    else:
                        bad[shard] = reason
                advance(1)
    views = {store.folder / "features.h5": store.view_fault() for store in stores}
    if repair:
        for store in stores:
            remove_left_over(store.folder)
            drop_shards(store, [shard for shard in shards[store] if shard in bad])
            store.update_view()
    return Verification(
        good + len(bad),
        images,
        [BadShard(str(shard), reason) for shard, reason in bad.items()],
        [BadShard(str(view), reason) for view, reason in views.items() if reason],
    )


def drop_shards(store: FeatureStore, shards: Collection[Path]) -> None:
    """Remove bad shards, and those retired before, so that what the bad ones alone held is done again."""
    if shards:
        store.retire(shards)
        store.remove_retired()


def compact(store: FeatureStore, large: int = LARGE_SHARD_BYTES) -> None:
    """Write small shards again as large ones, of up to `large` bytes. Readers and writers are not disturbed.

    The small ones stay on disk, out of use, until the next time.
    """
    with _others_at_work(store):
        store.remove_retired()
        small = [shard for shard in store.shards() if shard.lstat().st_size <= large // 2]
        if len(small) > 1:
            _rewrite(store, small, None, large)


def drop_unused(store: FeatureStore, used: Collection[str]) -> None:
    """Keep only the features of `used` digests; what others need is written anew.

    The shards that held more stay on disk, out of use, until the next time.
    """
    wanted = set(used)
    with _others_at_work(store):
        store.remove_retired()
        mixed = [
            shard for shard in store.shards() if not wanted.issuperset(hex_digests(read_digests(shard, store.form)))
        ]
        if mixed:
            _rewrite(store, mixed, wanted, LARGE_SHARD_BYTES)


@contextmanager
def _others_at_work(store: FeatureStore) -> Iterator[None]:
    """Shards that vanish meanwhile are another process's work: nothing is lost, and this one's can be done later."""
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
