"""Draw the folds of cross-validation. All folds have similar class proportions, and no group is split between folds.

A group is a set of examples that must stay together, such as the copies of an image.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from headstart.features.errors import DataError
from headstart.pipeline.memory.on_disk import Rows
from headstart.pipeline.scoring.threads import quiet

Fold = tuple[Rows, Rows]  # rows to train on, rows to validate on


def draw_folds(labels: np.ndarray, groups: Sequence[Hashable], count: int, seed: int) -> list[Fold]:
    """Return `count` folds for cross-validation. A fold is a pair: the rows to train on, and the rows to validate on.

    `labels` is int64 [N]. `groups` has the group of each example. All examples of a group are validated in the same
    fold. Raises ValueError if no class has `count` or more examples.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with quiet():
        return list(splitter.split(labels, labels, groups))


def are_trainable(folds: Sequence[Fold], labels: np.ndarray) -> bool:
    """Return whether each fold validates on at least one row, and trains on rows of at least two classes.

    `labels` is int64 [N]. `draw_folds` may return folds for which the result is False, because groups stay together: a
    fold may be empty, or all examples of a class may be validated in one fold.
    """
    return all(len(labels[val]) and len(np.unique(labels[train])) > 1 for train, val in folds)


def require_trainable_folds(folds: Sequence[Fold], labels: np.ndarray, count: int) -> Sequence[Fold]:
    """Return `folds`. Raises DataError if not `are_trainable(folds, labels)`. `count` is the value of `--folds`."""
    if not are_trainable(folds, labels):
        raise DataError(
            f"--folds {count}: a fold is empty, or leaves one class alone to train on, because images of a group stay "
            "together; give another number of folds, or add images"
        )
    return folds


def stratified(strata: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Draw a sample from N rows. Return the n drawn rows, int64 [n], ascending.

    `strata`, int [N], has the stratum of each row. About the same fraction of each stratum is drawn. The argument
    `most` is the approximate n. If N is at most this number, all rows are drawn. Each stratum gives at least two rows,
    or its only row. With many small strata, n may therefore be larger than the argument `most`.
    """
    if len(strata) <= most:
        return np.arange(len(strata))
    draw, kept = np.random.default_rng(seed), []
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        kept.append(draw.permutation(rows)[: max(2, len(rows) * most // len(strata))])
    return np.sort(np.concatenate(kept))


def sampled_folds(labels: np.ndarray, folds: Sequence[Fold], most: int, seed: int = 0) -> tuple[np.ndarray, list[Fold]]:
    """Draw a sample of the rows, and remove all other rows from the folds.

    `labels`, int64 [N], has the label of each row. The argument `most` is the approximate size of the sample. Each
    class of each fold keeps its share of the rows.

    Returns the drawn rows, int64 [n], ascending, and the new folds. The new folds hold positions in the array of the
    drawn rows.
    """
    of = np.zeros(len(labels), np.int64)  # the fold in which a row is validated; 0 if there is no such fold
    for number, (_, val) in enumerate(folds, 1):
        of[val] = number
    rows = stratified(of * (labels.max() + 1) + labels, most, seed)

    def within(part: Rows) -> np.ndarray:
        chosen = np.zeros(len(labels), bool)
        chosen[part] = True
        return np.flatnonzero(chosen[rows])

    return rows, [(within(train), within(val)) for train, val in folds]


def rarest(labels: np.ndarray, groups: Sequence[Hashable]) -> tuple[int, int]:
    """Return the class with the fewest groups, and the number of its groups.

    `labels` is int64 [N]. `groups` has the group of each example.
    """
    found: dict[int, set[Hashable]] = {}
    for label, group in zip(labels.tolist(), groups, strict=True):
        found.setdefault(label, set()).add(group)
    label = min(found, key=lambda label: len(found[label]))
    return label, len(found[label])
