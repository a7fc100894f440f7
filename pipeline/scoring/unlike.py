"""Find images that are unlike the training images: their features are far from a sample of the training images."""

from functools import cache
from typing import Any

import numpy as np
from headstart.pipeline.memory.on_disk import Features
from headstart.pipeline.neighbours import Neighbours, unit_length

NEAREST = 5
_MOST, _MOST_BYTES = 1000, 8 << 20  # most images and bytes of a reference
_USUAL = 0.99  # fraction of the val images within the usual distance


class Reference:
    """A sample of the training images. Other images are compared with this sample by their features.

    `features`, float16 [R, D], has a row for each image of the sample, scaled to unit length. R is at most 1,000, and
    the array has at most 8 MB.
    """

    def __init__(self, features: np.ndarray) -> None:
        self.features = features
        self._neighbours = Neighbours(features.astype(np.float32))

    @classmethod
    def of(cls, features: np.ndarray) -> "Reference":
        """Make a reference from the features of a sample of the training images, float [R, D].

        The rows need not have unit length. `reference_rows` draws the sample.
        """
        return cls(unit_length(features).astype(np.float16))

    def distances(self, features: Features) -> np.ndarray:
        """Return the mean cosine distance of each row of `features` to the 5 nearest images of the sample.

        `features` is float32 [M, D]. The result is float32 [M].
        """
        with _pools().limit(limits=1):  # the network needs the other cores
            return np.asarray(self._neighbours.nearest(features, NEAREST).distances.mean(axis=1))

    def usual_distance(self, features: Features) -> float:
        """Return the 99th percentile of the distances of the val images from the sample of the training images.

        For these distances, see `distances`. `features`, float32 [N, D], has the features of the val images.
        """
        return usual(self.distances(features))


def usual(distances: np.ndarray) -> float:
    """Return the distance within which 99 % of the val images lie.

    `distances`, float [N], has the distance of each val image from the sample of the training images.
    """
    return float(np.quantile(distances, _USUAL))


@cache
def _pools() -> Any:
    """Return the thread pools of NumPy's libraries. The result is cached, because finding them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def reference_rows(labels: np.ndarray, width: int) -> np.ndarray:
    """Draw a sample of the training images for a `Reference`. Return its rows, int64 [R], ascending.

    `labels`, int [N], has the labels of the training images. `width` is the number of features of an image. If `width`
    is large, R is small. The sample has about equally many images of each class. If a class has too few, the sample has
    all of them. The same arguments give the same rows.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    turns = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # ranks within classes, from 0
    most = max(1, min(_MOST, _MOST_BYTES // (2 * width)))
    return np.sort(by_class[np.argsort(turns, kind="stable")][:most])
