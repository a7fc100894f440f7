"""An index of digests: it finds the shard and row of each digest in a store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.digests import DIGEST
from headstart.features.store.shards import ShardFormat, read_features


@dataclass(frozen=True)
class Slab:
    """Some rows of one shard that are read together."""

    shard: Path
    rows: np.ndarray  # int32 [n], ascending
    positions: np.ndarray  # int64 [n]: for each row, the position of its digest in the argument of `Index.slabs`

    def read(self, form: ShardFormat) -> np.ndarray:
        """Read the features of the rows, [n, *shape] in the stored dtype. Errors: see `shards.read_digests`."""
        first = int(self.rows[0])
        return read_features(self.shard, form, first, int(self.rows[-1]) + 1).take(self.rows - first, axis=0)


class Index:
    """All digests of some shards in one sorted array, `DIGEST` [n], with the shard and row of each digest.

    The index takes 40 bytes of memory per digest. If several shards hold a digest, the first of `shards` counts.
    """

    def __init__(self, shards: Sequence[Path], digests: Mapping[Path, np.ndarray]) -> None:
        self.shards = list(shards)
        parts = [digests[shard] for shard in shards]
        joined = np.concatenate([np.empty(0, DIGEST), *parts])
        order = np.argsort(joined, kind="stable")
        self.digests = joined[order]
        self._shard = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])[order]
        rows = [np.arange(len(part), dtype=np.int32) for part in parts]
        self._row = np.concatenate([np.empty(0, np.int32), *rows])[order]

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Return which of `digests` (`DIGEST` [N]) are in a shard, bool [N]."""
        if not len(self.digests):
            return np.zeros(len(digests), bool)
        found: np.ndarray = self.digests[self._places(digests)] == digests
        return found

    def slabs(self, digests: np.ndarray, rows: int, shuffled: np.random.Generator | None = None) -> Iterator[Slab]:
        """Yield the slabs that hold `digests`, `DIGEST` [N]. A slab spans at most `rows` rows of one shard.

        Each digest must be in a shard. `shuffled` draws the order of the shards, and the order of the slabs within each
        shard. If `shuffled` is None, slabs are in the order of the shards and of their rows.
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
            yield Slab(self.shards[shards[piece[0]]], lines[piece], piece)

    def _places(self, digests: np.ndarray) -> np.ndarray:
        places: np.ndarray = np.searchsorted(self.digests, digests).clip(max=len(self.digests) - 1)
        return places
