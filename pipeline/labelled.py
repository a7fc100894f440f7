"""Features with their labels, for training and scoring heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.pipeline.memory.on_disk import Features, FeaturesOnDisk, Part, Rows, taken

_TOGETHER = 4096  # rows that are written at a time


@dataclass(frozen=True)
class LabelledFeatures:
    """Features in memory or on disk, with a label for each example."""

    features: Features  # float32 [N, D], the cuts side by side
    labels: np.ndarray  # int64 [N] in [0, classes)
    classes: int
    columns: Mapping[Cut, slice]  # the columns of `features` that belong to each cut, in order and without gaps
    views: Sequence[Features] = ()  # [N, D] each, of augmented views; with views, each epoch trains on one of them
    reduced: bool = False  # whether hidden layers multiply in bfloat16 during training

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, cuts: Sequence[Cut]) -> LabelledFeatures:
        """Return the same examples with only the columns of `cuts`, in the order of `cuts`.

        Features are copied only if they are in memory and there are several cuts.
        """
        selected = [self.columns[cut] for cut in cuts]
        numbers = [list(self.columns).index(cut) for cut in cuts]

        def side_by_side(rows: Features) -> Features:
            if isinstance(rows, FeaturesOnDisk):
                return rows.parts(numbers)
            return (
                rows[:, selected[0]] if len(cuts) == 1 else np.concatenate([rows[:, cut] for cut in selected], axis=1)
            )

        ends = np.cumsum([0, *(part.stop - part.start for part in selected)]).tolist()
        columns = dict(zip(cuts, map(slice, ends[:-1], ends[1:]), strict=True))
        return replace(
            self, features=side_by_side(self.features), columns=columns, views=[side_by_side(v) for v in self.views]
        )

    def take(self, rows: Rows) -> LabelledFeatures:
        """Select the examples at `rows`. Features are not copied if `rows` is a slice or the features are on disk."""
        views = [taken(view, rows) for view in self.views]
        return replace(self, features=taken(self.features, rows), labels=self.labels[rows], views=views)

    def on_disk(self, parent: Path) -> LabelledFeatures:
        """Return the same examples with their features on disk, where other processes can read the features.

        Features that are in memory are written to scratch files in `parent`.
        """

        def written(rows: Features) -> FeaturesOnDisk:
            if isinstance(rows, FeaturesOnDisk):
                return rows
            parts = [Part(cut.stop - cut.start, rows.dtype, _pieces(rows[:, cut])) for cut in self.columns.values()]
            return FeaturesOnDisk.write(parent, len(rows), parts)

        return replace(self, features=written(self.features), views=[written(view) for view in self.views])


def _pieces(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for at in np.array_split(np.arange(len(rows)), -(-len(rows) // _TOGETHER)):
        yield at, rows[at[0] : at[-1] + 1]
