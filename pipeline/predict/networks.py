"""Load the frozen networks of a run's head, and apply a model to pixels in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.errors import RunError
from headstart.features.frozen.network import Network, possible_keys
from headstart.features.images.pixels import ImageConfig
from headstart.features.terminal import console
from headstart.pipeline.locating import known_store, located_networks
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.runs import Run, origin_of_reference
from headstart.pipeline.runs.files import REMEDY
from headstart.pipeline.scoring.unlike import Reference

if TYPE_CHECKING:
    from headstart.features.frozen.frozen import FrozenBackbone


@dataclass(frozen=True)
class Loaded:
    """A model that is ready for fast forward passes. It is called with pixels, and reads no files."""

    images: Sequence[ImageConfig]  # how a file becomes the pixels of each network
    networks: Sequence[FrozenBackbone]
    head: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # outputs of all networks to features and logits
    reference: Reference | None

    @property
    def images_per_pass(self) -> int:
        """The maximum number of images in one forward pass."""
        return min(network.images_per_pass for network in self.networks)

    @property
    def passes(self) -> int:
        """The number of forward passes that may run at the same time."""
        return min(len(network.passes) for network in self.networks)

    def __call__(
        self, pixels: Sequence[np.ndarray], number: int = 0
    ) -> tuple[np.ndarray, np.ndarray, Sequence[float | None]]:
        """Return features [b, D], logits [b, 1 or C] and distances from the training images, for b images."""
        # Calls at the same time need different numbers.
        found = [network(one, network.passes[number]) for network, one in zip(self.networks, pixels, strict=True)]
        features, logits = self.head(np.concatenate([rows for one in found for rows in one.values()], axis=1))
        return features, logits, distances(self.reference, features)


def distances(reference: Reference | None, features: np.ndarray) -> Sequence[float | None]:
    """Return how far each row of `features` (float32 [M, D]) is from the training images; see `Reference.distances`.

    If `reference` is None, each distance is None.
    """
    return reference.distances(features).tolist() if reference else [None] * len(features)


def require_width(run: Run, model: str, reference: Reference | None, shape: tuple[int, ...]) -> None:
    """Raise a RunError if the features of an image in `reference` have another shape than `shape`.

    `shape` is the shape of an image's features in the model. `model` is the name of the model. If `reference` is None,
    no error is raised.
    """
    if reference and reference.features.shape[1:] != shape:
        raise RunError(f"{origin_of_reference(run, model)}: holds features of another model; {REMEDY}")


def networks_of(run: Run, places: NetworkPlaces, batch_size: int = 0) -> list[Network]:
    """Load the networks of a run's head, in the run's precision and with the run's weights.

    If an 8-bit network is no longer in the store, all networks are loaded in float32 instead, and a line is printed. A
    line is also printed if the networks may compute other features than during training. The data and the store need
    not exist. Nothing is written to the store. For errors, see `located_networks`.
    """
    config, extraction = run.feature_config(), run.extraction_config()
    if config.precision == "auto":  # a run of an early version
        config = replace(config, precision="float32")
    store = known_store(run, places) or extraction.store
    extraction = replace(extraction, store=store, batch_size=batch_size)
    known = KnownBackbones(store, read_only=True)
    found, networks = located_networks(run, places, config, extraction, known)
    if any(network.backbone.precision == "int8" and not network.backbone.calibration for network in networks):
        console.print(f"{store}: the 8-bit network of the run is gone; the one in float32 answers")
        _, networks = located_networks(run, places, replace(found, precision="float32"), extraction, known)
    elif list(run.config()["fingerprints"].values()) not in possible_keys(networks, config.bits):
        console.print(
            f"{run.path}: its features are not made as for training: another engine computes bfloat16, or another "
            "version of headstart made the run; predictions may differ a little from those of `headstart evaluate` then"
        )
    return networks
