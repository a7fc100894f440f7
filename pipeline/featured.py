"""Examples with their features: what every command that needs features goes through."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.backbones.network import (
    Network,
    fill,
    fill_views,
    freeze,
    load_networks,
    names_of,
    resolved,
    weights_digest,
)
from headstart.features.config import FeatureConfig
from headstart.features.errors import DataError, OptionError, RunError
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.images.scan_memory import ScanMemory
from headstart.features.store.store import FeatureStore, create_folder
from headstart.pipeline.data.examples import Example, Scan, check_rejects, scan, without, write_rejects
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.runs import Run

if TYPE_CHECKING:  # TensorFlow takes seconds to import, and what finds an error earlier need not wait
    from headstart.features.backbones.frozen import FrozenBackbone
    from headstart.features.extract import Extraction
    from headstart.features.images.augment import Augment, View


@dataclass(frozen=True)
class CachedFeatures:
    """The features of one network.

    Args:
        stores: one for each cut.
        views: the same for each view of the training images.
    """

    network: Network
    stores: list[FeatureStore]
    views: list[list[FeatureStore]] = field(default_factory=list)


@dataclass(frozen=True)
class CachedExamples:
    """Usable examples, and the stores that hold their features.

    Args:
        parts: one for each backbone.
        config: the settings with everything that `auto` left open filled in.
        extracted: digests given features now; `cached` had them before.
        seconds: spent extracting.
        views_extracted: features of views made now.
    """

    examples: list[Example]
    class_names: list[str]
    rejects: list[Reject]
    ignored: int
    parts: list[CachedFeatures]
    config: FeatureConfig
    extracted: int
    cached: int
    seconds: float
    images_per_second: float
    views_extracted: int = 0

    @property
    def network(self) -> Network:
        """The one network there is.

        Raises:
            OptionError: there are several.
        """
        if len(self.parts) > 1:
            raise OptionError(f"--backbone {self.config.backbone}: this needs one backbone alone")
        return self.parts[0].network

    @property
    def stores(self) -> list[FeatureStore]:
        """Those of all networks, side by side as the features are."""
        return [store for part in self.parts for store in part.stores]

    def of(self, split: str) -> list[Example]:
        """The examples of `split`; all of them for `all`."""
        return [example for example in self.examples if split in ("all", example.split)]

    def labelled(self, examples: Sequence[Example], views: bool = False) -> LabelledFeatures:
        """The features of `examples`, backbones and cuts side by side, with their labels.

        Args:
            views: read the augmented views, too; `examples` are then training examples.
        """
        widths = [store.form.shape[0] for store in self.stores]
        ends = np.cumsum([0, *widths]).tolist()
        columns = map(slice, ends[:-1], ends[1:])
        by_view = zip(*(part.views for part in self.parts), strict=True) if views else ()
        return LabelledFeatures(
            features=_read(self.stores, examples),
            labels=np.array([example.label for example in examples], np.int64),
            classes=len(self.class_names),
            columns=dict(zip(_names([part.network for part in self.parts]), columns, strict=True)),
            views=[_read([store for stores in parts for store in stores], examples) for parts in by_view],
            reduced=self.config.precision == "bfloat16",
        )

    def fingerprints(self) -> dict[str, str]:
        """The hash of the fingerprint of each cut, named as in `LabelledFeatures.columns`."""
        return dict(zip(_names([part.network for part in self.parts]), (one.key for one in self.stores), strict=True))

    def weights_digest(self) -> str:
        """As `extraction.weights_digest`."""
        return weights_digest([part.network for part in self.parts])


def _names(networks: Sequence[Network]) -> list[str]:
    return names_of([(network.backbone.name, network.cuts) for network in networks])


def _read(stores: Sequence[FeatureStore], examples: Sequence[Example]) -> np.ndarray:
    digests = [example.image.digest for example in examples]
    return np.concatenate([store.read(digests) for store in stores], axis=1).astype(np.float32, copy=False)


ScanCheck = Callable[[Scan, dict[str, str]], None]  # raises, given what was scanned, and what `fingerprints` will be


def cache_features(data: Path, config: FeatureConfig, seed: int = 0, check: ScanCheck | None = None) -> CachedExamples:
    """Scan `data`, extract the features that the store lacks, and say which examples can be used.

    Writes `rejects.csv` into the store's folder.

    Args:
        seed: of the views, and of the split, where `data` has no split folders.
        check: called before anything is extracted.

    Raises:
        DataError: no images, or more rejects than `config.max_rejects`.
        OptionError, WeightsError, StoreError: the settings can't be used.
    """
    from headstart.features.backbones.facts import BackboneMemory

    create_folder(config.store)
    scanned = scan(data, seed, config.max_pixels, scan_memory(config.store, data, config.rehash))
    found = len(scanned.examples) + len(scanned.rejects)
    try:
        check_rejects(scanned.rejects, found, config.max_rejects)
        networks = load_networks(config, BackboneMemory(config.store, config.rehash))
        if check:
            keys = [store.key for network in networks for store in network.stores()]
            check(scanned, dict(zip(_names(networks), keys, strict=True)))
        scanned, parts, frozen, done = _fill_all(scanned, networks)
    except DataError:
        write_rejects(config.store, scanned.rejects)
        raise
    write_rejects(config.store, scanned.rejects)
    check_rejects(scanned.rejects, found, config.max_rejects)
    if not scanned.examples:
        raise DataError(f"{data}: none of {found} images can be used; {config.store}/rejects.csv says why")
    train = [example.image for example in scanned.examples if example.split == "train"]
    views = views_of(config.augment, seed, config.views)
    parts, views_extracted = _fill_views(train, parts, frozen, views)
    return CachedExamples(
        scanned.examples, scanned.class_names, scanned.rejects, scanned.ignored, parts, resolved(config, networks),
        done.extracted, len({example.image.digest for example in scanned.examples} - done.digests), done.seconds,
        done.images_per_second, views_extracted,
    )  # fmt: skip


def _fill_all(
    scanned: Scan, networks: Sequence[Network]
) -> tuple[Scan, list[CachedFeatures], list[FrozenBackbone], Extraction]:
    """What is left of `scanned`, the features at each network, the networks' fast forms, and what all of it took."""
    from headstart.features.extract import Extraction

    parts, frozen = [], []
    digests: frozenset[str] = frozenset()
    rejects: list[Reject] = []
    seconds = 0.0
    for network in networks:
        images = [example.image for example in scanned.examples]
        filled, fast = freeze(network, images)
        stores, done = fill(images, filled, fast)
        scanned = without(scanned, done.rejects)
        digests |= done.digests
        rejects += done.rejects
        seconds += done.seconds
        parts.append(CachedFeatures(filled, stores))
        frozen.append(fast)
    return scanned, parts, frozen, Extraction(digests, rejects, seconds)


