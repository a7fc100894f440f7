"""The threshold of a classifier of two classes. The threshold decides labels, and is chosen on val."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST = 1e-9  # the least distance of a threshold from 0 and from 1


@dataclass(frozen=True)
class Threshold:
    """A probability of the positive class. Above this probability, the classifier predicts the positive class."""

    positive: str  # the name of the positive class
    value: float  # over 0 and under 1
    chosen: str  # how it was chosen, such as `sensitivity 0.95 on val`

    def __post_init__(self) -> None:
        if not 0 < self.value < 1:
            raise ValueError(f"threshold is {self.value}, not between 0 and 1")

    def __str__(self) -> str:
        return f"`{self.positive}` is predicted above a probability of {self.value:.4g} ({self.chosen})"

    def second_above(self, class_names: Sequence[str]) -> float:
        """Return the threshold for the second of two `class_names`.

        The second class is predicted if its probability is over this threshold.
        """
        return self.value if self.positive == class_names[1] else 1 - self.value


def is_second(chances: np.ndarray, second_above: float) -> np.ndarray:
    """Return whether the second of two classes is predicted, as bool [...].

    `chances` has the probabilities of both classes, float [..., 2]. The second class is predicted if its probability is
    over `second_above`; see `Threshold.second_above`.
    """
    return np.asarray(chances[..., 1] > second_above)


def moved(threshold: Threshold | None) -> bool:
    """Return whether there is a threshold other than 0.5.

    Without a threshold, or with a threshold of 0.5, the more probable class is predicted.
    """
    return threshold is not None and threshold.value != 0.5


def same_rule(first: Threshold | None, second: Threshold | None) -> bool:
    """Return whether two models, with the thresholds `first` and `second`, decide labels by the same rule.

    The rule is the same if neither model has a threshold. It is also the same if both thresholds have the same positive
    class and were chosen in the same way. With different rules, a difference in accuracy says little about the models.
    """
    if first is None or second is None:
        return first is second
    return (first.positive, first.chosen) == (second.positive, second.chosen)


def for_sensitivity(chances: np.ndarray, positive: np.ndarray, wanted: float) -> float:
    """Return a threshold, as high as possible, whose sensitivity on new images is at least `wanted` on average.

    The sensitivity is the fraction of the positive images with a probability over the threshold. The average is over
    many val sets. The threshold from a single val set may have a lower sensitivity.

    The method is split conformal prediction (arXiv 2107.07511). The function `enough` returns the number of positive
    images that are needed. With fewer positive images, the sensitivity `wanted` can't be guaranteed. All given positive
    images then have a probability over the threshold.

    Args:
        chances: probabilities of the positive class, float [N].
        positive: bool [N], whether an image is positive. At least one is True.
    """
    found = np.sort(chances[positive])
    rank = math.floor((len(found) + 1) * (1 - wanted) + 1e-9)
    last = found[min(max(1, rank), len(found)) - 1]
    lower = chances[chances < last]
    return _within((last + (lower.max() if len(lower) else 0.0)) / 2)


def for_specificity(chances: np.ndarray, positive: np.ndarray, wanted: float) -> float:
    """Return a threshold, as low as possible, whose specificity on new images is at least `wanted` on average.

    The specificity is the fraction of the negative images with a probability under the threshold. For the average and
    the arguments, see `for_sensitivity`. At least one image must be negative.
    """
    return _within(1 - for_sensitivity(1 - chances, ~positive, wanted))


def enough(wanted: float) -> int:
    """Return the least number of positive images with which `for_sensitivity` reaches the sensitivity `wanted`."""
    return math.ceil(1 / (1 - wanted) - 1e-9) - 1


def for_cost(chances: np.ndarray, positive: np.ndarray, miss: float, alarm: float) -> float:
    """Return the threshold with the lowest total cost of misses and false alarms.

    If several thresholds have the lowest cost, the threshold nearest to `alarm / (miss + alarm)` is returned. For
    perfectly calibrated probabilities, `alarm / (miss + alarm)` is the best threshold.

    Args:
        chances: probabilities of the positive class, float [N].
        positive: bool [N], whether an image is positive.
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
