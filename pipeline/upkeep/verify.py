"""`store verify`: reading every byte of a store, and comparing features with a fresh forward pass."""

from dataclasses import replace
from pathlib import Path

from headstart.features.backbones.calibration import damaged_networks
from headstart.features.store.compact import drop_shards
from headstart.features.store.maintain import find_stores, verify
from headstart.features.terminal import console
from headstart.pipeline.upkeep.config import VerifyConfig
from headstart.pipeline.upkeep.damage import VerifyResult


def verify_store(root: Path, config: VerifyConfig, seed: int = 0) -> VerifyResult:
    """Read every byte of the store at `root`; with `config.data`, also compare features with a fresh forward pass.

    `seed` decides which images are compared. None are in a store with damage that was not repaired.

    Raises:
        StoreError: `root` holds no features, or none that can be compared.
        DataError: `config.data` has no images.
    """
    stores, folders = find_stores(root)
    read = verify(stores, config.repair)
    result = VerifyResult(root, config.repair, read, [*folders, *damaged_networks(root)])
    if config.data is None:
        return result
    if result.folders or (read.bad and not config.repair):
        console.print("nothing is recomputed before the damage is repaired")
        return result
    from headstart.pipeline.upkeep.recompute import recompute  # it imports TensorFlow

    fresh = recompute(stores, config.data, config, seed)
    if config.repair:
        bad = {Path(shard.path) for shard in fresh.bad}
        for store in stores:
            drop_shards(store, [shard for shard in store.shards() if shard in bad])
    return replace(result, fresh=fresh)
