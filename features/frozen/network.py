"""Networks: backbones with their cuts and settings.

The cuts and settings decide a network's fast form and its stores. This module imports no TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import KNOWN_WEIGHTS, Cut, chosen_cuts, chosen_weights, cut_names
from headstart.features.backbones.facts import KnownBackbones, require_weights_file
from headstart.features.backbones.outlines import default_resize, is_own, outline
from headstart.features.backbones.used import Used, remember
from headstart.features.backbones.weights import build_backbone, is_known
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError
from headstart.features.frozen.engines import engine, openvino_batch_size, uses_openvino
from headstart.features.frozen.int8_files import CALIBRATION_IMAGES, calibration, quantised_folder
from headstart.features.frozen.kept import KeptNetwork
from headstart.features.frozen.precision import resolve_precision, stored_verdict
from headstart.features.images.augment import AUGMENT_VERSION, View
from headstart.features.images.pixels import PIXELS_VERSION, ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console

if TYPE_CHECKING:
    from headstart.features.frozen.frozen import FrozenBackbone

FORWARD_VERSION = 3  # part of every fingerprint: raise it when the arithmetic in `frozen` yields other features


@dataclass(frozen=True)
class Network:
    """One backbone, its cuts, and its settings."""

    backbone: Backbone
    cuts: tuple[Cut, ...]
    config: FeatureConfig  # of this backbone alone; cuts, precision, image size and resizing are resolved
    extraction: ExtractionConfig

    @property
    def images(self) -> ImageConfig:
        """The settings that decide how a file becomes pixels."""
        return self.config.images()

    def fingerprint(self, cut: Cut, view: View | None = None) -> Fingerprint:
        """Return the fingerprint of the features at `cut`.

        If `view` is given, the features are those of the augmented images of this view. If `view` is None, the features
        are those of the images without augmentation.
        """
        plain = Fingerprint(
            **self._shared(),
            cut=cut.name,
            shape=self.backbone.shape(cut),
            dtype="float32" if self.backbone.precision == "float32" else "float16",
            calibration=self.backbone.calibration,
            tokens=self.backbone.tokens if self.has_tokens(cut) else None,
            engine=engine(self.backbone),
        )
        if view is None:
            return plain
        version = AUGMENT_VERSION
        return replace(plain, augment=view.augment, augment_version=version, seed=view.seed, view=view.number)

    def stores(self, view: View | None = None) -> dict[Cut, FeatureStore]:
        """Return the store of each cut. Nothing is created on disk."""
        return {cut: FeatureStore(self.extraction.store, self.fingerprint(cut, view)) for cut in self.cuts}

    def quantised_folder(self) -> Path:
        """Return the folder of this network's 8-bit form in the store. The folder need not exist."""
        names = [cut.name for cut in self.cuts]
        tokens = {"tokens": self.backbone.tokens} if any(self.has_tokens(cut) for cut in self.cuts) else {}
        return quantised_folder(self.extraction.store, self.backbone.title, names, self._shared() | tokens)

    def quantised(self, images: Sequence[ImageFile]) -> Network:
        """Return this network, ready for `freeze`. With int8, make the 8-bit form if the store lacks it.

        The 8-bit form is made from some of `images`. For errors, see `int8.quantise`.
        """
        if self.backbone.precision != "int8":
            return self
        folder = self.quantised_folder()
        found = calibration(folder)
        if found is None:
            from headstart.features.frozen.int8 import quantise

            quantise(folder, self.backbone, self.cuts, images, self.images)
            found = calibration(folder)
        elif found["images"] < min(CALIBRATION_IMAGES, len(images) // 2):
            console.print(
                f"{folder}: quantised on {found['images']} images only; delete it to quantise on more images, which "
                "gives other features"
            )
        return replace(self, backbone=replace(self.backbone, calibration=found))

    def freeze(self, keep: bool = False) -> FrozenBackbone:
        """Start TensorFlow, and return the network's fast form. To build this form takes seconds.

        A form for OpenVINO is loaded from the store if possible. If `keep` is true, a new form for OpenVINO is written
        to the store.

        An 8-bit form is loaded from the store, and never made here. To make an 8-bit form, call `quantised` first.
        Raises StoreError if the 8-bit form is missing or damaged.
        """
        if self.backbone.precision == "int8":
            from headstart.features.frozen.int8 import quantised

            return quantised(self.quantised_folder(), self.backbone, self.cuts, self.extraction.batch_size)
        from headstart.features.frozen.frozen import freeze, frozen_by_openvino

        asked, batch_size = engine(self.backbone), self.extraction.batch_size
        if not uses_openvino(self.backbone.precision, asked):
            return freeze(self.backbone, self.cuts, batch_size, asked)
        batch_size = batch_size or openvino_batch_size(outline(self.backbone.name).multiply_adds)
        kept = self._kept(batch_size)
        if model := kept.read():
            return frozen_by_openvino(model, self.backbone, self.cuts, batch_size)
        return freeze(self.backbone, self.cuts, batch_size, asked, kept if keep else None)

    def _kept(self, batch_size: int) -> KeptNetwork:
        """Return the place of the converted network in the store.

        The place does not depend on how images are decoded.
        """
        arithmetic = ("weights", "image_size", "rescale", "precision", "forward_version")
        identity = {name: value for name, value in self._shared().items() if name in arithmetic}
        identity |= {"cuts": [cut.name for cut in self.cuts], "engine": engine(self.backbone), "batch_size": batch_size}
        if any(self.has_tokens(cut) for cut in self.cuts):
            identity["tokens"] = self.backbone.tokens
        return KeptNetwork.of(self.extraction.store, self.backbone.title, identity)

    def has_tokens(self, cut: Cut) -> bool:
        """Return whether the output at `cut` is tokens, [N, D], and not a map or a vector."""
        return len(self.backbone.shapes[cut.block]) == 2

    def _shared(self) -> dict[str, Any]:
        """Return the fields of the fingerprint that are the same for all cuts and views."""
        return {
            "backbone": self.backbone.title,
            "weights": self.backbone.weights_digest,
            "pixels_version": PIXELS_VERSION,
            "image_size": self.images.size,
            "resize": self.images.resize,
            "truncated": self.images.truncated,
            "rescale": self.backbone.rescaling.to_json(),
            "precision": self.backbone.precision,
            "forward_version": FORWARD_VERSION,
        } | ({} if self.images.bits == "16" else {"bits": self.images.bits})


def load_networks(
    config: FeatureConfig,
    extraction: ExtractionConfig,
    known: KnownBackbones | None = None,
    digest_of: Callable[[str, str, int], str] | None = None,
) -> list[Network]:
    """Load one network for each backbone that `config` names.

    Args:
        known: facts about backbones. The Keras model of a backbone with known facts is built only when it is needed.
        digest_of: returns the digest of a backbone's weights from three arguments: the backbone's name, its value of
            `--weights`, and the seed of random weights. If `digest_of` is given, weights are read from `.keras` files
            only. All networks without a `.keras` file can then only make fingerprints.

    Raises OptionError if `config.tokens` is not `mean`, but no network yields tokens. For other errors, see
    `chosen_cuts`, `resolve_precision` and `build_backbone`.
    """
    cuts, weights = chosen_cuts(config), chosen_weights(config)
    if digest_of is None:
        for file in weights.values():
            require_weights_file(file)
    precision = resolve_precision(config.precision, extraction.store)
    networks = []
    for name, file in weights.items():
        size, seed = config.image_size, config.weights_seed
        others = any(is_own(other) for other in weights) and not is_own(name)  # `--rescale` is then for `.keras` files
        rescale = "auto" if others else config.rescale
        digest = digest_of(name, file, seed) if digest_of and not is_own(name) else None
        backbone = build_backbone(name, file, rescale, size, precision, seed, known, config.tokens, digest)
        own = tuple(cut for cut in cuts if cut.backbone == name)
        resize = default_resize(name) if config.resize == "auto" else config.resize
        cuts_of_it = tuple(cut_names(own))
        settings = replace(
            config, backbone=name, weights=file, rescale=rescale, cut=cuts_of_it, precision=precision, resize=resize
        )
        network = Network(backbone, own, replace(settings, image_size=backbone.image_size), extraction)
        if precision == "int8":
            found = calibration(network.quantised_folder())
            network = replace(network, backbone=replace(backbone, calibration=found))
        networks.append(network)
    if config.tokens != "mean" and not any(network.has_tokens(cut) for network in networks for cut in network.cuts):
        raise OptionError(f"--tokens {config.tokens}: {config.backbone} yields no tokens; leave the option out")
    return networks


def may_build_here(config: FeatureConfig, extraction: ExtractionConfig) -> bool:
    """Return whether this process should load the networks of `config` now, and not wait for a worker of a cluster.

    A worker would save facts about the networks in the store, and this process would need only the facts. In each of
    these cases, waiting is of no use, and the result is true:

    - The store has the facts already.
    - The precision is `auto`, and the store has no choice of a precision yet.
    - `extraction.rehash` is true.
    - A network is a `.keras` file.
    """
    untimed = config.precision == "auto" and stored_verdict(extraction.store) is None
    if untimed or extraction.rehash or any(map(is_own, chosen_weights(config))):
        return True
    known, others = KnownBackbones(extraction.store), (config.rescale, config.image_size, config.weights_seed)
    return all(is_known(name, file, *others, known) for name, file in chosen_weights(config).items())


def load_network(config: FeatureConfig, extraction: ExtractionConfig) -> Network:
    """Load the network of a `config` that names exactly one backbone; see `load_networks`."""
    (network,) = load_networks(config, extraction)
    return network


def weights_digest(networks: Sequence[Network]) -> str:
    """Return the weights digests of all networks, joined by `+`."""
    return "+".join(network.backbone.weights_digest for network in networks)


def remember_weights(networks: Sequence[Network]) -> None:
    """Record in the store which weights `networks` use, so that later commands find these weights.

    See `used.with_used_weights`.
    """
    for network in networks:
        config, backbone = network.config, network.backbone
        weights = config.weights if config.weights in KNOWN_WEIGHTS else os.path.abspath(config.weights)
        seed = config.weights_seed if weights == "random" else 0
        used = Used(backbone.name, weights, seed, config.rescale, backbone.weights_digest)
        remember(network.extraction.store, [used])


def resolved_config(config: FeatureConfig, networks: Sequence[Network]) -> FeatureConfig:
    """Return `config` with the backbones, cuts and precision of `networks`.

    If there is only one network, the result also has this network's image size and resizing.
    """
    cuts = tuple(cut_names([cut for network in networks for cut in network.cuts]))
    names = "+".join(network.backbone.name for network in networks)
    config = replace(config, backbone=names, cut=cuts, precision=networks[0].config.precision)
    if len(networks) > 1:
        return config
    return replace(config, image_size=networks[0].config.image_size, resize=networks[0].config.resize)


def fingerprints_of(networks: Sequence[Network], bits: str | None = None) -> dict[str, str]:
    """Return a dict from cut names to fingerprint keys. If `bits` is given, it replaces each network's own `--bits`."""
    if bits:
        networks = [replace(network, config=replace(network.config, bits=bits)) for network in networks]
    keys = {cut: network.fingerprint(cut).key for network in networks for cut in network.cuts}
    return dict(zip(cut_names(list(keys)), keys.values(), strict=True))


def possible_keys(networks: Sequence[Network], bits: str) -> list[list[str]]:
    """Return two lists of keys that features of a data folder may have.

    The first list is for the value 16 of the option `--bits`. The second list is for the value in the argument `bits`.
    Each list has one key per cut: the key of the fingerprint at the cut. The images' own numbers of bits decide which
    list applies; see `bits_that_matter`.
    """
    return [list(fingerprints_of(networks, used).values()) for used in ("16", bits)]
