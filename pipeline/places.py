"""Options that say where the data, the store and the weights of a run are now, if they were moved."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.options import option


@dataclass(frozen=True)
class NetworkPlaces:
    """Places of the store and the weights of a run. None and "" mean the places that the run remembers."""

    store: Path | None = option(None, "Store to use instead of the run's.")
    weights: str = option("", "Weights file to use instead of the run's.")


@dataclass(frozen=True)
class Places(NetworkPlaces):
    """Places of the store, the weights and the data of a run."""

    data: Path | None = option(None, "Data folder or list to use instead of the run's.")
