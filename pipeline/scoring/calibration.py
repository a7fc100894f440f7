"""Calibration: temperature scaling, conformal sets of labels, and the gap between probabilities and frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from headstart.pipeline.scoring.metrics import cross_entropy, probabilities

BINS = 15
FEWEST = 500  # images; with fewer, `calibration_error` is mostly chance
_DRAWS = 100
MOST_KEPT = 5000  # probabilities of val images in a run: up to 140 KB
_COLDEST, _HOTTEST = 0.01, 100.0
_PRIOR = 0.5  # standard deviation of log T; of 0.25, 0.5 and 1, it gave the lowest loss on unseen photographs


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model on val: values that give calibrated probabilities and sets of likely labels."""

    temperature: float  # logits are divided by it
    true_probabilities: list[float]  # of val images: the probability of the true label, ascending, at most `MOST_KEPT`
    distance: float | None = None  # an image at a larger distance is unlike the training images; see `scoring.unlike`

    def __post_init__(self) -> None:
        kept, distance = self.true_probabilities, self.distance or 0.0
        if not _COLDEST <= self.temperature <= _HOTTEST:
            raise ValueError(f"temperature is {self.temperature}")
        if not kept or kept != sorted(kept) or not 0 <= kept[0] <= kept[-1] <= 1:
            raise ValueError("true_probabilities are not ascending from 0 to 1")
        if not 0 <= distance <= 2:
            raise ValueError(f"distance is {distance}")

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities (float64 [N, C]) of `logits`.

        `logits` is float [N, 1] (two classes) or [N, C].
        """
        return probabilities(logits / self.temperature)

    def threshold_of_sets(self, alpha: float) -> float | None:
        """Return the threshold for the set of likely labels of an image.

        The set holds each label whose probability is at least the threshold. On average, at most the fraction `alpha`
        of new images get a set without their true label. The method is split conformal prediction with the score LAC
        (arXiv 2107.07511). With fewer than 1 / alpha - 1 val images, the result is None.
        """
        rank = math.floor(alpha * (len(self.true_probabilities) + 1))
        return self.true_probabilities[rank - 1] if rank else None


def calibrate(logits: np.ndarray, labels: np.ndarray, distance: float | None = None) -> Calibration:
    """Return the calibration of a model from its logits and the true labels on val.

    `logits` is float [N, 1] (two classes) or [N, C], and `labels` is int [N]. For `distance`, see
    `Calibration.distance`.
    """
    temperature = fit_temperature(logits, labels)
    found = np.sort(probabilities(logits / temperature)[np.arange(len(labels)), labels])
    kept = min(len(found), MOST_KEPT)
    # Of more than `MOST_KEPT` images, these ranks are kept. `threshold_of_sets` is never higher than with all images.
    ranks = np.arange(1, kept + 1) * (len(found) + 1) // (kept + 1)
    return Calibration(temperature, found[ranks - 1].tolist(), distance)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature in [0.01, 100] by which `logits` must be divided to calibrate them.

    `logits` is float [N, 1] (two classes) or [N, C], and `labels` is int [N].

    The temperature T minimises the summed cross-entropy (Guo et al. 2017, arXiv 1706.04599) plus a penalty. The penalty
    is the negative log density of a prior, by which log T is normal with mean 0. Without the penalty, T would be near 0
    if a model made no mistakes on a small val split.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.astype(np.float64)

    def loss(log: float) -> float:
        return cross_entropy(logits / math.exp(log), labels) + (log / _PRIOR) ** 2 / (2 * len(labels))

    best: float = minimize_scalar(loss, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded").x
    return min(max(math.exp(best), _COLDEST), _HOTTEST)


@dataclass(frozen=True)
class Bin:
    """A bin of examples with similar confidence. The confidence is the probability of the predicted class."""

    count: int
    confidence: float  # the mean over the examples
    accuracy: float


def reliability(chances: np.ndarray, labels: np.ndarray) -> list[Bin]:
    """Sort the examples into 15 bins by confidence, which is the probability of the predicted class.

    All bins have the same width. Return the bins that are not empty, the lowest confidence first. `chances` are
    probabilities, float [N, C], and `labels` is int [N].
    """
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(int((at == number).sum()), float(confidence[at == number].mean()), float(right[at == number].mean()))
        for number in np.unique(at)
    ]


def calibration_error(chances: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error, in [0, 1].

    `chances` are probabilities, float [N, C], and `labels` is int [N]. The function `reliability` sorts the examples
    into bins. The gap of a bin is the difference between its mean confidence and its accuracy. The error is the mean
    gap, weighted by the number of examples in each bin.
    """
    bins = reliability(chances, labels)
    return sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / len(labels)


def chance_error(chances: np.ndarray, seed: int = 0) -> float:
    """Return the mean `calibration_error` that a perfectly calibrated model would have by chance alone.

    `chances`, float [N, C], are the probabilities of the model. The mean is over random draws. In a draw, each
    prediction is right with the probability that the model gives to the predicted class.
    """
    rng, confidence = np.random.default_rng(seed), chances.max(axis=1)
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [np.abs(np.bincount(at, (rng.random(len(at)) < confidence) - confidence, BINS)).sum() for _ in range(_DRAWS)]
    return float(np.mean(gaps) / len(at))
