"""List the content of a store, and find damage in it."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import OptionError, StoreError
from headstart.features.files import remove_left_over
from headstart.features.store.compact import drop_shards
from headstart.features.store.kept_index import IndexCheck, remove_segment
from headstart.features.store.shards import IS_FOLDER, read_digests, shard_fault
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress


@dataclass(frozen=True)
class Contents:
    """A summary of one fingerprint's folder."""

    folder: Path
    backbone: str
    cut: str
    precision: str
    view: int  # 0 for unchanged images
    images: int
    shards: int
    bytes: int  # of all shards
    modified: float  # time of the newest shard, in seconds since 1970


@dataclass(frozen=True)
class Damage:
    """An unusable file or folder of a store, and the reason why it is unusable."""

    path: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """The result of reading every byte of some stores."""

    shards: int  # good or bad
    images: int  # in the good shards
    bad: list[Damage]  # shards
    folders: list[Damage]  # folders where shards should be; `repair` does not remove them
    merged: list[Damage]  # merged files that can't be trusted
    indexes: list[Damage]  # folders of kept indexes that can't be used


def find_stores(root: Path) -> tuple[list[FeatureStore], list[Damage]]:
    """Open the store of each fingerprint in `root`. Return two lists.

    The first list holds the opened stores, sorted by name. The second list holds the damage of each store that can't be
    opened.

    Raises StoreError if `root` does not exist, or holds no features.
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
    """Open the stores in `root`, and print which stores are damaged. If no store can be opened, raise a StoreError."""
    stores, damaged = find_stores(root)
    if not stores:
        raise StoreError(damaged[0].reason)
    for folder in damaged:
        console.print(f"left out: {folder.reason}")
    return stores


def stores_named(stores: Sequence[FeatureStore], beginning: str) -> list[FeatureStore]:
    """Return the stores whose key or folder name starts with `beginning`. If `beginning` is empty, return all stores.

    Raises OptionError if `beginning` is not empty, and no store fits.
    """
    fitting = [store for store in stores if store.key.startswith(beginning) or store.folder.name.startswith(beginning)]
    if beginning and not fitting:
        names = ", ".join(store.folder.name for store in stores) or "none"
        raise OptionError(f"--fingerprint: none begins with {beginning!r}; there are {names}")
    return fitting


def contents(store: FeatureStore) -> Contents:
    """Return a summary of `store`, with the number of its images, shards and bytes."""
    found = []
    for shard in store.shards():
        with suppress(FileNotFoundError):  # another process removed it after it was listed
            found.append(shard.lstat())
    return Contents(
        folder=store.folder,
        backbone=store.fingerprint.backbone,
        cut=store.fingerprint.cut,
        precision=store.fingerprint.precision,
        view=store.fingerprint.view or 0,
        images=store.count(),
        shards=len(found),
        bytes=sum(status.st_size for status in found),
        modified=max((status.st_mtime for status in found), default=store.folder.stat().st_mtime),
    )


def verify(stores: Collection[FeatureStore], repair: bool = False) -> Verification:
    """Read every byte of every shard. Return which shards, merged files and kept indexes are damaged, and why.

    If `repair` is true, the stores are repaired:

    - Damaged shards and damaged kept indexes are removed. The next extraction makes the lost features again.
    - A folder in the place of a shard is not removed, but the store no longer counts it as a shard.
    - Merged files are updated.

    Raises OSError if a shard can't be reached. Such a shard does not count as damaged, because it may be good.
    """
    shards = [(store, shard) for store in stores for shard in store.shards()]
    images: list[int] = []  # in each good shard
    bad: dict[Path, str] = {}
    folders: list[Damage] = []
    checks = {store.folder: IndexCheck(store.folder) for store in stores}
    with progress("verifying", len(shards), "shards") as advance:
        for store, shard in shards:
            with suppress(FileNotFoundError):  # another process removed it after it was listed
                if shard.is_dir() and not shard.is_symlink():
                    folders.append(Damage(str(shard), IS_FOLDER))
                elif reason := shard_fault(shard, store.form):
                    bad[shard] = reason
                else:
                    digests = read_digests(shard, store.form)
                    images.append(len(digests))
                    checks[store.folder].compare(shard.name, digests)
            advance(1)
    merged = [Damage(str(store.merged), fault) for store in stores if (fault := store.merged_fault())]
    indexes = {place: reason for check in checks.values() for place, reason in check.faults().items()}
    if repair:
        for place in indexes:
            remove_segment(place)
        for store in stores:
            remove_left_over(store.folder)
            out_of_use = [*bad, *(Path(one.path) for one in folders)]
            drop_shards(store, [shard for shard in out_of_use if shard.parent == store.folder])
            store.update_merged()
    damaged = [Damage(str(shard), reason) for shard, reason in bad.items()]
    wrong = [Damage(str(place), reason) for place, reason in indexes.items()]
    return Verification(len(images) + len(bad), sum(images), damaged, folders, merged, wrong)
