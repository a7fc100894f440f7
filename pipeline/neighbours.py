"""Nearest neighbours among cached features."""

from dataclasses import dataclass

import numpy as np
from headstart.pipeline.memory.on_disk import Features, blocks

_BLOCK, _QUERIES = 1 << 24, 2048  # distances, and queries, that are computed at a time: at most 64 MB
_SCALED = 1024  # rows that are scaled at a time


@dataclass(frozen=True)
class Nearest:
    """The nearest neighbours of M queries, the nearest first."""

    distances: np.ndarray  # float32 [M, k], cosine distances in [0, 2]
    rows: np.ndarray  # int64 [M, k], row indices of the features that were searched


class Neighbours:
    """Finds nearest neighbours by cosine distance among `features`, float32 [N, D], in memory or on disk.

    For a few images at a time, scikit-learn's `NearestNeighbors` takes 20 times as long, because it scales all N
    features to unit length at each call.
    """

    def __init__(self, features: Features) -> None:
        self._features = unit_length(features) if isinstance(features, np.ndarray) else features

    def nearest(self, queries: Features, k: int) -> Nearest:
        """Find the `k` features that are nearest to each of `queries`, float32 [M, D]. If there are fewer, find all."""
        k = min(k, len(self._features))
        found = Nearest(np.full((len(queries), k), np.inf, np.float32), np.zeros((len(queries), k), np.int64))
        for part in blocks(self._features):
            searched = self._features[part]
            if not isinstance(self._features, np.ndarray):
                searched = unit_length(searched)
            size = max(1, min(_BLOCK // len(searched), _QUERIES))
            for start in range(0, len(queries), size):
                block = slice(start, start + size)
                far = np.clip(1 - unit_length(queries[block]) @ searched.T, 0, 2)
                near = np.argpartition(far, min(k, len(searched)) - 1, axis=1)[:, :k]
                distances = np.hstack([found.distances[block], np.take_along_axis(far, near, axis=1)])
                rows = np.hstack([found.rows[block], near + part.start])
                order = np.argsort(distances, axis=1, kind="stable")[:, :k]
                found.distances[block] = np.take_along_axis(distances, order, axis=1)
                found.rows[block] = np.take_along_axis(rows, order, axis=1)
        return found


def unit_length(features: np.ndarray) -> np.ndarray:
    """Scale each row of `features`, float [N, D], to length 1. A row of zeros stays zero."""
    found = np.empty_like(features)
    for start in range(0, len(features), _SCALED):
        rows = features[start : start + _SCALED]
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)  # squares may overflow float32
        found[start : start + _SCALED] = rows / np.where(lengths, lengths, 1)
    return found
