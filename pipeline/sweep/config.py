"""The settings of a search."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headstart.features.errors import require_options
from headstart.features.options import option
from headstart.pipeline.head.config import CLASS_WEIGHTS, OWN_HEAD_HELP, ClassWeight
from headstart.pipeline.head.own import OwnHead
from headstart.pipeline.scoring.choosing import CHOICES, ChooseBy, canonical

Sampler = Literal["tpe", "random", "grid"]
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Convert a time such as `90`, `90s`, `10m` or `2h` to seconds. Raises ValueError for other text."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(text).strip())
    if found is None:
        raise ValueError(f"must be a time such as 90s, 10m or 2h. Received: {text}")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True)
class SweepConfig:
    """The settings of a search: how many heads it tries, and how it chooses them."""

    trials: int = option(64, "Heads to try, including those tried in earlier starts.")
    timeout: float = option(
        0.0, "Start no trial after this time, e.g. 90s, 10m, 2h; 0 is no limit.", parser=parse_duration, metavar="TIME"
    )
    jobs: int = option(1, "Processes that try heads. With several, their speed affects which heads are tried.")
    sampler: Sampler = option("tpe", "tpe learns from earlier trials; grid tries three values of each range.")
    folds: int = option(0, "Number of cross-validation folds over train and val; 0 validates on val alone.")
    space: Path | None = option(None, "TOML file that defines the search space.")
    class_weight: ClassWeight = option("none", "balanced gives rare classes more weight; --space may search over both.")
    choose_by: ChooseBy = option("loss", "Figure on val by which an epoch or trial is best. log_loss is loss.")
    own: OwnHead | None = option(
        None,
        f"{OWN_HEAD_HELP} The search is over the other settings.",
        flag="--head",
        parser=str,
        metavar="FILE.py:FUNCTION",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "choose_by", canonical(self.choose_by))
        if isinstance(self.own, str):
            object.__setattr__(self, "own", OwnHead.read(self.own))
        require_options(
            ("--trials", self.trials, self.trials >= 1, "at least 1"),
            ("--timeout", self.timeout, self.timeout >= 0, "at least 0"),
            ("--jobs", self.jobs, self.jobs >= 1, "at least 1"),
            ("--folds", self.folds, self.folds == 0 or self.folds >= 2, "at least 2, or 0"),
            ("--class-weight", self.class_weight, self.class_weight in CLASS_WEIGHTS, "none or balanced"),
            ("--choose-by", self.choose_by, self.choose_by in CHOICES, f"among {', '.join(CHOICES)}"),
        )
