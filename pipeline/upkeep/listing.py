"""`store ls`: list the fingerprints of a store."""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from headstart.features.store.maintain import Contents, contents, open_stores
from rich.filesize import decimal


@dataclass(frozen=True)
class Listing:
    """The content of each fingerprint's folder in a store."""

    fingerprints: list[Contents]

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"fingerprints": [{**asdict(one), "folder": one.folder.name} for one in self.fingerprints]}

    def lines(self) -> list[str]:
        """Return the summary that is printed without `--json`."""
        return [
            f"{one.folder.name}: {f'view {one.view} of ' if one.view else ''}{one.images} images, {one.precision}, in "
            f"{one.shards} shards, {decimal(one.bytes)}, written {datetime.fromtimestamp(one.modified):%Y-%m-%d %H:%M}"
            for one in self.fingerprints
        ]


def list_store(root: Path) -> Listing:
    """List the fingerprints of the store at `root`. Raises StoreError if `root` holds no features."""
    return Listing([contents(store) for store in open_stores(root)])
