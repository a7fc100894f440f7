"""`store explain`: count the images that have the requested features.

The store may hold features with other settings, too. For each folder of such features, the command lists the settings
that differ from the requested settings.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.features.backbones.used import digest_in_store, weights_by_digest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.digests import HexDigests
from headstart.features.errors import StoreError
from headstart.features.frozen.precision import Verdict, stored_verdict
from headstart.features.store.maintain import open_stores
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import scan, scan_memory, tell_reading
from headstart.pipeline.featured import networks_for
from headstart.pipeline.upkeep.telling import told_differences


@dataclass(frozen=True)
class Neighbour:
    """A fingerprint in the store that differs from the requested fingerprint."""

    folder: str
    present: int  # images that have features of this fingerprint
    differs: dict[str, dict[str, Any]]  # field name to its values `asked` and `there`; see `Fingerprint.differences`


@dataclass(frozen=True)
class CutState:
    """How many images have features at one requested cut. Copies of an image count once."""

    cut: str
    fingerprint: str
    present: int  # images that have features of `fingerprint`
    missing: int  # images that have no such features
    others: list[Neighbour]  # the other fingerprints in the store, the most similar first


@dataclass(frozen=True)
class Explanation:
    """The state of each requested cut, and the precision that `--precision auto` means for the store."""

    cuts: list[CutState]
    precision_verdict: Verdict | None  # None if nothing was timed for this store, or the verdict is damaged
    weights: dict[str, str]  # the `--weights` of the features in this store, by digest

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {name: value for name, value in asdict(self).items() if name != "weights"}

    def lines(self) -> list[str]:
        """Return the summary that is printed without `--json`."""
        lines = []
        for state in self.cuts:
            have = f"{state.present} images have features"
            lines.append(f"{state.cut}: {have}, {state.missing} have none, or can't be used")
            for other in state.others:
                differences = told_differences(other.differs, self.weights)
                lines.append(f"  {other.folder} has {other.present} of them, but differs in {'; '.join(differences)}")
        return lines + ([str(self.precision_verdict)] if self.precision_verdict else [])


def explain(
    data: Path,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    seed: int = 0,
    reading: DataConfig = DataConfig(),
) -> Explanation:
    """Count the images of `data` that have features in `extraction.store`, for each cut of `config`.

    The weights that `config` names need not be on this machine. If these weights were never used with the store, all
    features in the store count as made with other weights.

    Raises StoreError if the store holds no features, DataError if `data` has no images, and OptionError if the settings
    can't be used.
    """
    root = extraction.store
    stores = open_stores(root)
    memory = scan_memory(root, data, extraction.rehash)
    found = scan(
        data,
        seed,
        max_pixels=extraction.max_pixels,
        memory=memory,
        pages=config.pages,
        config=reading,
        labelled=False,
    )
    tell_reading(found)
    digests = set(HexDigests(found.examples.digests))

    def digest_of(name: str, weights: str, seed: int) -> str:
        return digest_in_store(root, name, weights, seed) or f"{weights}, which {root} does not know"

    networks = networks_for(found, config, extraction, digest_of)
    states = [_state(store, digests, stores) for network in networks for store in network.stores().values()]
    return Explanation(states, _verdict(root), weights_by_digest(root))


def _verdict(root: Path) -> Verdict | None:
    try:
        return stored_verdict(root)
    except StoreError as error:  # `auto` was not asked for, so the command needs no verdict
        console.print(str(error))
        return None


def _state(store: FeatureStore, digests: Collection[str], stores: Sequence[FeatureStore]) -> CutState:
    asked, count, missing = store.fingerprint, len(digests), len(store.missing(digests))
    others = [
        Neighbour(other.folder.name, count - len(other.missing(digests)), asked.differences(other.fingerprint))
        for other in stores
        if other.key != store.key
    ]
    others.sort(key=lambda other: len(other.differs))
    return CutState(asked.cut, store.key, count - missing, missing, others)
