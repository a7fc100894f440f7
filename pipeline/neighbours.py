"""Nearest neighbours among cached features."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Nearest:
    """The nearest neighbours of M queries, the nearest first."""

    distances: np.ndarray  # float32 [M, k], cosine distances in [0, 2]
    rows: np.ndarray  # int64 [M, k], row indices of the features that were searched


class Neighbours:
    """Searches the nearest neighbours among the features float32 [N, D], by cosine distance."""

    def __init__(self, features: np.ndarray) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._count = len(features)
        self._model: Any = NearestNeighbors(metric="cosine", algorithm="brute").fit(features)

    def nearest(self, queries: np.ndarray, k: int) -> Nearest:
        """Return the `k` nearest features of each of `queries`, float32 [M, D]; all N if `k` is over N."""
        distances, rows = self._model.kneighbors(queries, min(k, self._count))
        return Nearest(distances.astype(np.float32), rows)

    def nearest_others(self, k: int) -> Nearest:
        """Return the `k` nearest other features of each of the N features; all N - 1 if `k` is over N - 1."""
        distances, rows = self._model.kneighbors(None, min(k, self._count - 1))
        return Nearest(distances.astype(np.float32), rows)
