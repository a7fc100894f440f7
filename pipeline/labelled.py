"""The material that heads are trained and scored on: features with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class LabelledFeatures:
    """Features in memory, with a label for each example.

    Args:
        features: float32 [N, D], the cuts side by side.
        labels: int64 [N] in [0, classes).
        classes: the number of classes.
        columns: where each cut lies in `features`, by its name, in order and without gaps.
        views: features [N, D] of other views of the images; each epoch trains on one of them in place of `features`.
        reduced: hidden layers multiply in bfloat16 while a head is trained.
    """

    features: np.ndarray
    labels: np.ndarray
    classes: int
    columns: Mapping[str, slice]
    views: Sequence[np.ndarray] = ()
    reduced: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def widths(self) -> list[int]:
        """The number of columns of each cut."""
        return [columns.stop - columns.start for columns in self.columns.values()]

    def at(self, cuts: Sequence[str]) -> LabelledFeatures:
        """The features at some of the cuts, side by side. A single cut is not copied."""
        taken = [self.columns[cut] for cut in cuts]

        def side_by_side(rows: np.ndarray) -> np.ndarray:
            return rows[:, taken[0]] if len(taken) == 1 else np.concatenate([rows[:, cut] for cut in taken], axis=1)

        columns, start = {}, 0
        for name, cut in zip(cuts, taken, strict=True):
            columns[name] = slice(start, start + cut.stop - cut.start)
            start = columns[name].stop
        views = [side_by_side(view) for view in self.views]
        return replace(self, features=side_by_side(self.features), columns=columns, views=views)

    def take(self, rows: slice | np.ndarray) -> LabelledFeatures:
        """Some of the examples, int64 [n]. A slice is not copied."""
        views = [view[rows] for view in self.views]
        return replace(self, features=self.features[rows], labels=self.labels[rows], views=views)
