"""Options that say where the data, the store and the weights of a run are now, if they were moved."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.options import option
from headstart.features.paths import require_no_url


@dataclass(frozen=True)
class NetworkPlaces:
    """The store and the weights to use for a run.

    If `store` is None, the run's own store is used. If `weights` is empty, the run's own weights are used. Raises
    OptionError if `store` is a URL.
    """

    store: Path | None = option(None, "Store to use instead of the run's.")
    weights: str = option("", "Weights file to use instead of the run's.")

    def __post_init__(self) -> None:
        if self.store:
            require_no_url("--store", self.store)


@dataclass(frozen=True)
class Places(NetworkPlaces):
    """The store, the weights and the data to use for a run. If `data` is None, the run's own data are used."""

    data: Path | None = option(None, "Data folder or list to use instead of the run's.")
