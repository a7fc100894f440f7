"""`store gc` and `store compact`: without the features of images in no data folder, and in few large shards."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.features.errors import DataError
from headstart.features.store.compact import compact, drop_unused
from headstart.features.store.maintain import open_stores
from headstart.pipeline.data.examples import scan_all_sizes
from headstart.pipeline.upkeep.config import GcConfig
from rich.filesize import decimal


@dataclass(frozen=True)
class Unused:
    """One fingerprint: how many images are in a data folder, how many in none, and the bytes of the latter."""

    folder: str
    kept: int
    dropped: int
    bytes: int


@dataclass(frozen=True)
class Garbage:
    """The unused features of each fingerprint, and whether they were dropped."""

    fingerprints: list[Unused]
    done: bool

    @property
    def dropped(self) -> int:
        """The number of images of all fingerprints whose features were, or would be, dropped."""
        return sum(one.dropped for one in self.fingerprints)

    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        return {"fingerprints": [asdict(one) for one in self.fingerprints], "dropped": self.dropped, "done": self.done}

    def lines(self) -> Iterator[str]:
        """The summary for people."""
        verb, remark = "to drop", "nothing was changed; --yes does it"
        if self.done:
            verb, remark = "dropped", "the disk is freed by the next gc or compact"
        for one in self.fingerprints:
            yield f"{one.folder}: {one.kept} images in use, {one.dropped} {verb} ({decimal(one.bytes)})"
        if self.dropped:
            yield remark


def collect_garbage(root: Path, data: Sequence[Path], config: GcConfig) -> Garbage:
    """Count the features in the store at `root` whose images are in none of the folders `data`; with `yes`, drop them.

    Raises:
        StoreError: `root` holds no features, or another process changed them meanwhile.
        DataError: a folder has no images, or has files that can't be read: their features may be in use.
    """
    stores = open_stores(root)
    used = {digest for folder in data for digest in _digests_in(root, folder)}
    counts = []
    for store in stores:
        held = set(store.digests())
        dropped = len(held - used)
        counts.append(Unused(store.folder.name, len(held) - dropped, dropped, dropped * store.form.image_bytes))
        if config.yes:
            drop_unused(store, used)
    return Garbage(counts, config.yes)


def _digests_in(root: Path, data: Path) -> set[str]:
    found = scan_all_sizes(root, data)
    unread = [reject for reject in found.rejects if reject.reason in ("unreadable", "vanished")]
    if unread:
        raise DataError(
            f"{data}: {len(unread)} files can't be read, so their features may be in use and nothing is dropped; "
            f"the first is {unread[0].path}: {unread[0].detail}"
        )
    return {example.image.digest for example in found.examples}


@dataclass(frozen=True)
class Compaction:
    """The number of shards in each fingerprint's folder, before and after."""

    folders: list[str]
    before: list[int]
    after: list[int]

    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        return {"shards_before": sum(self.before), "shards_after": sum(self.after)}

    def lines(self) -> Iterator[str]:
        """The summary for people."""
        for folder, before, after in zip(self.folders, self.before, self.after, strict=True):
            yield f"{folder}: {before} -> {after} shards"
        if self.before != self.after:
            yield "the replaced shards stay on disk until the next compact or gc, for whoever reads them now"


def compact_store(root: Path) -> Compaction:
    """Rewrite the small shards of the store at `root` as large ones, without disturbing readers and writers.

    Raises:
        StoreError: `root` holds no features, or another process changed them meanwhile.
    """
    stores = open_stores(root)
    before = [len(store.shards()) for store in stores]
    for store in stores:
        compact(store)
    return Compaction([store.folder.name for store in stores], before, [len(store.shards()) for store in stores])
