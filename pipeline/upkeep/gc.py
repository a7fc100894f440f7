"""`store gc` drops the features of images that are in no data folder. `store compact` joins small shards."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.features.digests import HexDigests
from headstart.features.errors import DataError
from headstart.features.store.compact import compact, drop_unused
from headstart.features.store.maintain import open_stores
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import scan_all_sizes
from headstart.pipeline.data.tars.naming import kind_of
from rich.filesize import decimal


@dataclass(frozen=True)
class Unused:
    """The images that have features of one fingerprint: how many are in a data folder, and how many are not."""

    folder: str
    kept: int  # images in a data folder
    dropped: int  # images in no data folder
    bytes: int  # size of the features of the images in no data folder


@dataclass(frozen=True)
class Garbage:
    """The result of `gc`: the counts for each fingerprint, and whether features were dropped or only counted."""

    fingerprints: list[Unused]
    done: bool

    @property
    def dropped(self) -> int:
        """Return the number of images in no data folder, summed over all fingerprints."""
        return sum(one.dropped for one in self.fingerprints)

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"fingerprints": [asdict(one) for one in self.fingerprints], "dropped": self.dropped, "done": self.done}

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        verb, remark = "to drop", "nothing was changed; --yes does it"
        if self.done:
            verb, remark = "dropped", "the disk is freed by the next gc or compact"
        for one in self.fingerprints:
            yield f"{one.folder}: {one.kept} images in use, {one.dropped} {verb} ({decimal(one.bytes)})"
        if self.dropped:
            yield remark


def collect_garbage(root: Path, data: Sequence[Path], yes: bool = False, reading: DataConfig = DataConfig()) -> Garbage:
    """Count the images that have features in the store at `root`, but are in no folder of `data`.

    If `yes` is true, drop the features of these images. `reading` decides how lists of images are read. Raises
    StoreError if `root` holds no features, or if another process changed the store meanwhile. Raises DataError if a
    folder has no images, or has files that can't be read.
    """
    stores = open_stores(root)
    used = {digest for folder in data for digest in _digests_in(root, folder, reading)}
    counts = []
    for store in stores:
        held = set(store.digests())
        dropped = len(held - used)
        counts.append(Unused(store.folder.name, len(held) - dropped, dropped, dropped * store.form.image_bytes))
        if yes:
            drop_unused(store, used)
    return Garbage(counts, yes)


def _digests_in(root: Path, data: Path, reading: DataConfig) -> set[str]:
    found = scan_all_sizes(root, data, config=reading.of_every_image(kind_of(data)))
    unread = [reject for reject in found.rejects if reject.reason in ("unreadable", "vanished")]
    if unread:
        raise DataError(
            f"{data}: {len(unread)} files can't be read, so their features may be in use and nothing is dropped; "
            f"the first is {unread[0].path}: {unread[0].detail}"
        )
    return set(HexDigests(found.examples.digests))


@dataclass(frozen=True)
class Compaction:
    """The number of shards before and after compaction, for the folder of each fingerprint."""

    folders: list[tuple[str, int, int]]

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        _, before, after = zip(*self.folders, strict=True)
        return {"shards_before": sum(before), "shards_after": sum(after)}

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        for folder, before, after in self.folders:
            yield f"{folder}: {before} -> {after} shards"
        if any(before != after for _, before, after in self.folders):
            yield "the replaced shards stay on disk until the next compact or gc, for whoever reads them now"


def compact_store(root: Path) -> Compaction:
    """Rewrite the small shards of the store at `root` as large ones.

    While this function runs, other processes can read and add features. Raises StoreError if `root` holds no features,
    or if another process replaces the same shards.
    """
    folders = []
    for store in open_stores(root):
        before = len(store.shards())
        compact(store)
        folders.append((store.folder.name, before, len(store.shards())))
    return Compaction(folders)
