"""What a store holds for the images of a data folder: what is missing and why, and what no one uses."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headstart.features.backbones.network import load_networks
from headstart.features.config import FeatureConfig
from headstart.features.errors import DataError
from headstart.features.store.maintain import drop_unused, open_stores
from headstart.features.store.store import FeatureStore
from headstart.pipeline.data.examples import scan
from headstart.pipeline.featured import scan_all, scan_memory


@dataclass(frozen=True)
class Neighbour:
    """Another fingerprint in the store: how many of the images have its features, and where it differs.

    Args:
        differs: field of the fingerprint to what was asked for and what is there.
    """

    folder: str
    present: int
    differs: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class CutState:
    """How many distinct images have features at a cut, how many don't, and what else is there."""

    cut: str
    fingerprint: str
    present: int
    missing: int
    others: list[Neighbour]


@dataclass(frozen=True)
class Unused:
    """Images of one fingerprint that some data folder uses, those that none does, and their bytes."""

    folder: str
    kept: int
    dropped: int
    bytes: int


def explain(root: Path, data: Path, config: FeatureConfig, seed: int = 0) -> list[CutState]:
    """Say, for each cut of `config`, which images of `data` have features in `root`, and how other fingerprints differ.

    Raises:
        StoreError: nothing is in `root`.
        DataError: no images.
        OptionError, WeightsError: the settings can't be used.
    """
    from headstart.features.backbones.facts import BackboneMemory

    there = open_stores(root)
    config = replace(config, store=root)
    found = scan(data, seed, config.max_pixels, scan_memory(root, data, config.rehash))
    digests = {example.image.digest for example in found.examples}
    networks = load_networks(config, BackboneMemory(root, config.rehash))
    asked = [store for network in networks for store in network.stores()]
    return [_state(store, digests, there) for store in asked]


def _state(store: FeatureStore, digests: Collection[str], there: Sequence[FeatureStore]) -> CutState:
    others = []
    for other in there:
        if other.key == store.key:
            continue
        differs = _differences(store.fingerprint, other.fingerprint)
        others.append(Neighbour(other.folder.name, len(digests) - len(other.missing(digests)), differs))
    others.sort(key=lambda other: len(other.differs))
    missing = len(store.missing(digests))
    return CutState(store.fingerprint["cut"], store.key, len(digests) - missing, missing, others)


def _differences(asked: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    plain = json.loads(json.dumps(asked))  # as it would come back from disk
    return {
        field: {"asked": plain.get(field), "there": there.get(field)}
        for field in sorted({*plain, *there})
        if plain.get(field) != there.get(field)
    }


def unused(root: Path, data: Sequence[Path], drop: bool = False) -> list[Unused]:
    """Count what no folder of `data` uses, and `drop` it.

    Raises:
        StoreError: nothing is in `root`.
        DataError: a folder without images, or with files that can't be read: they may be in use.
    """
    stores = open_stores(root)
    used = {digest for folder in data for digest in _used_by(root, folder)}
    counts = []
    for store in stores:
        held = set(store.digests())
        dropped = len(held - used)
        counts.append(Unused(store.folder.name, len(held) - dropped, dropped, dropped * store.form.image_bytes))
        if drop:
            drop_unused(store, used)
    return counts


def _used_by(root: Path, data: Path) -> set[str]:
    found = scan_all(root, data)
    unread = [reject for reject in found.rejects if reject.reason in ("unreadable", "vanished")]
    if unread:
        raise DataError(
            f"{data}: {len(unread)} files can't be read, and so it is not known whose features they use; "
            f"the first is {unread[0].path}: {unread[0].detail}"
        )
    return {example.image.digest for example in found.examples}
