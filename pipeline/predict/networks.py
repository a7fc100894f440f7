"""The frozen networks of a run, for its head."""

from dataclasses import replace

from headstart.features.backbones.facts import KnownBackbones
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import RunError
from headstart.features.frozen.network import Network, load_networks, weights_digest
from headstart.features.terminal import console
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.runs import Run


def networks_of(run: Run, places: NetworkPlaces, batch_size: int = 0) -> list[Network]:
    """Load the networks of a run's head, in the run's precision.

    An 8-bit network that is not in the store any more is replaced by that in float32. Nothing is written to the store.
    Raises RunError if the weights are not those of the run.
    """
    config, extraction = run.configs()
    config = replace(config, weights=places.weights or config.weights)
    extraction = replace(extraction, store=places.store or extraction.store, batch_size=batch_size)
    if config.precision == "auto":  # a run of an early version
        config = replace(config, precision="float32")
    networks = _load(config, extraction)
    if any(network.backbone.precision == "int8" and not network.backbone.calibration for network in networks):
        console.print(f"{extraction.store}: the 8-bit network of the run is gone; the one in float32 answers")
        networks = _load(replace(config, precision="float32"), extraction)
    if weights_digest(networks) != run.config()["weights_digest"]:
        raise RunError(f"{run.path}: {config.weights} holds other weights than those it was trained with")
    return networks


def _load(config: FeatureConfig, extraction: ExtractionConfig) -> list[Network]:
    return load_networks(config, extraction, KnownBackbones(extraction.store, read_only=True))
