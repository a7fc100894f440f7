"""Calibration: temperature scaling of logits, and measures of how far probabilities are from observed frequencies."""

from dataclasses import dataclass

import numpy as np
from headstart.pipeline.scoring.metrics import cross_entropy

BINS = 15
_COLDEST, _HOTTEST = 0.01, 100.0


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T in [0.01, 100] that minimises the mean cross-entropy of `logits / T`.

    See Guo et al., 2017, arXiv 1706.04599. `logits` is float [N, 1] (two classes) or [N, C], and `labels` is int [N].
    """
    from scipy.optimize import minimize_scalar

    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    found = minimize_scalar(lambda log: cross_entropy(logits / np.exp(log), labels), bounds=bounds, method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True)
class Bin:
    """The examples whose confidence, the probability of the predicted class, lies within one interval."""

    count: int
    confidence: float  # the mean over the examples
    accuracy: float


def reliability(chances: np.ndarray, labels: np.ndarray) -> list[Bin]:
    """Sort the examples into 15 equally wide bins of confidence. Return the bins with examples, in ascending order.

    `chances` has probabilities [N, C], and `labels` is int [N].
    """
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(int((at == number).sum()), float(confidence[at == number].mean()), float(right[at == number].mean()))
        for number in np.unique(at)
    ]


def calibration_error(chances: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error in [0, 1]: the mean gap between confidence and accuracy of the bins.

    Each bin has the weight of its number of examples. `chances` and `labels`: see `reliability`.
    """
    bins = reliability(chances, labels)
    return sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / len(labels)