def _fill_views(
    images: Sequence[ImageFile],
    parts: Sequence[CachedFeatures],
    frozen: Sequence[FrozenBackbone],
    views: Sequence[View],
) -> tuple[list[CachedFeatures], int]:
    """`parts` with their `views`, and how many features were made."""
    viewed, extracted = [], 0
    for part, fast in zip(parts, frozen, strict=True):
        stores, more = fill_views(images, part.network, fast, views)
        viewed.append(replace(part, views=stores))
        extracted += more
    return viewed, extracted


def fill_more(
    cached: CachedExamples, cuts: Sequence[str], examples: Sequence[Example], views: Sequence[View | None]
) -> list[list[FeatureStore]]:
    """Give `examples` features at other cuts of the one network, and of views of theirs, where they lack them.

    Returns:
        For each of `views`, the stores of `cuts`.

    Raises:
        DataError: a file is gone, or is not what was scanned.
    """
    images = [example.image for example in examples]
    network, frozen = freeze(replace(cached.network, cuts=list(cuts)), images)
    return fill_views(images, network, frozen, views)[0]


def views_of(augment: Augment, seed: int, count: int) -> list[View]:
    """The first `count` views of a seed."""
    from headstart.features.images.augment import View

    return [View(augment, seed, number) for number in range(1, count + 1)]


def scan_memory(store: Path, data: Path, forget: bool = False) -> ScanMemory:
    """What the last scan of `data` learnt, as it lies in the store's folder."""
    return ScanMemory(store / "scans", data, forget)


def scan_all(store: Path, data: Path, seed: int = 0) -> Scan:
    """A scan of images of any size: what has features is of use, whatever the limit was when they were made."""
    return scan(data, seed, sys.maxsize, scan_memory(store, data))


def load_examples(run: Run, data: Path | None = None) -> CachedExamples:
    """The examples of a run, or of another folder `data`, scanned anew, with the run's features.

    Raises:
        RunError: the run's settings no longer yield the features that its head was trained on.
    """
    config = run.config()
    data = data or Path(config["data"])
    if not data.exists():
        raise RunError(f"{run.path}: its data folder {data} is gone; say with --data where it is now")
    # What may be missing was settled in training; where it matters now, the example list is compared.
    changes = {"store": Path(config["features"]["store"]), "max_rejects": 1.0, "rehash": False, "views": 0}
    settings = FeatureConfig(**{**config["features"], **changes})

    def check(_: Scan, fingerprints: dict[str, str]) -> None:
        if fingerprints != config["fingerprints"]:
            raise RunError(
                f"{run.path}: its features can't be made again: {settings.weights} holds other weights than it was "
                "trained with, its int8 network is gone, or another version of headstart made it; run "
                "`headstart head` again, with --overwrite"
            )

    return cache_features(data, settings, config["seed"], check)
