"""From settings to the frozen network, the stores of what it yields, and the features in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.calibration import calibration, quantised_folder
from features.errors import DataError
from features.image_files import ImageFile
from features.store import FeatureStore
from pipeline.feature_config import FeatureConfig

if TYPE_CHECKING:  # TensorFlow takes seconds to import, and `--help` needs no more than the settings above
    from features.augment import View
    from features.backbones import Backbone
    from features.extract import Extraction
    from features.frozen import FrozenBackbone
    from features.images import ImageConfig


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
        backbone = replace(backbone, calibration=calibration(_quantised_folder(backbone, cuts, config)))
    return backbone, cuts, config


def image_config(config: FeatureConfig) -> ImageConfig:
    """How pixels are made."""
    from features.images import ImageConfig

    return ImageConfig(config.image_size, config.resize, config.truncated)


def stores_of(
    backbone: Backbone, cuts: Sequence[str], config: FeatureConfig, view: View | None = None
) -> list[FeatureStore]:
    """The store of each cut, of the images as they are or of a view of them. Nothing is made on disk."""
    shared = {
        **_arithmetic(backbone, config),
        **(view.fingerprint() if view else {}),
        **({"calibration": backbone.calibration} if backbone.calibration else {}),
        "dtype": "float32" if backbone.precision == "float32" else "float16",
    }
    fingerprints = [{**shared, "cut": cut, "shape": list(backbone.shape(cut))} for cut in cuts]
    return [FeatureStore(config.store, fingerprint) for fingerprint in fingerprints]


def _arithmetic(backbone: Backbone, config: FeatureConfig) -> dict[str, Any]:
    """The fields of a fingerprint that tell what is done to an image before any cut."""
    from features.frozen import FORWARD_VERSION

    return {
        "backbone": backbone.name,
        "weights": backbone.weights_digest,
        **image_config(config).fingerprint(),
        "rescale": {"scale": backbone.rescaling.scale, "offset": backbone.rescaling.offset},
        "precision": backbone.precision,
        "forward_version": FORWARD_VERSION,
    }


def _quantised_folder(backbone: Backbone, cuts: Sequence[str], config: FeatureConfig) -> Path:
    return quantised_folder(config.store, backbone.name, cuts, _arithmetic(backbone, config))


def frozen_backbone(
    backbone: Backbone, cuts: Sequence[str], config: FeatureConfig, images: Sequence[ImageFile]
) -> FrozenBackbone:
    """The fast form of `backbone`; of an 8-bit one that is not in the store yet, quantised on some of `images`."""
    from features.frozen import FrozenBackbone

    if backbone.precision != "int8":
        return FrozenBackbone(backbone, cuts, config.batch_size)
    from features.int8 import QuantisedBackbone, quantise

    folder = _quantised_folder(backbone, cuts, config)
    if calibration(folder) is None:
        quantise(folder, backbone, cuts, images, image_config(config))
    backbone = replace(backbone, calibration=calibration(folder))
    return QuantisedBackbone(backbone, cuts, config.batch_size, folder)


def fill(
    images: Sequence[ImageFile], frozen: FrozenBackbone, config: FeatureConfig, view: View | None = None
) -> tuple[list[FeatureStore], Extraction]:
    """Give `images`, or a view of them, the features that they lack: one store for each cut of `frozen`."""
    from features.extract import extract_features

    stores = [store.create() for store in stores_of(frozen.backbone, frozen.cuts, config, view)]
    return stores, extract_features(images, frozen, stores, image_config(config), view)


def fill_views(
    images: Sequence[ImageFile], frozen: FrozenBackbone, config: FeatureConfig, views: Sequence[View | None]
) -> tuple[list[list[FeatureStore]], int]:
    """The stores of each of `views` of images that are known to be usable, and how many features were made."""
    filled, extracted = [], 0
    for view in views:
        stores, done = fill(images, frozen, config, view)
        if done.rejects:
            first = done.rejects[0]
            raise DataError(f"{first.path}: {first.reason}, {first.detail} ({len(done.rejects)} such files)")
        filled.append(stores)
        extracted += done.extracted
    return filled, extracted
