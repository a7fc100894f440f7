"""Features in memory with their labels, for training and scoring heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from headstart.features.backbones.cuts import Cut


@dataclass(frozen=True)
class LabelledFeatures:
    """Features in memory, with a label for each example."""

    features: np.ndarray  # float32 [N, D], the cuts side by side
    labels: np.ndarray  # int64 [N] in [0, classes)
    classes: int
    columns: Mapping[Cut, slice]  # the columns of `features` that belong to each cut, in order and without gaps
    views: Sequence[np.ndarray] = ()  # [N, D] each, of augmented views; with views, each epoch trains on one of them
    reduced: bool = False  # whether hidden layers multiply in bfloat16 during training

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, cuts: Sequence[Cut]) -> LabelledFeatures:
        """Select the columns of `cuts`, side by side, for all examples. The columns of a single cut are not copied."""
        taken = [self.columns[cut] for cut in cuts]

        def side_by_side(rows: np.ndarray) -> np.ndarray:
            return rows[:, taken[0]] if len(taken) == 1 else np.concatenate([rows[:, cut] for cut in taken], axis=1)

        ends = np.cumsum([0, *(part.stop - part.start for part in taken)]).tolist()
        columns = dict(zip(cuts, map(slice, ends[:-1], ends[1:]), strict=True))
        return replace(
            self, features=side_by_side(self.features), columns=columns, views=[side_by_side(v) for v in self.views]
        )

    def take(self, rows: slice | np.ndarray) -> LabelledFeatures:
        """Select the examples at `rows`, a slice or int64 [n]. With a slice, no features are copied."""
        views = [view[rows] for view in self.views]
        return replace(self, features=self.features[rows], labels=self.labels[rows], views=views)
