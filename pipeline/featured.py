"""Examples with their features: the first step of every command that needs features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.cuts import Cut, chosen_cuts, cut_names
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.backbones.frozen import FrozenBackbone
from headstart.features.backbones.network import Network, load_networks, resolved_config, weights_digest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError, RunError
from headstart.features.extract import Extracted, extract_features
from headstart.features.images.augment import Augment, View
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.store import FeatureStore, create_folder
from headstart.pipeline.data.examples import (
    Example,
    Scan,
    reject_undecodable,
    require_few_rejects,
    scan,
    scan_memory,
    write_rejects,
)
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.runs import Run

Stores = dict[Cut, FeatureStore]
ScanCheck = Callable[[Scan, dict[str, str]], None]  # raises, given the scan and the coming `fingerprints()`


@dataclass(frozen=True)
class FeaturedNetwork:
    """One network, and the stores that hold its features."""

    network: Network
    freeze: Callable[[], FrozenBackbone]  # builds the network's fast form at the first call
    stores: Stores
    views: list[Stores] = field(default_factory=list)  # of each augmented view of the training images


@dataclass(frozen=True)
class FeaturedExamples:
    """Usable examples, and the stores that hold their features."""

    examples: list[Example]
    class_names: list[str]
    rejects: list[Reject]
    ignored: int
    parts: list[FeaturedNetwork]  # one for each backbone
    config: FeatureConfig  # with everything that was left open filled in
    extraction: ExtractionConfig
    extracted: Extracted  # by this call alone
    views_extracted: int = 0

    @property
    def network(self) -> Network:
        """The one network there is; raises OptionError where there are several."""
        if len(self.parts) > 1:
            raise OptionError(f"--backbone {self.config.backbone}: this needs one backbone alone")
        return self.parts[0].network

    @property
    def stores(self) -> Stores:
        """The store of each cut, in the order of the features' columns."""
        return {cut: store for part in self.parts for cut, store in part.stores.items()}

    def of(self, split: str) -> list[Example]:
        """The examples of `split`; all of them for `all`."""
        return [example for example in self.examples if split in ("all", example.split)]

    def labelled(self, examples: Sequence[Example], views: bool = False) -> LabelledFeatures:
        """The features of `examples`, all cuts side by side, with their labels.

        With `views`, the augmented views of `examples` are read too; only training examples have them.
        """
        ends = np.cumsum([0, *(store.form.shape[0] for store in self.stores.values())]).tolist()
        return LabelledFeatures(
            features=_read(self.stores.values(), examples),
            labels=np.array([example.label for example in examples], np.int64),
            columns=dict(zip(self.stores, map(slice, ends[:-1], ends[1:]), strict=True)),
            classes=len(self.class_names),
            views=self.views_of(examples) if views else (),
            reduced=self.config.precision == "bfloat16",
        )

    def views_of(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """The features float32 [N, D] of training examples in each augmented view, as `labelled` has them."""
        by_view = zip(*(part.views for part in self.parts), strict=True)
        return [_read([one for stores in parts for one in stores.values()], examples) for parts in by_view]

    def fingerprints(self) -> dict[str, str]:
        """The key of each cut's fingerprint, by the name of the cut."""
        return _fingerprints(self.stores)

    def weights_digest(self) -> str:
        """See `network.weights_digest`."""
        return weights_digest([part.network for part in self.parts])

    def fields(self) -> dict[str, Any]:
        """The JSON object of `headstart features`."""
        keys = [store.key for store in self.stores.values()]
        return {
            "examples": len(self.examples),
            "extracted": self.extracted.extracted,
            "cached": len({example.image.digest for example in self.examples} - self.extracted.digests),
            "rejected": len(self.rejects),
            "ignored": self.ignored,
            "seconds": self.extracted.seconds,
            "images_per_second": self.extracted.images_per_second,
            "store": str(self.extraction.store),
            "fingerprint": keys[0] if len(keys) == 1 else keys,
            "views_extracted": self.views_extracted,
        }

    def lines(self) -> Iterator[str]:
        """The summary of `headstart features`."""
        fields, store = self.fields(), self.extraction.store
        seconds, speed, count = fields["seconds"], fields["images_per_second"], fields["extracted"]
        timed = f" ({seconds:.1f} s, {speed:.1f} images/s)" if count else ""
        folders = [one.folder.name for one in self.stores.values()]
        yield (
            f"{fields['examples']} examples in {len(self.class_names)} classes: {count} extracted{timed}, "
            f"{fields['cached']} cached"
        )
        if self.config.views:
            count = len({example.image.digest for example in self.of("train")})
            yield f"{self.config.views} views of {count} training images: {self.views_extracted} extracted"
        yield f"{len(self.rejects)} images rejected ({store}/rejects.csv), {self.ignored} other files ignored"
        where = f"{store}/{folders[0]}" if len(folders) == 1 else f"{len(folders)} folders of {store}"
        yield f"features are in {where}; `headstart store ls {store}` lists all"


def cache_features(
    data: Path, config: FeatureConfig, extraction: ExtractionConfig, seed: int = 0, require: ScanCheck | None = None
) -> FeaturedExamples:
    """Scan `data`, extract the features that the store lacks, and return the examples that can be used.

    Writes `rejects.csv` into the store's folder. Raises DataError where there are no images, or more rejects than
    `extraction.max_rejects`; OptionError, WeightsError or StoreError where the settings can't be used.

    Args:
        seed: of the views, and of the split where `data` has no split folders.
        require: called before anything is extracted; it raises if the scan can't be used.
    """
    chosen_cuts(config)  # a wrong name is told before the scan
    store = extraction.store
    create_folder(store)
    scanned = scan(data, seed, extraction.max_pixels, scan_memory(store, data, extraction.rehash))
    found = len(scanned.examples) + len(scanned.rejects)
    try:
        require_few_rejects(scanned.rejects, found, extraction.max_rejects)
        networks = load_networks(config, extraction, KnownBackbones(store, extraction.rehash))
        if require:
            asked = {cut: one for network in networks for cut, one in network.stores().items()}
            require(scanned, _fingerprints(asked))
        scanned, parts, done = _extract_all(scanned, networks)
    except DataError:
        write_rejects(store, scanned.rejects)
        raise
    write_rejects(store, scanned.rejects)
    require_few_rejects(scanned.rejects, found, extraction.max_rejects)
    if not scanned.examples:
        raise DataError(f"{data}: none of {found} images can be used; {store}/rejects.csv says why")
    train = [example.image for example in scanned.examples if example.split == "train"]
    viewed = [_extract_views(part, train, first_views(config.augment, seed, config.views)) for part in parts]
    return FeaturedExamples(
        **vars(scanned),
        # The fast forms are let go: they would fill memory while heads are trained.
        parts=[
            replace(part, freeze=part.network.freeze, views=stores)
            for part, (stores, _) in zip(parts, viewed, strict=True)
        ],
        config=resolved_config(config, networks),
        extraction=extraction,
        extracted=done,
        views_extracted=sum(count for _, count in viewed),
    )


def _extract_all(scanned: Scan, networks: Sequence[Network]) -> tuple[Scan, list[FeaturedNetwork], Extracted]:
    """Extract with each network; what one can't decode is no example for the next."""
    parts, done = [], Extracted()
    for network in networks:
        images = [example.image for example in scanned.examples]
        part = _featured(network, images)
        here = extract_features(images, part.freeze, part.stores, part.network.images)
        scanned = reject_undecodable(scanned, here.rejects)
        done += here
        parts.append(part)
    return scanned, parts, done


def _featured(network: Network, images: Sequence[ImageFile]) -> FeaturedNetwork:
    network = network.calibrated(images)
    return FeaturedNetwork(network, cache(network.freeze), _created(network))


def _created(network: Network, view: View | None = None) -> Stores:
    return {cut: store.create() for cut, store in network.stores(view).items()}


def _extract_views(
    part: FeaturedNetwork, images: Sequence[ImageFile], views: Sequence[View | None]
) -> tuple[list[Stores], int]:
    """Extract views of usable images; None is the image as it is. Returns the stores of each, and the new features."""
    filled, extracted = [], 0
    for view in views:
        stores = _created(part.network, view)
        done = extract_features(images, part.freeze, stores, part.network.images, view)
        if done.rejects:
            first = done.rejects[0]
            raise DataError(f"{first.path}: {first.reason}, {first.detail} ({len(done.rejects)} such files)")
        filled.append(stores)
        extracted += done.extracted
    return filled, extracted


def extract_at(
    network: Network, cut: Cut, examples: Sequence[Example], views: Sequence[View | None]
) -> list[FeatureStore]:
    """Give `examples` the features that they lack at another cut of `network`. Returns the store of each view.

    Raises DataError where a file is gone, or is not what was scanned.
    """
    images = [example.image for example in examples]
    stores, _ = _extract_views(_featured(replace(network, cuts=(cut,)), images), images, views)
    return [one[cut] for one in stores]


def first_views(augment: Augment, seed: int, count: int) -> list[View]:
    """The first `count` views of a seed."""
    return [View(augment, seed, number) for number in range(1, count + 1)]


def load_examples(run: Run, data: Path | None = None) -> FeaturedExamples:
    """The examples of a run, or of another folder `data`, scanned anew, with the run's features.

    Raises RunError where the run's settings no longer yield the features that its head was trained on.
    """
    settings = run.config()
    data = data or Path(settings["data"])
    if not data.exists():
        raise RunError(f"{run.path}: its data folder {data} is gone; say with --data where it is now")
    config, extraction = run.configs()
    # Training settled how many rejects there may be; where it matters now, the example list is compared.
    extraction = replace(extraction, max_rejects=1.0, rehash=False)

    def require(_: Scan, fingerprints: dict[str, str]) -> None:
        if fingerprints != settings["fingerprints"]:
            raise RunError(
                f"{run.path}: its features can't be made again: {config.weights} holds other weights than it was "
                "trained with, its int8 network is gone, or another version of headstart made it; run "
                "`headstart head` again, with --overwrite"
            )

    return cache_features(data, replace(config, views=0), extraction, settings["seed"], require)


def _fingerprints(stores: Stores) -> dict[str, str]:
    return dict(zip(cut_names(list(stores)), (store.key for store in stores.values()), strict=True))


def _read(stores: Any, examples: Sequence[Example]) -> np.ndarray:
    digests = [example.image.digest for example in examples]
    return np.concatenate([store.read(digests) for store in stores], axis=1).astype(np.float32, copy=False)
