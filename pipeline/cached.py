"""Examples with their features: what every command that needs features goes through."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.errors import DataError, RunError
from features.image_files import ImageFile, Reject
from features.memory import ScanMemory
from features.store import FeatureStore, create_folder
from pipeline.examples import Example, Scan, check_rejects, scan, without, write_rejects
from pipeline.feature_config import FeatureConfig
from pipeline.runs import Run

if TYPE_CHECKING:  # TensorFlow takes seconds to import, and `--help` needs no more than the settings below
    from features.augment import Augment, View
    from features.backbones import Backbone
    from features.extract import Extraction
    from features.frozen import FrozenBackbone
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
        return _pixels(self.config)

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
        return {cut: store.key for cut, store in zip(self.cuts, self.stores, strict=True)}


def cache_features(data: Path, config: FeatureConfig, seed: int = 0) -> CachedExamples:
    """Scan `data`, extract the features that the store lacks, and say which examples can be used.

    Writes `rejects.csv` into the store's folder.

    Args:
        seed: of the views, and of the split, where `data` has no split folders.

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
        frozen = _frozen(backbone, cuts, config, images)
        stores, done = _fill(images, frozen, config)
    except DataError:
        write_rejects(config.store, scanned.rejects)
        raise
    scanned = without(scanned, done.rejects)
    write_rejects(config.store, scanned.rejects)
    check_rejects(scanned.rejects, found, config.max_rejects)
    if not scanned.examples:
        raise DataError(f"{data}: none of {found} images can be used; {config.store}/rejects.csv says why")
    train = [example.image for example in scanned.examples if example.split == "train"]
    views, views_extracted = _fill_views(train, frozen, config, views_of(config.augment, seed, config.views))
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
    frozen = _frozen(cached.backbone, cuts, cached.config, [example.image for example in examples])
    return _fill_views([example.image for example in examples], frozen, cached.config, views)[0]


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
    cached = cache_features(data, settings, config["seed"])
    if cached.fingerprints() != config["fingerprints"]:
        raise RunError(
            f"{run.path}: its features can't be made again: {settings.weights} holds other weights than it was "
            "trained with, or another version of headstart made it; run `headstart head` again, with --overwrite"
        )
    return cached


def load_backbone(config: FeatureConfig) -> tuple[Backbone, list[str], FeatureConfig]:
    """The backbone of `config`, its cuts, and `config` with what was left open filled in."""
    from features.backbones import known_cuts
    from features.frozen import resolve_precision
    from features.weights import build_backbone

    cuts = known_cuts(config.cut, config.backbone)
    precision = resolve_precision(config.precision)
    backbone = build_backbone(
        config.backbone, config.weights, config.rescale, config.image_size or None, precision, config.weights_seed
    )
    config = replace(config, cut=tuple(cuts), precision=precision, image_size=backbone.image_size)
    if precision == "int8":
        from features.int8 import calibration, quantised_folder

        known = calibration(quantised_folder(config.store, backbone, cuts, _pixels(config)))
        backbone = replace(backbone, calibration=known)
    return backbone, cuts, config


def _pixels(config: FeatureConfig) -> ImageConfig:
    """How pixels are made."""
    from features.images import ImageConfig

    return ImageConfig(config.image_size, config.resize, config.truncated)


def stores_of(
    backbone: Backbone, cuts: Sequence[str], config: FeatureConfig, view: View | None = None
) -> list[FeatureStore]:
    """The store of each cut, of the images as they are or of a view of them. Nothing is made on disk."""
    from features.frozen import FORWARD_VERSION

    shared = {
        "backbone": backbone.name,
        "weights": backbone.weights_digest,
        **_pixels(config).fingerprint(),
        **(view.fingerprint() if view else {}),
        "rescale": {"scale": backbone.rescaling.scale, "offset": backbone.rescaling.offset},
        "precision": backbone.precision,
        **({"calibration": backbone.calibration} if backbone.calibration else {}),
        "forward_version": FORWARD_VERSION,
        "dtype": "float32" if backbone.precision == "float32" else "float16",
    }
    fingerprints = [{**shared, "cut": cut, "shape": list(backbone.shape(cut))} for cut in cuts]
    return [FeatureStore(config.store, fingerprint) for fingerprint in fingerprints]


def _frozen(
    backbone: Backbone, cuts: Sequence[str], config: FeatureConfig, images: Sequence[ImageFile]
) -> FrozenBackbone:
    """The fast form of `backbone`; of an 8-bit one that is not in the store yet, quantised on some of `images`."""
    from features.frozen import FrozenBackbone

    if backbone.precision != "int8":
        return FrozenBackbone(backbone, cuts, config.batch_size)
    from features.int8 import QuantisedBackbone, calibration, quantise, quantised_folder

    folder = quantised_folder(config.store, backbone, cuts, _pixels(config))
    if calibration(folder) is None:
        quantise(folder, backbone, cuts, images, _pixels(config))
    backbone = replace(backbone, calibration=calibration(folder))
    return QuantisedBackbone(backbone, cuts, config.batch_size, folder)


def _fill(
    images: Sequence[ImageFile], frozen: FrozenBackbone, config: FeatureConfig, view: View | None = None
) -> tuple[list[FeatureStore], Extraction]:
    from features.extract import extract_features

    stores = [store.create() for store in stores_of(frozen.backbone, frozen.cuts, config, view)]
    return stores, extract_features(images, frozen, stores, _pixels(config), view)


def _fill_views(
    images: Sequence[ImageFile], frozen: FrozenBackbone, config: FeatureConfig, views: Sequence[View | None]
) -> tuple[list[list[FeatureStore]], int]:
    """The stores of each of `views` of images that are known to be usable, and how many features were made."""
    filled, extracted = [], 0
    for view in views:
        stores, done = _fill(images, frozen, config, view)
        if done.rejects:
            first = done.rejects[0]
            raise DataError(f"{first.path}: {first.reason}, {first.detail} ({len(done.rejects)} such files)")
        filled.append(stores)
        extracted += done.extracted
    return filled, extracted
