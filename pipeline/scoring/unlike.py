"""Images unlike the training images: those far from all of a few training images in the space of the features."""

from functools import cache
from typing import Any

import numpy as np
from headstart.pipeline.neighbours import Neighbours, unit_length

NEAREST = 5
_MOST, _MOST_BYTES = 1000, 8 << 20  # of the kept training images
_USUAL = 0.99  # share of the val images within the usual distance


class Reference:
    """Training images to which others are compared. `features` has a row of unit length of each, float16 [R, D].

    R is at most 1,000, and the array has at most 8 MB: twice as many training images tell no more apart.
    """

    def __init__(self, features: np.ndarray) -> None:
        self.features = features
        self._neighbours = Neighbours(features.astype(np.float32))

    @classmethod
    def of(cls, features: np.ndarray) -> "Reference":
        """Return the reference of training images with these features, float [R, D]; see `reference_rows`."""
        return cls(unit_length(features).astype(np.float16))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return the mean cosine distance of each of `features`, float32 [M, D], to the 5 nearest: float32 [M]."""
        with _pools().limit(limits=1):  # the network needs the other cores
            return np.asarray(self._neighbours.nearest(features, NEAREST).distances.mean(axis=1))

    def usual_distance(self, features: np.ndarray) -> float:
        """Return the `usual` distance of val images with these features, float32 [N, D]."""
        return usual(self.distances(features))


def usual(distances: np.ndarray) -> float:
    """Return the distance within which 99 % of val images lie. `distances`, float [N], are those of val images."""
    return float(np.quantile(distances, _USUAL))


@cache
def _pools() -> Any:
    """Return the thread pools of NumPy's libraries. To find them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def reference_rows(labels: np.ndarray, width: int) -> np.ndarray:
    """Draw the training images of a reference evenly by class. Return their positions, ascending int64 [R].

    The draw is always the same for the same `labels`, int [N]. `width` is the number of features, D.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    turns = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0 for the first of each class
    most = max(1, min(_MOST, _MOST_BYTES // (2 * width)))
    return np.sort(by_class[np.argsort(turns, kind="stable")][:most])
