"""Draw the folds of cross-validation, with similar class proportions, and with each group of images in one fold."""

from collections.abc import Hashable, Sequence

import numpy as np
from headstart.pipeline.scoring.threads import quiet

Rows = slice | np.ndarray  # a slice of rows, or row indices int64 [n]
Fold = tuple[Rows, Rows]  # rows to train on, rows to validate on


def draw_folds(labels: np.ndarray, groups: Sequence[Hashable], count: int, seed: int) -> list[Fold]:
    """Draw `count` folds of examples with these `labels`, int64 [N]. The examples of a group are in one fold.

    Raises ValueError if each class has fewer than `count` examples.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with quiet():
        return list(splitter.split(labels, labels, groups))


def rarest(labels: np.ndarray, groups: Sequence[Hashable]) -> tuple[int, int]:
    """Return the class with the fewest groups, and the number of its groups. `labels` is int64 [N]."""
    found: dict[int, set[Hashable]] = {}
    for label, group in zip(labels.tolist(), groups, strict=True):
        found.setdefault(label, set()).add(group)
    label = min(found, key=lambda label: len(found[label]))
    return label, len(found[label])
