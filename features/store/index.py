"""Where each digest lies among the shards of a store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.store.shards import DIGEST


@dataclass(frozen=True)
class Slab:
    """A piece of one shard: `positions` among what was asked for, int64 [n], and their `rows` in it, int64 [n]."""

    shard: Path
    positions: np.ndarray
    rows: np.ndarray

    @property
    def first(self) -> int:
        """The lowest row."""
        return int(self.rows.min())

    @property
    def last(self) -> int:
        """The highest row."""
        return int(self.rows.max())


class Index:
    """Sorted digests of all shards, each with its place: 40 bytes an image, found by binary search.

    Args:
        shards: in any order; of a digest in several the first counts.
        digests: of each shard, `DIGEST` [n].
    """

    def __init__(self, shards: Sequence[Path], digests: Mapping[Path, np.ndarray]) -> None:
        self.shards = list(shards)
        each = [digests[shard] for shard in shards]
        every = np.concatenate([np.empty(0, DIGEST), *each])
        order = np.argsort(every, kind="stable")
        self.digests = every[order]
        self._shard = np.repeat(np.arange(len(each), dtype=np.int32), [len(part) for part in each])[order]
        self._row = np.concatenate([np.empty(0, np.int32), *(np.arange(len(part), dtype=np.int32) for part in each)])[
            order
        ]

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Whether each of `digests` (`DIGEST` [N]) is there, bool [N]."""
        if not len(self.digests):
            return np.zeros(len(digests), bool)
        found: np.ndarray = self.digests[self._places(digests)] == digests
        return found

    def slabs(self, digests: np.ndarray, rows: int, shuffled: np.random.Generator | None = None) -> Iterator[Slab]:
        """Cut `digests` (`DIGEST` [N], all of them there) into pieces that lie within the same `rows` rows of a shard.

        Args:
            shuffled: draws the order of shards, and of the pieces of each; None keeps theirs.
        """
        places = self._places(digests)
        shards, lines = self._shard[places], self._row[places]
        order = np.lexsort((lines, shards))
        group = np.stack([shards[order], lines[order] // rows])  # [2, N]
        pieces = np.split(order, np.flatnonzero((np.diff(group) != 0).any(axis=0)) + 1) if len(order) else []
        if shuffled:
            rank, drawn = shuffled.permutation(len(self.shards)), shuffled.random(len(pieces))
            by_rank = np.lexsort((drawn, [rank[shards[piece[0]]] for piece in pieces]))
            pieces = [pieces[number] for number in by_rank]
        for piece in pieces:
            yield Slab(self.shards[shards[piece[0]]], piece, lines[piece])

    def _places(self, digests: np.ndarray) -> np.ndarray:
        places: np.ndarray = np.searchsorted(self.digests, digests).clip(max=len(self.digests) - 1)
        return places
