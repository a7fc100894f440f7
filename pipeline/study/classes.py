"""Which class would gain most from more images, by its recall."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from headstart.pipeline.study.curve import Curve
from headstart.pipeline.study.forecast import LEVEL


@dataclass(frozen=True)
class ClassGain:
    """The recall of a class, and how far twice the training images would raise it."""

    name: str
    images: int  # in train
    recall: float  # with all of train
    gain: float
    low: float  # of the interval of `gain` at `LEVEL`
    high: float

    def fields(self) -> dict[str, Any]:
        """Return the JSON object of a class."""
        return {
            "class": self.name,
            "images": self.images,
            "recall": self.recall,
            "gain": self.gain,
            "interval": [self.low, self.high],
        }


def class_gains(curve: Curve, train_labels: np.ndarray, class_names: Sequence[str]) -> list[ClassGain]:
    """Return the gain of each class, the surest and largest first.

    The slope of recall against log(n) over the larger half of the sizes is taken to hold for one doubling more. Its
    slope is a mean over the val images of the class, and over the draws; both give it a standard error. `train_labels`
    is int [N].
    """
    from scipy.stats import t

    half = len(curve.images) // 2
    x = np.log(curve.images[half:])
    weights = np.log(2) * (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    gained = np.tensordot(weights, curve.right[half:].astype(np.float32), axes=1)  # [S, V]
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
