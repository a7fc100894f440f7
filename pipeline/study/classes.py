"""Find the classes whose recall would gain most from more training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from headstart.pipeline.study.curve import Curve
from headstart.pipeline.study.forecast import LEVEL
from headstart.pipeline.study.laws import kept_law


@dataclass(frozen=True)
class ClassGain:
    """The recall of a class, and the gain in recall that is expected from twice as many training images."""

    name: str
    images: int  # of the class in train
    recall: float  # of a head that was trained on all of train
    gain: float
    low: float  # the lower end of the interval of `gain` at `LEVEL`
    high: float  # the upper end

    def fields(self) -> dict[str, Any]:
        """Return the recall and the gain of the class as a JSON object."""
        return {
            "class": self.name,
            "images": self.images,
            "recall": self.recall,
            "gain": self.gain,
            "interval": [self.low, self.high],
        }


def class_gains(curve: Curve, train_labels: np.ndarray, class_names: Sequence[str]) -> list[ClassGain]:
    """Return the gain of each class. The gains are sorted by the lower ends of their intervals, from high to low.

    `train_labels`, int [N], are the labels of the training images.

    The gain of a class is the rise of its recall that is expected from twice as many training images. `curve` has the
    measurements for several sizes of the training set. For each class, a line is fitted to the recall against the
    logarithm of the size. The fit uses only the larger half of the sizes. The gain is log(2) times the slope of the
    line, times a factor from 0 to 1.

    The factor corrects for curves that flatten, and is the same for all classes. Two rises in accuracy are predicted
    for twice as many images: the first rise by a law that is fitted to the errors (see `kept_law`), and the second rise
    by a line that is fitted to the accuracy. The factor is the first rise, divided by the second rise.

    The interval covers the variance between val images and the variance between draws of training images. A gain and
    its interval are clipped to the range from 0 to 1 - recall.
    """
    from scipy.stats import t

    gained = _doubled(curve)
    counts = np.bincount(train_labels, minlength=len(class_names))
    found = []
    for label, name in enumerate(class_names):
        mine = gained[:, curve.labels == label]
        recall = float(curve.right[-1][:, curve.labels == label].mean())
        seeds, images = mine.shape
        gain, low, high = float(mine.mean()), 0.0, 1.0
        if images > 1:
            variance = mine.mean(axis=0).var(ddof=1) / images + mine.mean(axis=1).var(ddof=1) / seeds
            off = float(t.ppf((1 + LEVEL) / 2, images - 1) * np.sqrt(variance))
            low, high = gain - off, gain + off
        bounded = np.clip([gain, low, high], 0, 1 - recall).tolist()
        found.append(ClassGain(name, int(counts[label]), recall, *bounded))
    return sorted(found, key=lambda one: (-one.low, -one.gain))


def _doubled(curve: Curve) -> np.ndarray:
    """Return the expected rise of each score, float64 [S, V], if the number of training images doubles.

    A score is 1 if the prediction is right, else 0.
    """
    half = len(curve.images) // 2
    x = np.log(curve.images[half:])
    weights = np.log(2) * (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    gained = np.tensordot(weights, curve.right[half:].astype(np.float64), axes=1)
    law, parameters = kept_law(curve.images.astype(np.float64), 1 - curve.right.mean(axis=(1, 2)))
    now, then = law.errors(parameters[np.newaxis], curve.images[-1] * np.array([1.0, 2.0]))[0]
    flattened = np.clip((now - then) / gained.mean(), 0, 1) if gained.mean() > 0 else 1.0
    return np.asarray(gained * flattened)
