"""What a store's folder holds, and whether it is whole."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import OptionError, StoreError
from headstart.features.files import remove_left_over
from headstart.features.store.compact import drop_shards
from headstart.features.store.shards import read_digests, shard_fault
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress


@dataclass(frozen=True)
class Contents:
    """The content of one fingerprint's folder.

    Args:
        view: number of the augmented view; 0 for unchanged images.
        images: number of images that have features.
        bytes: size of all shards.
        modified: when the newest shard was written, in seconds since 1970.
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
class Damage:
    """A file or folder of a store that can't be used, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """The result of reading every byte of some stores.

    Args:
        shards: number of shards, good or bad.
        images: number of images in the good shards.
        bad: the bad shards.
        merged: the merged files that may show NaN.
    """

    shards: int
    images: int
    bad: list[Damage]
    merged: list[Damage]


def find_stores(root: Path) -> tuple[list[FeatureStore], list[Damage]]:
    """Open the store of each fingerprint in `root`, by name; also return the folders that can't be opened.

    Raises:
        StoreError: `root` does not exist, or holds no features.
    """
    if not root.is_dir():
        raise StoreError(f"{root}: no such folder")
    stores, damaged = [], []
    for path in sorted(root.glob("*/fingerprint.json")):
        try:
            stores.append(FeatureStore.open(path.parent))
        except StoreError as error:
            damaged.append(Damage(str(path.parent), f"{error}; delete the folder, and its images are done again"))
    if not stores and not damaged:
        raise StoreError(f"{root}: no features in it; `headstart features` makes some")
    return stores, damaged


def open_stores(root: Path) -> list[FeatureStore]:
    """Open the store of each fingerprint in `root`, by name. Folders that can't be opened are named on the console.

    Raises:
        StoreError: none can be opened.
    """
    stores, damaged = find_stores(root)
    if not stores:
        raise StoreError(damaged[0].reason)
    for folder in damaged:
        console.print(f"left out: {folder.reason}")
    return stores


def stores_named(stores: Sequence[FeatureStore], beginning: str) -> list[FeatureStore]:
    """The stores whose fingerprint or folder name starts with `beginning`; all stores if it is empty.

    Raises:
        OptionError: no store does.
    """
    fitting = [store for store in stores if store.key.startswith(beginning) or store.folder.name.startswith(beginning)]
    if beginning and not fitting:
        names = ", ".join(store.folder.name for store in stores) or "none"
        raise OptionError(f"--fingerprint: none begins with {beginning!r}; there are {names}")
    return fitting


def contents(store: FeatureStore) -> Contents:
    """Count the images, shards and bytes of `store`."""
    sizes, times = [], []
    for shard in store.shards():
        with suppress(FileNotFoundError):  # another process removed it after it was listed
            status = shard.lstat()
            sizes.append(status.st_size)
            times.append(status.st_mtime)
    return Contents(
        folder=store.folder,
        backbone=store.fingerprint.backbone,
        cut=store.fingerprint.cut,
        precision=store.fingerprint.precision,
        view=store.fingerprint.view or 0,
        images=store.count(),
        shards=len(sizes),
        bytes=sum(sizes),
        modified=max(times, default=store.folder.stat().st_mtime),
    )


def verify(stores: Collection[FeatureStore], repair: bool = False) -> Verification:
    """Read every byte of every shard.

    Args:
        repair: remove bad shards, so that their images are done again, and bring merged files up to date.

    Raises:
        OSError: a shard can't be read, for a reason that says nothing about its content.
    """
    shards = {store: store.shards() for store in stores}
    good, images = 0, 0
    bad: dict[Path, str] = {}
    with progress("verifying", sum(map(len, shards.values())), "shards") as advance:
        for store in stores:
            for shard in shards[store]:
                with suppress(FileNotFoundError):  # another process removed it after it was listed
                    reason = shard_fault(shard, store.form)
                    if reason is None:
                        images += len(read_digests(shard, store.form))
                        good += 1
                    else:
                        bad[shard] = reason
                advance(1)
    merged = {store.merged: store.merged_fault() for store in stores}
    if repair:
        for store in stores:
            remove_left_over(store.folder)
            drop_shards(store, [shard for shard in shards[store] if shard in bad])
            store.update_merged()
    return Verification(
        shards=good + len(bad),
        images=images,
        bad=[Damage(str(path), reason) for path, reason in bad.items()],
        merged=[Damage(str(path), reason) for path, reason in merged.items() if reason],
    )
