"""From settings to frozen networks, the stores of what they yield, and the features in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.backbones.calibration import calibration, quantised_folder
from headstart.features.config import FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.features.images.scan import ImageFile
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console

if TYPE_CHECKING:  # TensorFlow takes seconds to import, and what finds an error earlier need not wait
    from headstart.features.backbones.backbone import Backbone
    from headstart.features.backbones.facts import KnownBackbones
    from headstart.features.backbones.frozen import FrozenBackbone
    from headstart.features.extract import Extraction
    from headstart.features.images.augment import View
    from headstart.features.images.decode import ImageConfig


@dataclass(frozen=True)
class Network:
    """A backbone, where it is cut, and its settings with everything that was left open filled in."""

    backbone: Backbone
    cuts: list[str]
    config: FeatureConfig

    @property
    def images(self) -> ImageConfig:
        """How pixels are made."""
        from headstart.features.images.decode import ImageConfig

        return ImageConfig(self.config.image_size, self.config.resize, self.config.truncated)

    def stores(self, view: View | None = None) -> list[FeatureStore]:
        """The store of each cut, of the images as they are or of a view of them. Nothing is made on disk."""
        shared = {
            **self._arithmetic(),
            **(view.fingerprint() if view else {}),
            **({"calibration": self.backbone.calibration} if self.backbone.calibration else {}),
            "dtype": "float32" if self.backbone.precision == "float32" else "float16",
        }
        fingerprints = [{**shared, "cut": cut, "shape": list(self.backbone.shape(cut))} for cut in self.cuts]
        return [FeatureStore(self.config.store, fingerprint) for fingerprint in fingerprints]

    def quantised_folder(self) -> Path:
        """Where the 8-bit form of it lies, or would lie."""
        return quantised_folder(self.config.store, self.backbone.name, self.cuts, self._arithmetic())

    def _arithmetic(self) -> dict[str, Any]:
        """The fields of a fingerprint that tell what is done to an image before any cut."""
        from headstart.features.backbones.frozen import FORWARD_VERSION

        return {
            "backbone": self.backbone.name,
            "weights": self.backbone.weights_digest,
            **self.images.fingerprint(),
            "rescale": {"scale": self.backbone.rescaling.scale, "offset": self.backbone.rescaling.offset},
            "precision": self.backbone.precision,
            "forward_version": FORWARD_VERSION,
        }


def load_networks(config: FeatureConfig, memory: KnownBackbones | None = None) -> list[Network]:
    """The network of each backbone that `config` names, joined by `+`.

    Args:
        memory: of networks that were built before; with it, one is built only once it is needed.

    Raises:
        OptionError: an unknown backbone, or a cut that none of them has.
        WeightsError: no such weights, or another network's.
    """
    from headstart.features.backbones.frozen import resolve_precision

    config = replace(config, precision=resolve_precision(config.precision))  # one for all, as it is found by timing
    return [load_network(one, memory) for one in _per_backbone(config)]


def load_network(config: FeatureConfig, memory: KnownBackbones | None = None) -> Network:
    """The network of a `config` that names one backbone.

    Raises:
        OptionError, WeightsError: as `load_networks`.
    """
    from headstart.features.backbones.backbone import known_cuts
    from headstart.features.backbones.frozen import resolve_precision
    from headstart.features.backbones.weights import build_backbone

    cuts = known_cuts(config.cut, config.backbone)
    precision = resolve_precision(config.precision)
    backbone = build_backbone(
        config.backbone, config.weights, config.rescale, config.image_size or None, precision, config.weights_seed,
        memory,
    )  # fmt: skip
    config = replace(config, cut=tuple(cuts), precision=precision, image_size=backbone.image_size)
    network = Network(backbone, cuts, config)
    if precision == "int8":
        return replace(network, backbone=replace(backbone, calibration=calibration(network.quantised_folder())))
    return network


def weights_digest(networks: Sequence[Network]) -> str:
    """The digest of the weights; of several backbones joined by `+`, as their names are."""
    return "+".join(network.backbone.weights_digest for network in networks)


def resolved(config: FeatureConfig, networks: Sequence[Network]) -> FeatureConfig:
    """`config` with what it left open as it is in `networks`, which it stands for.

    The side of the input stays open where there are several, for each has its own.
    """
    cuts = tuple(names_of([(network.backbone.name, network.cuts) for network in networks]))
    config = replace(config, cut=cuts, precision=networks[0].config.precision)
    return replace(config, image_size=networks[0].config.image_size) if len(networks) == 1 else config


def cut_names(config: FeatureConfig) -> list[str]:
    """The names of the cuts that `load_networks` would yield, in order; see `names_of`.

    Raises:
        OptionError: as `load_networks`.
    """
    from headstart.features.backbones.backbone import known_cuts

    return names_of([(one.backbone, known_cuts(one.cut, one.backbone)) for one in _per_backbone(config)])


def names_of(cuts: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """The name of each cut of some backbones: its own, or `backbone/cut` where there are several backbones."""
    alone = len(cuts) == 1
    return [cut if alone else f"{name}/{cut}" for name, inner in cuts for cut in inner]


def _per_backbone(config: FeatureConfig) -> list[FeatureConfig]:
    """`config` for each backbone that it names: with the cuts that this one has, or its default where none is its own.

    Weights are the same for all, or as many as there are backbones.
    """
    from headstart.features.backbones.backbone import cuts_among

    names = config.backbone.split("+")
    if len(names) == 1:
        return [config]
    if len(set(names)) < len(names):
        raise OptionError(f"--backbone: names a backbone twice. Received: {config.backbone}")
    weights = config.weights.split("+")
    if len(weights) == 1:
        weights *= len(names)
    if len(weights) != len(names):
        raise OptionError(
            f"--weights must be one for all, or one for each of {len(names)} backbones, joined by +. "
            f"Received: {config.weights}"
        )
    cuts = cuts_among(config.cut, names)
    return [
        replace(config, backbone=name, weights=file, cut=tuple(cuts[name]))
        for name, file in zip(names, weights, strict=True)
    ]


def freeze(network: Network, images: Sequence[ImageFile]) -> tuple[Network, FrozenBackbone]:
    """The fast form of `network`; of an 8-bit one that is not in the store yet, quantised on some of `images`."""
    from headstart.features.backbones.frozen import FrozenBackbone

    backbone, cuts, config = network.backbone, network.cuts, network.config
    if backbone.precision != "int8":
        return network, FrozenBackbone(backbone, cuts, config.batch_size)
    from headstart.features.backbones.int8 import CALIBRATION_IMAGES, QuantisedBackbone, quantise

    folder = network.quantised_folder()
    found = calibration(folder)
    if found is None:
        quantise(folder, backbone, cuts, images, network.images)
        found = calibration(folder)
    elif found["images"] < min(CALIBRATION_IMAGES, len(images) // 2):
        console.print(
            f"{folder}: quantised on {found['images']} images only; delete it, and it is done anew on more, for other "
            "features",
            markup=False,
        )
    backbone = replace(backbone, calibration=found)
    return replace(network, backbone=backbone), QuantisedBackbone(backbone, cuts, config.batch_size, folder)


def fill(
    images: Sequence[ImageFile], network: Network, frozen: FrozenBackbone, view: View | None = None
) -> tuple[list[FeatureStore], Extraction]:
    """Give `images`, or a view of them, the features that they lack: one store for each cut of `network`."""
    from headstart.features.extract import extract_features

    stores = [store.create() for store in network.stores(view)]
    return stores, extract_features(images, frozen, stores, network.images, view)


def fill_views(
    images: Sequence[ImageFile], network: Network, frozen: FrozenBackbone, views: Sequence[View | None]
) -> tuple[list[list[FeatureStore]], int]:
    """The stores of each of `views` of images that are known to be usable, and how many features were made."""
    filled, extracted = [], 0
    for view in views:
        stores, done = fill(images, network, frozen, view)
        if done.rejects:
            first = done.rejects[0]
            raise DataError(f"{first.path}: {first.reason}, {first.detail} ({len(done.rejects)} such files)")
        filled.append(stores)
        extracted += done.extracted
    return filled, extracted
