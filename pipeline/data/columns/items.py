"""The images to be split. An `Item` is one of them, and `Items` holds all of them in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from headstart.pipeline.data.columns.coded import Coded


class Item(NamedTuple):
    """An image to be split."""

    digest: str
    label: int
    group: str | None = None  # images of one group get the same split; None for no group
    split: str = ""  # the split that the image already has; "" for none
    drawn: bool = False  # whether `split` was drawn earlier, not given; such an image may move to its group's split
    of_train: bool = False  # whether the image is given to train, and may be taken for val
    path: str = ""  # the path in messages; "" if messages name the image by its digest


@dataclass(frozen=True)
class Items:
    """The images to be split, in columns. For the meaning of the fields, see `Item`."""

    digests: Sequence[str]
    same: np.ndarray  # int [N]: equal numbers for equal digests, from 0
    labels: np.ndarray  # int [N]
    groups: Coded[str | None]
    splits: Coded[str]
    drawn: np.ndarray  # bool [N]
    of_train: np.ndarray  # bool [N]
    paths: Sequence[str]

    @classmethod
    def of(cls, items: Items | Iterable[Item]) -> Items:
        """Make columns of `items`. If `items` are columns, they are returned unchanged."""
        if isinstance(items, Items):
            return items
        rows = list(items)
        digests = [one.digest for one in rows]
        return cls(
            digests=digests,
            same=Coded.of(digests).codes,
            labels=np.array([one.label for one in rows], np.int64),
            groups=Coded.of(one.group for one in rows),
            splits=Coded.of(one.split for one in rows),
            drawn=np.array([one.drawn for one in rows], bool),
            of_train=np.array([one.of_train for one in rows], bool),
            paths=[one.path for one in rows],
        )

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def without_split(self) -> np.ndarray:
        """A mask of the items that have no split yet, bool [N]."""
        return self.splits.is_("")
