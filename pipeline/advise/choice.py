"""Choose the best of several candidates, and measure how sure the choice is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from headstart.pipeline.advise.probe import Judged

NEAR = 0.01  # accuracies that differ by at most this count as equal
_RESAMPLES, _CERTAIN = 1000, 1.645


@dataclass(frozen=True)
class Best:
    """The candidate to take."""

    row: int  # its index
    confidence: float  # the share of resamples of the images in which its accuracy is within `NEAR` of the best


def choose(judged: Sequence[Judged], seed: int = 0) -> Best:
    """Choose the candidate with the lowest loss among all whose accuracy is not significantly below the best.

    The loss distinguishes candidates better than the accuracy does if few predictions are wrong.
    """
    right = np.stack([one.probe for one in judged])
    best = int(right.mean(axis=1).argmax())
    alike = [row for row in range(len(judged)) if not _worse(right[best], right[row])]
    row = min(alike, key=lambda number: judged[number].loss)
    count = right.shape[1]
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    accuracies = drawn @ right.T.astype(np.float64) / count  # [resamples, candidates]
    near = accuracies[:, row] >= accuracies.max(axis=1) - NEAR
    return Best(row, float(near.mean()))


def _worse(best: np.ndarray, other: np.ndarray) -> bool:
    """Return whether `other`, bool [N], is right on significantly fewer images than `best` (McNemar's test)."""
    lost, won = int((best & ~other).sum()), int((other & ~best).sum())
    return lost - won > _CERTAIN * math.sqrt(lost + won)
