"""An index of digests: it finds the shard and row of each digest in a store."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.digests import DIGEST
from headstart.features.errors import StoreError
from headstart.features.store.shards import ShardFormat, read_rows


@dataclass(frozen=True)
class Slab:
    """Some rows of one shard that are read together."""

    shard: Path
    rows: np.ndarray  # int32 [n], ascending
    positions: np.ndarray  # int64 [n]: for each row, the position of its digest in the argument of `Index.slabs`
    digests: np.ndarray  # `DIGEST` [n], of the rows

    def read(self, form: ShardFormat) -> np.ndarray:
        """Read the features of the rows, [n, *shape] in the stored dtype.

        Raises StoreError if the shard has other digests in these rows. Other errors: see `shards.read_digests`.
        """
        first, stop = int(self.rows[0]), int(self.rows[-1]) + 1
        digests, features = read_rows(self.shard, form, first, stop)
        if len(digests) != stop - first or not np.array_equal(digests[self.rows - first], self.digests):
            raise StoreError(
                f"{self.shard}: holds other images than the index says; delete {self.shard.parent}/index-*"
            )
        return features.take(self.rows - first, axis=0)


@dataclass(frozen=True, eq=False)
class Segment:
    """The digests of some shards, in one sorted array."""

    digests: np.ndarray  # `DIGEST` [n], ascending
    shards: np.ndarray  # int32 [n]: the number of the shard of each digest in `Index.shards`
    rows: np.ndarray  # int32 [n]: its row in this shard

    @classmethod
    def sorted(cls, digests: np.ndarray, shards: np.ndarray, rows: np.ndarray) -> Segment:
        """Make a segment of digests in any order."""
        order = np.argsort(digests, kind="stable")  # two sorted arrays, one after the other, are merged in linear time
        return cls(digests[order], shards[order], rows[order])

    def joined(self, other: Segment) -> Segment:
        """Return one segment of the digests of both."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Segment.sorted(*(np.concatenate(pair) for pair in pairs))

    def with_ties_by_name(self, shards: Sequence[Path]) -> Segment:
        """Return a segment in which the copies of a digest are in the order of the names of their `shards`."""
        same = self.digests[1:] == self.digests[:-1]
        copies = np.flatnonzero(np.append(same, False) | np.append(False, same))
        if not len(copies):
            return self
        rank = np.argsort(_by_name(shards))
        order = np.arange(len(self.digests))
        order[copies] = copies[np.lexsort((rank[self.shards[copies]], self.digests[copies]))]
        return Segment(self.digests, self.shards[order], self.rows[order])

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the place in `self.digests` of each of `digests`, int64 [N], and whether it is there, bool [N]."""
        places = np.searchsorted(self.digests, digests).clip(max=len(self.digests) - 1)
        return places, self.digests[places] == digests


@dataclass(frozen=True, eq=False)
class Index:
    """The digests of some shards, with the shard and row of each. An index does not change.

    The index takes 40 bytes of memory per digest. It has few segments, each less than half as long as the one before.
    So adding the digests of new shards seldom touches the older ones.
    """

    shards: Sequence[Path] = ()
    lengths: Sequence[int] = ()  # the number of digests in each shard
    segments: Sequence[Segment] = ()

    def __len__(self) -> int:
        """Return the number of digests. A digest in several shards counts several times."""
        return sum(self.lengths)

    def digests(self) -> np.ndarray:
        """Return all digests, `DIGEST` [len(self)], ascending."""
        return self.as_one_segment().digests

    def as_one_segment(self) -> Segment:
        """Return all digests in one segment."""
        none = np.empty(0, np.int32)
        return functools.reduce(Segment.joined, self.segments[::-1] or [Segment(np.empty(0, DIGEST), none, none)])

    def with_shards(self, new: Mapping[Path, np.ndarray]) -> Index:
        """Return an index that also holds new shards. `new` maps the path of each to its digests, `DIGEST` [n]."""
        parts, lengths = list(new.values()), [len(part) for part in new.values()]
        if not parts:
            return self
        numbers = np.arange(len(self.shards), len(self.shards) + len(new), dtype=np.int32)
        rows = [np.arange(length, dtype=np.int32) for length in lengths]
        shards, digests = [*self.shards, *new], np.concatenate(parts)
        del parts, new  # of a million digests, each copy takes 32 MB
        segments = [*self.segments, Segment.sorted(digests, numbers.repeat(lengths), np.concatenate(rows))]
        del digests
        while len(segments) > 1 and 2 * len(segments[-1].digests) >= len(segments[-2].digests):
            last = segments.pop()
            segments.append(segments.pop().joined(last).with_ties_by_name(shards))
        return Index(shards, [*self.lengths, *lengths], segments)

    def without_shards(self, gone: Collection[Path]) -> Index:
        """Return an index without the shards `gone`."""
        kept = np.array([shard not in gone for shard in self.shards], bool)
        numbers = (np.cumsum(kept) - 1).astype(np.int32)
        segments = []
        for segment in self.segments:
            left = kept[segment.shards]
            if left.any():
                segments.append(Segment(segment.digests[left], numbers[segment.shards[left]], segment.rows[left]))
        positions = np.flatnonzero(kept).tolist()
        return Index([self.shards[at] for at in positions], [self.lengths[at] for at in positions], segments)

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Return which of `digests` (`DIGEST` [N]) are in a shard, bool [N]."""
        found = np.zeros(len(digests), bool)
        for segment in self.segments:
            found |= segment.find(digests)[1]
        return found

    def slabs(self, digests: np.ndarray, rows: int, shuffled: np.random.Generator | None = None) -> Iterator[Slab]:
        """Yield the slabs that hold `digests`, `DIGEST` [N]. A slab spans at most `rows` rows of one shard.

        Each digest must be in a shard; the first by name counts. `shuffled` draws the order of the shards, and the
        order of the slabs within each shard. If `shuffled` is None, shards are in the order of their names, and slabs
        in the order of their rows.
        """
        by_name = _by_name(self.shards)
        shards, lines = self._located(digests, np.argsort(by_name))
        order = np.lexsort((lines, shards))
        group = np.stack([shards[order], lines[order] // rows])  # [2, N]
        pieces = np.split(order, np.flatnonzero((np.diff(group) != 0).any(axis=0)) + 1) if len(order) else []
        if shuffled:
            rank, drawn = shuffled.permutation(len(self.shards)), shuffled.random(len(pieces))
            by_rank = np.lexsort((drawn, [rank[shards[piece[0]]] for piece in pieces]))
            pieces = [pieces[number] for number in by_rank]
        for piece in pieces:
            yield Slab(self.shards[by_name[shards[piece[0]]]], lines[piece], piece, digests[piece])

    def _located(self, digests: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shard of each digest, as its `rank`, int64 [N], and the row, int32 [N]."""
        shards = np.full(len(digests), len(self.shards), np.int64)
        lines = np.zeros(len(digests), np.int32)
        for segment in self.segments:
            places, found = segment.find(digests)
            here = np.where(found, rank[segment.shards[places]], len(self.shards))
            lines = np.where(here < shards, segment.rows[places], lines)
            shards = np.minimum(here, shards)
        return shards, lines


def _by_name(shards: Sequence[Path]) -> list[int]:
    """Return the positions of `shards` in the order of their names."""
    return sorted(range(len(shards)), key=lambda number: shards[number].name)
