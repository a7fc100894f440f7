"""The threshold of a classifier of two classes: how it decides labels, and how it is chosen on val."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST = 1e-9  # the least distance of a threshold from 0 and from 1


@dataclass(frozen=True)
class Threshold:
    """The probability of the positive class above which it is predicted."""

    positive: str  # the name of the positive class
    value: float  # over 0 and under 1
    chosen: str  # how it was chosen, such as `sensitivity 0.95 on val`

    def __post_init__(self) -> None:
        if not 0 < self.value < 1:
            raise ValueError(f"threshold is {self.value}, not between 0 and 1")

    def __str__(self) -> str:
        return f"`{self.positive}` is predicted above a probability of {self.value:.4g} ({self.chosen})"

    def cut(self, class_names: Sequence[str]) -> float:
        """Return the probability of the second class above which that class is predicted."""
        return self.value if self.positive == class_names[1] else 1 - self.value


def is_second(chances: np.ndarray, cut: float) -> np.ndarray:
    """Return whether the second of two classes is predicted, bool [...]. `chances` is float [..., 2].

    This is the only place where a threshold decides a label. For `cut` see `Threshold.cut`.
    """
    return np.asarray(chances[..., 1] > cut)


def moved(threshold: Threshold | None) -> bool:
    """Whether `threshold` predicts other labels than the likelier of the two classes."""
    return threshold is not None and threshold.value != 0.5


def same_rule(first: Threshold | None, second: Threshold | None) -> bool:
    """Whether two models decide labels by the same rule: neither has a threshold, or both were chosen in the same way.

    Otherwise their accuracies differ for a reason that says nothing about the models.
    """
    if first is None or second is None:
        return first is second
    return (first.positive, first.chosen) == (second.positive, second.chosen)


def for_sensitivity(chances: np.ndarray, positive: np.ndarray, wanted: float) -> float:
    """Return the highest threshold that finds the fraction `wanted` of new positive images, on average over val sets.

    On the images that choose a threshold, the fraction found is higher than on new images. So the rank of the threshold
    among them is corrected as in split conformal prediction (arXiv 2107.07511). With too few positive images (see
    `enough`), the threshold finds all of them.

    Args:
        chances: probabilities of the positive class, float [N].
        positive: bool [N]. At least one is True.
    """
    found = np.sort(chances[positive])
    rank = math.floor((len(found) + 1) * (1 - wanted) + 1e-9)
    last = found[min(max(1, rank), len(found)) - 1]
    lower = chances[chances < last]
    return _within((last + (lower.max() if len(lower) else 0.0)) / 2)


def for_specificity(chances: np.ndarray, positive: np.ndarray, wanted: float) -> float:
    """Return the lowest threshold that rejects the fraction `wanted` of new negative images; see `for_sensitivity`."""
    return _within(1 - for_sensitivity(1 - chances, ~positive, wanted))


def enough(wanted: float) -> int:
    """Return the number of images that `for_sensitivity` needs to reach `wanted` on average."""
    return math.ceil(1 / (1 - wanted) - 1e-9) - 1


def for_cost(chances: np.ndarray, positive: np.ndarray, miss: float, alarm: float) -> float:
    """Return the threshold at which misses and false alarms cost least.

    If several thresholds cost least, the result is the nearest to `alarm / (miss + alarm)`, which is the best threshold
    for perfectly calibrated probabilities.

    Args:
        chances, positive: see `for_sensitivity`.
        miss: the cost of a positive image that is not found.
        alarm: the cost of a negative image that is taken for a positive one.
    """
    ends = np.unique([0.0, 1.0, *chances.tolist()])
    tried = (ends[1:] + ends[:-1]) / 2
    found, wrong = np.sort(chances[positive]), np.sort(chances[~positive])
    misses = np.searchsorted(found, tried, "right")
    alarms = len(wrong) - np.searchsorted(wrong, tried, "right")
    costs = miss * misses + alarm * alarms
    best = tried[np.isclose(costs, costs.min(), rtol=1e-9, atol=0)]  # a tiny cost is a cost, too
    return _within(best[np.abs(best - alarm / (miss + alarm)).argmin()])


def _within(value: float) -> float:
    return float(np.clip(value, _LEAST, 1 - _LEAST))
