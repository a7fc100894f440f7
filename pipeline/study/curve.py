"""Measure the learning curve: heads on nested subsets of the training images, scored on val.

The heads are logistic regressions on standardised features. One takes some hundredths of a second for a thousand
images; a head of `headstart head` takes a second, and TensorFlow. From 50 images on, their accuracies differed by at
most 0.3 points with EfficientNet-Lite0, by 2 with an InceptionV3 from afar (docs/measurements.md). The fit is convex,
so it adds no noise of initial weights and batches to the noise of the images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from headstart.features.device import cpu_count
from headstart.features.terminal import progress
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.scoring.baselines import logistic_regression
from headstart.pipeline.scoring.choosing import ChooseBy
from headstart.pipeline.study.contributions import contributions
from headstart.pipeline.study.subsets import nested_order

# With 20 to 1,600 images, this strength was within 0.5 points of the best of five on two cuts (0.72 and 0.99 right).
# The penalty is a prior, so one strength fits all sizes.
_STRENGTH = 0.1


@dataclass(frozen=True)
class Curve:
    """The figures of K sizes with S draws each, from V val images."""

    metric: ChooseBy
    images: np.ndarray  # int64 [K], rising; the mean over the draws, because units are never divided
    parts: np.ndarray  # float32 [K, S, V]: the `contributions` of the val images
    right: np.ndarray  # bool [K, S, V]: whether the prediction is the label
    labels: np.ndarray  # int64 [V], of the val images

    @property
    def errors(self) -> np.ndarray:
        """The figure of each size and draw as a number to minimise, float64 [K, S]: loss, or 1 - figure."""
        return to_error(self.metric, self.parts.mean(axis=2, dtype=np.float64))


def to_error(metric: ChooseBy, values: np.ndarray) -> np.ndarray:
    """Turn figures into errors, which are lower for better heads; and errors into figures."""
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
    """Train a head for each of `sizes`, in units, and `seeds`, and score it on `val`.

    `units` has an entry for each training image; see `nested_order`. The last size is all of them, so it has one draw.
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
    """Call `fit` for all places, in threads, and `advance` with each result. Ctrl-C drops those that have not begun."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        try:
            for count in pool.map(fit, places):
                advance(count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep products of matrices on one thread: on small ones, several threads took ten times as long."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a model that has not converged is scored, too
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # small subsets of many classes
        yield


def _logits(train: LabelledFeatures, features: np.ndarray) -> np.ndarray:
    """Train a head, and return its log probabilities, float64 [N, C]. A class without images has the lowest."""
    tiny = np.finfo(np.float32).tiny
    known = np.unique(train.labels)
    logits = np.full((len(features), train.classes), np.log(tiny))
    if len(known) == 1:  # logistic regression needs two classes
        logits[:, known] = 0.0
    else:
        chances = logistic_regression(_STRENGTH).fit(train.features, train.labels).predict_proba(features)
        logits[:, known] = np.log(np.maximum(chances, tiny))
    return logits
