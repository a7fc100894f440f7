"""The settings of `evaluate`."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from headstart.features.cluster.config import ClusterConfig
from headstart.features.errors import OptionError, require_options
from headstart.features.options import option

AskedSplit = Literal["auto", "train", "val", "test", "all"]
Sort = Literal["data", "mistakes"]
_HIGHEST = 0.999999  # sensitivity; val needs a million images of a class for it
_REPEATS = 3
_FEWEST_FOLDS = 3  # one to score, one to choose the epoch, and one to train on


@dataclass(frozen=True)
class ThresholdConfig:
    """How the threshold between two classes is set.

    Each field except `positive` is one way to set the threshold. Without any of these fields, the threshold that the
    run keeps is used. Raises OptionError if several ways are combined, or if a value is out of range.
    """

    threshold: float | None = option(
        None, "Probability above which the positive class is predicted. The run keeps it. Two classes."
    )
    sensitivity: float | None = option(None, "Choose the threshold on val: find this fraction of the positive class.")
    specificity: float | None = option(None, "Choose the threshold on val: reject this fraction of the other class.")
    cost: str = option("", "Choose the threshold on val: cost of a miss to a false alarm, e.g. 10:1.", metavar="A:B")
    positive: str = option("", "The positive class. By default, the second.")

    def __post_init__(self) -> None:
        given = self._given()
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)}: each sets the threshold; give one of them")
        if self.threshold is not None:
            require_options(("--threshold", self.threshold, 0 < self.threshold < 1, "over 0 and under 1"))
        for flag, value in (("--sensitivity", self.sensitivity), ("--specificity", self.specificity)):
            if value is not None:
                require_options((flag, value, 0 < value <= _HIGHEST, f"over 0 and at most {_HIGHEST}"))
        if self.cost:
            self.costs()

    def _given(self) -> dict[str, Any]:
        values = {f"--{field.name}": getattr(self, field.name) for field in fields(self) if field.name != "positive"}
        return {flag: value for flag, value in values.items() if value not in (None, "")}

    @property
    def flag(self) -> str:
        """Return the option that sets the threshold, such as `--cost`. Return "" if no option sets the threshold."""
        return next(iter(self._given()), "")

    def costs(self) -> tuple[float, float]:
        """Return the cost of a miss and the cost of a false alarm. They are scaled so that they sum to 1.

        Raises OptionError if `cost` is not of the form `A:B`, with two finite numbers over 0.
        """
        try:
            miss, alarm = map(float, self.cost.split(":"))
        except ValueError:
            raise OptionError(f"--cost must be two numbers such as 10:1. Received: {self.cost}") from None
        valid = all(0 < cost < math.inf for cost in (miss, alarm))
        require_options(("--cost", self.cost, valid, "two finite numbers over 0"))
        largest = max(miss, alarm)  # the sum of two large numbers might not be finite
        miss, alarm = miss / largest, alarm / largest
        return miss / (miss + alarm), alarm / (miss + alarm)


@dataclass(frozen=True)
class FoldsConfig:
    """The settings of cross-validation.

    Raises OptionError if a number is out of range, or if `repeats` is set without `folds`.
    """

    folds: int = option(0, "Cross-validate heads with the run's settings in this number of folds; 0 scores the run.")
    repeats: int = option(0, "With --folds: how often the folds are drawn; 0 means 3.")

    def __post_init__(self) -> None:
        enough = self.folds == 0 or self.folds >= _FEWEST_FOLDS
        require_options(
            ("--folds", self.folds, enough, f"at least {_FEWEST_FOLDS}, or 0"),
            ("--repeats", self.repeats, self.repeats >= 0, "at least 1, or 0"),
        )
        if self.repeats and not self.folds:
            raise OptionError("--repeats: repeats the folds of cross-validation; give --folds, too")

    @property
    def rounds(self) -> int:
        """Return the number of repeats. The folds are drawn anew for each repeat."""
        return self.repeats or _REPEATS

    def require_alone(self, split: AskedSplit, sort: Sort, threshold: ThresholdConfig, by_ray: ClusterConfig) -> None:
        """Raise an OptionError if the user gave options of `evaluate` that have no effect on cross-validation."""
        given = {"--split": split != "auto", "--sort": sort != "data", **{threshold.flag: bool(threshold.flag)}}
        given |= {"--positive": bool(threshold.positive), "--ray": bool(by_ray.ray)}
        if others := [flag for flag, is_given in given.items() if is_given]:
            raise OptionError(f"--folds: scores new heads on all images of the run; leave {' and '.join(others)} out")
