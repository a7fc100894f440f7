"""`store explain`: which images of a data folder have features, and how other features in the store differ."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.features.backbones.facts import KnownBackbones
from headstart.features.backbones.network import load_networks
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.store.maintain import open_stores
from headstart.features.store.store import FeatureStore
from headstart.pipeline.data.examples import scan, scan_memory


@dataclass(frozen=True)
class Neighbour:
    """Another fingerprint in the store.

    Args:
        present: number of the images that have its features.
        differs: name of each field that differs, with the value asked for and the value there.
    """

    folder: str
    present: int
    differs: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class CutState:
    """One cut that was asked for.

    Args:
        fingerprint: the hash of the features that were asked for.
        present: number of distinct images that have these features.
        missing: number of distinct images that do not.
        others: the other fingerprints in the store, the most similar first.
    """

    cut: str
    fingerprint: str
    present: int
    missing: int
    others: list[Neighbour]


@dataclass(frozen=True)
class Explanation:
    """The state of each cut that was asked for."""

    cuts: list[CutState]

    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        return {"cuts": [asdict(state) for state in self.cuts]}

    def lines(self) -> list[str]:
        """The summary for people."""
        lines = []
        for state in self.cuts:
            lines.append(
                f"{state.cut}: {state.present} images have features, {state.missing} have none, or can't be used"
            )
            for other in state.others:
                differences = "; ".join(
                    f"{field}: asked for {values['asked']}, there {values['there']}"
                    for field, values in other.differs.items()
                )
                lines.append(f"  {other.folder} has {other.present} of them, but differs in {differences}")
        return lines


def explain(data: Path, config: FeatureConfig, extraction: ExtractionConfig, seed: int = 0) -> Explanation:
    """Count, for each cut of `config`, the images of `data` with features in `extraction.store`.

    Args:
        seed: of the split, where `data` has no split folders.

    Raises:
        StoreError: the store holds no features.
        DataError: `data` has no images.
        OptionError, WeightsError: the settings can't be used.
    """
    root = extraction.store
    stores = open_stores(root)
    found = scan(data, seed, extraction.max_pixels, scan_memory(root, data, extraction.rehash))
    digests = {example.image.digest for example in found.examples}
    networks = load_networks(config, extraction, KnownBackbones(root, extraction.rehash))
    asked = [store for network in networks for store in network.stores().values()]
    return Explanation([_state(store, digests, stores) for store in asked])


def _state(store: FeatureStore, digests: Collection[str], stores: Sequence[FeatureStore]) -> CutState:
    others = [
        Neighbour(
            folder=other.folder.name,
            present=len(digests) - len(other.missing(digests)),
            differs=store.fingerprint.differences(other.fingerprint),
        )
        for other in stores
        if other.key != store.key
    ]
    missing = len(store.missing(digests))
    return CutState(
        cut=store.fingerprint.cut,
        fingerprint=store.key,
        present=len(digests) - missing,
        missing=missing,
        others=sorted(others, key=lambda other: len(other.differs)),
    )
