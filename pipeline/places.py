"""Options that say where the data, the store and the weights of a run are now, if they moved."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.options import option


@dataclass(frozen=True)
class NetworkPlaces:
    """Places of a run's networks to use instead of those that a run remembers. None and "" mean those of the run."""

    store: Path | None = option(None, "Store to use instead of the run's.")
    weights: str = option("", "Weights file to use instead of the run's.")


@dataclass(frozen=True)
class Places(NetworkPlaces):
    """Also the place of a run's data."""

    data: Path | None = option(None, "Data folder or list to use instead of the run's.")
