"""`store compact`: a few large shards instead of many small ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.features.store.compact import compact
from headstart.features.store.maintain import open_stores


@dataclass(frozen=True)
class Compaction:
    """The number of shards in each fingerprint's folder, before and after."""

    folders: list[str]
    before: list[int]
    after: list[int]

    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        return {"shards_before": sum(self.before), "shards_after": sum(self.after)}

    def lines(self) -> list[str]:
        """The summary for people."""
        counts = zip(self.folders, self.before, self.after, strict=True)
        lines = [f"{folder}: {before} -> {after} shards" for folder, before, after in counts]
        if self.before != self.after:
            lines.append("the replaced shards stay on disk until the next compact or gc, for whoever reads them now")
        return lines


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
