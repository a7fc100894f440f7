"""The frozen networks of a run, for its head."""

from dataclasses import replace

from headstart.features.backbones.facts import KnownBackbones
from headstart.features.frozen.network import Network
from headstart.features.terminal import console
from headstart.pipeline.featured import possible_keys
from headstart.pipeline.locating import known_store, located_networks
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.runs import Run


def networks_of(run: Run, places: NetworkPlaces, batch_size: int = 0) -> list[Network]:
    """Load the networks of a run's head, in the run's precision, with the weights whose digest the run holds.

    An 8-bit network that is no longer in the store is replaced by the same network in float32. A line is printed if the
    networks don't make the features that the head was trained on. Neither the data nor the store need exist, and
    nothing is written to the store. Errors: see `located_networks`.
    """
    config, extraction = run.configs()
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
