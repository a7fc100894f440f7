"""The settings of a search."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headstart.features.errors import require_options
from headstart.features.options import option

Sampler = Literal["tpe", "random", "grid"]
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m` or `2h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(text).strip())
    if found is None:
        raise ValueError(f"must be a time such as 90s, 10m or 2h. Received: {text}")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True)
class SweepConfig:
    """How much is tried, and how it is chosen."""

    trials: int = option(64, "Heads to try, those of earlier starts included.")
    timeout: float = option(
        0.0, "Start none after this time, as 90s, 10m or 2h; 0 is no limit.", parser=parse_duration, metavar="TIME"
    )
    jobs: int = option(1, "Processes that try heads; which are tried depends on their speed.")
    sampler: Sampler = option("tpe", "tpe learns from the trials before; grid takes three values of each range.")
    folds: int = option(0, "Choose by cross-validation in so many parts over train and val; 0 is on val.")
    space: Path | None = option(None, "TOML file of what is searched over.")

    def __post_init__(self) -> None:
        require_options(
            ("--trials", self.trials, self.trials >= 1, "at least 1"),
            ("--timeout", self.timeout, self.timeout >= 0, "at least 0"),
            ("--jobs", self.jobs, self.jobs >= 1, "at least 1"),
            ("--folds", self.folds, self.folds == 0 or self.folds >= 2, "at least 2, or 0"),
        )
