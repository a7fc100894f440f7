"""`store verify`: read every byte of a store, and compare its features with a fresh forward pass."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.errors import HeadstartError, StoreError
from headstart.features.frozen.int8_files import damaged_networks
from headstart.features.store.compact import drop_shards
from headstart.features.store.maintain import Damage, Verification, find_stores, verify
from headstart.features.terminal import console
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.reading import require_data
from headstart.pipeline.upkeep.config import VerifyConfig

if TYPE_CHECKING:
    from headstart.pipeline.upkeep.recompute import Recomputation


@dataclass(frozen=True)
class VerifyResult:
    """The damage that was found in the store at `root`."""

    root: Path
    repaired: bool  # whether bad shards were dropped
    read: Verification
    folders: list[Damage]  # folders that no command repairs: of fingerprints, of int8 networks, or in place of shards
    fresh: "Recomputation | None" = None  # None if no features were recomputed

    @property
    def damage(self) -> list[Damage]:
        """Return all bad shards, merged files, indexes and folders."""
        fresh = self.fresh.bad if self.fresh else ()
        return [*self.read.bad, *fresh, *self.read.merged, *self.read.indexes, *self.folders]

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "shards": self.read.shards,
            "images": self.read.images,
            "bad": len(self.damage),
            "bad_shards": [asdict(one) for one in self.damage],
            "recomputed": self.fresh.images if self.fresh else 0,
            "largest_error": self.fresh.largest_error if self.fresh else None,
        }

    def lines(self) -> list[str]:
        """Return the summary that is printed without `--json`."""
        lines = [one.reason if one.reason.startswith(one.path) else f"{one.path}: {one.reason}" for one in self.damage]
        lines.append(f"{self.read.shards} shards, {self.read.images} images, {len(self.damage)} bad")
        if self.fresh:
            lines.append(
                f"{self.fresh.images} images recomputed; largest relative error {self.fresh.largest_error:.2g}"
            )
        if self.damage and self.repaired:
            lines.append("bad shards are dropped: `headstart features` does their images again")
        return lines

    def failure(self) -> HeadstartError | None:
        """Return the error to raise for damage that was not repaired, or None if there is no such damage."""
        if self.folders:
            one = self.folders[0]
            return StoreError(one.reason if one.reason.startswith(one.path) else f"{one.path}: {one.reason}")
        if self.damage and not self.repaired:
            return StoreError(f"{self.root}: {len(self.damage)} bad among {self.read.shards} shards; --repair mends it")
        return None


def verify_store(root: Path, config: VerifyConfig, seed: int = 0, reading: DataConfig = DataConfig()) -> VerifyResult:
    """Read every byte of the store at `root`. With `config.data`, also compare features with a fresh forward pass.

    `seed` decides which images are compared. If `config.data` is a list of images, `reading` decides how the list is
    read. With `config.repair`, bad shards and indexes are removed, and merged files are updated.

    If damage remains in the store, no features are compared. Raises StoreError if `root` holds no features, or if none
    of the features can be compared. Raises DataError if `config.data` has no images.
    """
    if config.data:
        require_data(config.data)
    stores, folders = find_stores(root)
    read = verify(stores, config.repair)
    result = VerifyResult(root, config.repair, read, [*folders, *read.folders, *damaged_networks(root)])
    if config.data is None:
        return result
    if result.folders or ((read.bad or read.indexes) and not config.repair):
        console.print("nothing is recomputed before the damage is repaired")
        return result
    from headstart.pipeline.upkeep.recompute import recompute  # late: it imports TensorFlow

    fresh = recompute(stores, config.data, config, seed, reading)
    if config.repair:
        bad = {Path(shard.path) for shard in fresh.bad}
        for store in stores:
            drop_shards(store, [shard for shard in store.shards() if shard in bad])
    return replace(result, fresh=fresh)
