"""Examples with their features: what every command that needs features goes through."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.errors import DataError, RunError
from features.image_files import Reject
from features.memory import ScanMemory
from features.store import FeatureStore, create_folder
from pipeline.examples import Example, Scan, check_rejects, scan, without, write_rejects
from pipeline.extraction import fill, fill_views, frozen_backbone, image_config, load_backbone, stores_of
from pipeline.feature_config import FeatureConfig
from pipeline.runs import Run

if TYPE_CHECKING:  # TensorFlow takes seconds to import, and `--help` needs no more than the settings below
    from features.augment import Augment, View
    from features.backbones import Backbone
    from features.images import ImageConfig


@dataclass(frozen=True)
class CachedExamples:
    """Usable examples, and the stores that hold their features, one for each cut.

    Args:
        config: the settings with everything that `auto` left open filled in.
        extracted: digests given features now; `cached` had them before.
        seconds: spent extracting.
        views: for each view of `config`, the stores of the training images' features, one for each cut.
        views_extracted: features of views made now.
    """

    examples: list[Example]
    class_names: list[str]
    rejects: list[Reject]
    ignored: int
    backbone: Backbone
    cuts: list[str]
    stores: list[FeatureStore]
    config: FeatureConfig
    extracted: int
    cached: int
    seconds: float
    images_per_second: float
    views: list[list[FeatureStore]] = field(default_factory=list)
    views_extracted: int = 0

    @property
    def image_config(self) -> ImageConfig:
        """How pixels are made."""
        return image_config(self.config)

    def of(self, split: str) -> list[Example]:
        """The examples of `split`; all of them for `all`."""
        return [example for example in self.examples if split in ("all", example.split)]

    def arrays(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 [N, D], cuts side by side, and labels int64 [N]."""
        digests = [example.image.digest for example in examples]
        features = np.concatenate([store.read(digests) for store in self.stores], axis=1)
        return features.astype(np.float32, copy=False), np.array([example.label for example in examples], np.int64)

    def fingerprints(self) -> dict[str, str]:
        """Cut to the hash of its fingerprint."""
        return _keys(self.cuts, self.stores)


def _keys(cuts: Sequence[str], stores: Sequence[FeatureStore]) -> dict[str, str]:
    return {cut: store.key for cut, store in zip(cuts, stores, strict=True)}


def cache_features(
    data: Path, config: FeatureConfig, seed: int = 0, check: Callable[[dict[str, str]], None] | None = None
) -> CachedExamples:
    """Scan `data`, extract the features that the store lacks, and say which examples can be used.

    Writes `rejects.csv` into the store's folder.

    Args:
        seed: of the views, and of the split, where `data` has no split folders.
        check: called with what `fingerprints` will be, before anything is extracted.

    Raises:
        DataError: no images, or more rejects than `config.max_rejects`.
        OptionError, WeightsError, StoreError: the settings can't be used.
    """
    create_folder(config.store)
    scanned = scan(data, seed, config.max_pixels, scan_memory(config.store, data, config.rehash))
    images = [example.image for example in scanned.examples]
    found = len(images) + len(scanned.rejects)
    try:
        check_rejects(scanned.rejects, found, config.max_rejects)
        backbone, cuts, config = load_backbone(config)
        if check:
            check(_keys(cuts, stores_of(backbone, cuts, config)))
        frozen = frozen_backbone(backbone, cuts, config, images)
        stores, done = fill(images, frozen, config)
    except DataError:
        write_rejects(config.store, scanned.rejects)
        raise
    scanned = without(scanned, done.rejects)
    write_rejects(config.store, scanned.rejects)
    check_rejects(scanned.rejects, found, config.max_rejects)
    if not scanned.examples:
        raise DataError(f"{data}: none of {found} images can be used; {config.store}/rejects.csv says why")
    train = [example.image for example in scanned.examples if example.split == "train"]
    views, views_extracted = fill_views(train, frozen, config, views_of(config.augment, seed, config.views))
    return CachedExamples(
        scanned.examples, scanned.class_names, scanned.rejects, scanned.ignored, frozen.backbone, cuts, stores,
        config, done.extracted, len({example.image.digest for example in scanned.examples}) - done.extracted,
        done.seconds, done.images_per_second, views, views_extracted,
    )  # fmt: skip


def fill_more(
    cached: CachedExamples, cuts: Sequence[str], examples: Sequence[Example], views: Sequence[View | None]
) -> list[list[FeatureStore]]:
    """Give `examples` features at other cuts, and of views of theirs, where they lack them.

    Returns:
        For each of `views`, the stores of `cuts`.

    Raises:
        DataError: a file is gone, or is not what was scanned.
    """
    frozen = frozen_backbone(cached.backbone, cuts, cached.config, [example.image for example in examples])
    return fill_views([example.image for example in examples], frozen, cached.config, views)[0]


def views_of(augment: Augment, seed: int, count: int) -> list[View]:
    """The first `count` views of a seed."""
    from features.augment import View

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

    def check(fingerprints: dict[str, str]) -> None:
        if fingerprints != config["fingerprints"]:
            raise RunError(
                f"{run.path}: its features can't be made again: {settings.weights} holds other weights than it was "
                "trained with, its int8 network is gone, or another version of headstart made it; run "
                "`headstart head` again, with --overwrite"
            )

    return cache_features(data, settings, config["seed"], check)
