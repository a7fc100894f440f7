"""Measure the learning curve: heads on nested subsets of the training images, scored on val.

The heads are logistic regressions on standardised features. Fitting a logistic regression to a thousand images takes
some hundredths of a second. The command `headstart head` takes a second to train a head, and needs TensorFlow. The
result of a logistic regression depends only on the images, because the fit is convex.

The accuracies of the two kinds of head were compared on 50 images and more. With EfficientNet-Lite0, they differed by
at most 0.3 points (docs/measurements.md). With an InceptionV3 that was trained for another task, they differed by at
most 2 points.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from headstart.features.device import cpu_count
from headstart.features.terminal import progress
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.memory.on_disk import Features
from headstart.pipeline.scoring.baselines import fitted_logistic, log_chances, logistic_chances
from headstart.pipeline.scoring.choosing import ChooseBy
from headstart.pipeline.scoring.threads import single_threaded
from headstart.pipeline.study.contributions import contributions
from headstart.pipeline.study.subsets import nested_order

# With 20 to 1,600 images, the accuracy with this strength was within 0.5 points of the best of five strengths. Two cuts
# were tried, with accuracies of 0.72 and 0.99. The penalty is a prior, so one strength fits all sizes.
_STRENGTH = 0.1


@dataclass(frozen=True)
class Curve:
    """The scores of heads on V val images. The heads were trained on S random subsets of each of K sizes."""

    metric: ChooseBy
    images: np.ndarray  # int64 [K], rising: images in a subset, as the mean over the S subsets of a size
    parts: np.ndarray  # float32 [K, S, V]: the `contributions` of the val images
    right: np.ndarray  # bool [K, S, V]: whether the prediction is the label
    labels: np.ndarray  # int64 [V]: the labels of the val images

    @property
    def errors(self) -> np.ndarray:
        """The error of each head, float64 [K, S]: the loss, or 1 minus the figure of another metric.

        K is the number of sizes of training sets, and S is the number of training sets of each size.
        """
        return to_error(self.metric, self.parts.mean(axis=2, dtype=np.float64))


def to_error(metric: ChooseBy, values: np.ndarray) -> np.ndarray:
    """Turn figures into errors: the loss stays as it is, and any other figure x becomes 1 - x.

    The same call turns errors back into figures.
    """
    return values if metric == "loss" else 1 - values


def measure_curve(
    train: LabelledFeatures,
    val: LabelledFeatures,
    units: Sequence[Hashable],
    sizes: Sequence[int],
    seeds: int,
    metric: ChooseBy,
    seed: int = 0,
) -> Curve:
    """Train heads on subsets of `train` of several sizes, and score them on `val`.

    Args:
        units: an entry for each training image. Images with equal entries are one unit; see `nested_order`.
        sizes: the numbers of units in a subset, rising. The last size must be the number of all units.
        seeds: the number of subsets of each size, except the last size. The last size has only one subset. A head is
            trained on each subset.
    """
    orders = [nested_order(train.labels, units, (seed, draw)) for draw in range(seeds)]
    cuts = np.array([[ends[size - 1] for _, ends in orders] for size in sizes])  # rows
    parts = np.empty((len(sizes), seeds, len(val)), np.float32)
    right = np.empty(parts.shape, bool)

    def fit(place: tuple[int, int]) -> int:
        count = int(cuts[place])
        logits = _logits(train.take(orders[place[1]][0][:count]), val.features)
        parts[place] = contributions(metric, logits, val.labels)
        right[place] = logits.argmax(axis=1) == val.labels
        return count

    places = [(size, draw) for size in range(len(sizes)) for draw in range(seeds if size < len(sizes) - 1 else 1)]
    examples = int(sum(cuts[place] for place in places))
    with single_threaded(), progress("training heads", examples, "examples") as advance:
        _each(fit, places, advance)
    parts[-1], right[-1] = parts[-1, :1], right[-1, :1]
    return Curve(metric, cuts.mean(axis=1).round().astype(np.int64), parts, right, val.labels)


def _each(
    fit: Callable[[tuple[int, int]], int], places: Sequence[tuple[int, int]], advance: Callable[[int], None]
) -> None:
    """Call `fit` in threads for each of `places`, and call `advance` with each result."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        try:
            for count in pool.map(fit, places):
                advance(count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _logits(train: LabelledFeatures, features: Features) -> np.ndarray:
    """Train a head on `train`, and return its log probabilities for `features`, float64 [N, C]."""
    if len(known := np.unique(train.labels)) == 1:  # logistic regression needs two classes
        return log_chances(np.tile(np.eye(train.classes)[known[0]], (len(features), 1)))
    model = fitted_logistic(train.features[:], train.labels, _STRENGTH)
    return log_chances(logistic_chances(model, features, train.classes))
