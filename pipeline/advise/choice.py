"""Choose the best of several candidates, and measure how sure the choice is."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from headstart.pipeline.advise.probe import Judged
from headstart.pipeline.scoring.folds import Fold

NEAR = 0.01  # accuracies that differ by at most this count as equal
_RESAMPLES, _CERTAIN = 1000, 1.645
_UNSURE = 0.5  # with a lower confidence, a default cut is preferred


@dataclass(frozen=True)
class Best:
    """The candidate that `choose` chose, and how sure the choice is.

    A candidate is given by its index in the argument `judged` of `choose`.
    """

    row: int  # the index of this candidate
    confidence: float  # the chance that the accuracy of `row` is within `NEAR` of the best; see `_confidence`
    order: list[int]  # all candidates: `row`, then the other `alike` ones by rising loss, then the rest by rising loss
    alike: frozenset[int]  # the candidates whose accuracy is not significantly below the best
    by_default: bool  # whether `row` was taken because its cut is a default one


def choose(judged: Sequence[Judged], folds: Sequence[Fold], defaults: Collection[int] = (), seed: int = 0) -> Best:
    """Choose a candidate in three steps.

    1. Leave out the candidates with an accuracy significantly below the best accuracy.
    2. Of the remaining candidates, choose the one with the lowest loss.
    3. If the confidence of this choice is below 0.5, repeat step 2 among the remaining candidates with a default cut,
       if there are any. For the confidence, see `Best.confidence`.

    Args:
        defaults: the indices of the candidates with a default cut.
    """
    # If few predictions are wrong, the loss distinguishes candidates better than the accuracy does.
    right = np.stack([one.probe for one in judged])
    best = int(right.mean(axis=1).argmax())
    alike = frozenset(row for row in range(len(judged)) if not _worse(right[best], right[row]))

    def rank(row: int) -> tuple[bool, float]:
        return row not in alike, judged[row].loss

    order = sorted(range(len(judged)), key=rank)
    near = _confidence(right, folds, seed)
    usual = [row for row in order if row in alike and row in defaults]
    by_default = bool(usual) and usual[0] != order[0] and bool(near[order[0]] < _UNSURE)
    if by_default:
        order.sort(key=lambda row: row != usual[0])
    return Best(order[0], float(near[order[0]]), order, alike, by_default)


def _confidence(right: np.ndarray, folds: Sequence[Fold], seed: int) -> np.ndarray:
    """Return each candidate's chance to be near the best; see Nadeau & Bengio (2003, doi:10.1023/A:1024068626366)."""
    # The probes of different folds share training images, so the variance of each estimate is too small. Each variance
    # is multiplied by 1 + F / (F - 1) for F folds.
    draws = np.random.default_rng(seed)
    images, count, values = right.shape[1], len(folds), right.T.astype(np.float64)
    means = values.mean(axis=0)
    drawn = draws.multinomial(images, np.full(images, 1 / images), _RESAMPLES)
    by_images = drawn @ values / images - means  # [resamples, candidates]
    spread = np.stack([values[held].mean(axis=0) for _, held in folds])
    spread -= spread.mean(axis=0)
    heavy = np.sqrt(draws.chisquare(count - 1, (_RESAMPLES, 1)) / (count - 1))  # makes the normal draws Student's t
    by_folds = draws.normal(size=(_RESAMPLES, count)) @ spread / math.sqrt((count - 1) * count) / heavy
    raised = math.sqrt(1 + count / (count - 1))
    near = []
    for off in (by_images, by_folds):
        accuracies = means + raised * off
        near.append((accuracies >= accuracies.max(axis=1, keepdims=True) - NEAR).mean(axis=0))
    return np.asarray(np.minimum(*near))


def _worse(best: np.ndarray, other: np.ndarray) -> bool:
    """Return whether `other` has significantly fewer right predictions than `best`, by McNemar's test.

    `best` and `other`, bool [N], tell which predictions are right.
    """
    lost, won = int((best & ~other).sum()), int((other & ~best).sum())
    return lost - won > _CERTAIN * math.sqrt(lost + won)
