"""An index of digests: it finds the shard and row of each digest in a store."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from headstart.features.digests import DIGEST
from headstart.features.errors import StoreError
from headstart.features.store.shards import ShardFormat, read_rows

_AT_ONCE = 1 << 18  # digests that a merge of segments holds in memory


@dataclass(frozen=True)
class Slab:
    """Some rows of one shard. The rows are read together."""

    shard: Path
    rows: np.ndarray  # int32 [n], ascending
    positions: np.ndarray  # int64 [n]: for each row, the position of its digest in the argument of `Index.slabs`
    digests: np.ndarray  # `DIGEST` [n], of the rows

    def read(self, form: ShardFormat) -> np.ndarray:
        """Read the features of the slab's rows, [n, *shape] in the stored dtype.

        Raises StoreError if the rows hold other digests than `digests`. Other errors: see `shards.read_digests`.
        """
        first, stop = int(self.rows[0]), int(self.rows[-1]) + 1
        digests, features = read_rows(self.shard, form, first, stop)
        if len(digests) != stop - first or not np.array_equal(digests[self.rows - first], self.digests):
            raise StoreError(
                f"{self.shard}: holds other images than the index says; delete {self.shard.parent}/index-*"
            )
        return features.take(self.rows - first, axis=0)


class Entries(NamedTuple):
    """Digests in ascending order, with the shard and the row of each digest."""

    digests: np.ndarray  # `DIGEST` [n]
    shards: np.ndarray  # int32 [n]: the number of the shard of each digest
    rows: np.ndarray  # int32 [n]: the row of each digest in its shard


@dataclass(frozen=True, eq=False)
class Segment:
    """The sorted digests of some shards, with the shard and the row of each digest.

    Each shard is in use or not; see `in_use`. Only digests in shards that are in use are found. A segment is in memory
    or mapped from disk. Entries that are mapped from disk are not trusted: each is checked when it is looked up.
    """

    names: Sequence[str]  # of the shards; their positions here are the numbers in `entries`
    lengths: np.ndarray  # int64 [shards]: the number of digests in each shard
    in_use: np.ndarray  # bool [shards]: False for a shard that is gone, or that another segment has, too
    entries: Entries
    source: Path | None = None  # the folder that is mapped

    @classmethod
    def of(cls, shards: Mapping[str, np.ndarray]) -> Segment:
        """Make a segment from shards. `shards` maps the name of each shard to its digests, `DIGEST` [n]."""
        lengths = np.array([len(digests) for digests in shards.values()], np.int64)
        numbers = np.arange(len(shards), dtype=np.int32).repeat(lengths)
        rows = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        entries = _sorted(Entries(np.concatenate(list(shards.values())), numbers, rows))
        return cls(list(shards), lengths, np.ones(len(shards), bool), entries)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """A dict from the name of each shard to its number, which is its position in `self.names`."""
        return {name: number for number, name in enumerate(self.names)}

    @property
    def size(self) -> int:
        """The number of digests in shards that are in use."""
        return int(self.lengths[self.in_use].sum())

    def limited_to(self, names: Collection[str]) -> Segment:
        """Return a segment in which only the shards in `names` are in use. `names` should be a set or a dict."""
        return replace(self, in_use=np.array([name in names for name in self.names], bool))

    def find(self, digests: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Find `digests`, `DIGEST` [N], in the shards that are in use.

        Yield triples of arrays:
            positions in `digests`, int64 [n].
            the number of the shard of the digest at each position, int32 [n].
            the row of the digest in this shard, int32 [n].

        If a digest is in several shards, its position is in several triples. No triple has the same position twice.
        Raises StoreError if an entry names a shard or row that does not exist.
        """
        positions = np.argsort(
            np.ascontiguousarray(digests).view(">u8")[::4]
        )  # so pages are mapped one after the other
        places = np.searchsorted(self.entries.digests, digests[positions])
        for _ in self.names:  # a digest is at most once in each shard
            inside = places < len(self.entries.digests)
            positions, places = positions[inside], places[inside]
            same = self.entries.digests[places] == digests[positions]
            positions, places = positions[same], places[same]
            if not len(places):
                return
            shards, rows = self.entries.shards[places], self.entries.rows[places]
            self._require_existing(shards, rows)
            used = self.in_use[shards]
            yield positions[used], shards[used], rows[used]
            places = places + 1

    def agrees(self, name: str, digests: np.ndarray) -> bool:
        """Return whether the segment has the right entry for each row of the shard `name`.

        `digests`, `DIGEST` [n], are the digests in the shard, in the order of its rows.
        """
        found = np.zeros(len(digests), bool)
        try:
            for positions, shards, rows in self.find(digests):
                found[positions[(shards == self.numbers[name]) & (rows == positions)]] = True
        except StoreError:
            return False
        return bool(found.all())

    def counts(self) -> np.ndarray:
        """Return the number of entries of each shard, int64 [shards]. Errors: see `find`."""
        starts = range(0, len(self.entries.digests), _AT_ONCE)
        parts = (np.bincount(self.cut(start, start + _AT_ONCE).shards, minlength=len(self.names)) for start in starts)
        return sum(parts, np.zeros(len(self.names), np.int64))

    def cut(self, start: int, stop: int) -> Entries:
        """Return the entries from `start` to `stop` - 1. Errors: see `find`."""
        cut = Entries(*(np.asarray(values[start:stop]) for values in self.entries))
        self._require_existing(cut.shards, cut.rows)
        return cut

    def lie(self) -> StoreError:
        """Return the error to raise if the entries are wrong."""
        return StoreError(f"{self.source}: an index that does not fit its shards; delete this folder")

    def _require_existing(self, shards: np.ndarray, rows: np.ndarray) -> None:
        if len(shards) and (min(shards.min(), rows.min()) < 0 or shards.max() >= len(self.names)):
            raise self.lie()
        if (rows >= self.lengths[shards]).any():
            raise self.lie()


def merged(segments: Sequence[Segment], at_once: int = _AT_ONCE) -> Iterator[Entries]:
    """Yield the entries of all shards in use, in ascending order of digests, at most `at_once` at a time.

    An entry refers to its shard by a number: the shard's position in the names that `names_in_use` returns. Memory does
    not grow with the number of entries. Raises StoreError if the entries of a segment are wrong.
    """
    starts = np.cumsum([0, *(segment.in_use.sum() for segment in segments)]).tolist()
    numbers = [
        np.where(segment.in_use, start + np.cumsum(segment.in_use) - 1, -1).astype(np.int32)
        for segment, start in zip(segments, starts[:-1], strict=True)
    ]
    window = max(1, at_once // max(1, len(segments)))
    done, last = [0] * len(segments), b""
    while left := [at for at, segment in enumerate(segments) if done[at] < len(segment.entries.digests)]:
        parts = {at: segments[at].cut(done[at], done[at] + window) for at in left}
        first = min(left, key=lambda at: parts[at].digests[-1:].tobytes())  # its last digest is the end of this round
        end, chosen = parts[first].digests[-1:], []
        for at, part in parts.items():
            stop = len(part.digests) if at == first else int(np.searchsorted(part.digests, end, "right")[0])
            done[at] += stop
            used = numbers[at][part.shards[:stop]]
            chosen.append(Entries(part.digests[:stop][used >= 0], used[used >= 0], part.rows[:stop][used >= 0]))
        entries = _sorted(Entries(*map(np.concatenate, zip(*chosen, strict=True))))
        if len(entries.digests):
            if entries.digests[:1].tobytes() < last:
                raise segments[first].lie()
            last = entries.digests[-1:].tobytes()
            yield entries


def names_in_use(segments: Sequence[Segment]) -> tuple[list[str], np.ndarray]:
    """Return the names of the shards in use, and the number of digests in each of these shards, int64 [shards]."""
    names = [name for segment in segments for name, used in zip(segment.names, segment.in_use, strict=True) if used]
    return names, np.concatenate([np.empty(0, np.int64), *(segment.lengths[segment.in_use] for segment in segments)])


@dataclass(frozen=True, eq=False)
class Index:
    """The digests of some shards, with the shard and the row of each digest. An index is never changed.

    A shard may be in several segments, but is in use in exactly one. A segment in memory takes 40 bytes per digest.
    """

    folder: Path  # of the shards
    segments: Sequence[Segment] = ()  # first those that are mapped from disk

    @functools.cached_property
    def shards(self) -> dict[str, int]:
        """A dict from the name of each shard to its number of digests, sorted by name."""
        names, lengths = names_in_use(self.segments)
        return dict(sorted(zip(names, lengths.tolist(), strict=True)))

    def __len__(self) -> int:
        """Return the number of digests. A digest in several shards counts several times."""
        return sum(self.shards.values())

    def digests(self) -> np.ndarray:
        """Return all digests, `DIGEST` [len(self)], ascending."""
        return np.concatenate([np.empty(0, DIGEST), *(entries.digests for entries in merged(self.segments))])

    def count(self) -> int:
        """Count the different digests."""
        count, last = 0, b""
        for digests, _, _ in merged(self.segments):
            count += int((digests[1:] != digests[:-1]).sum()) + (digests[:1].tobytes() != last)
            last = digests[-1:].tobytes()
        return count

    def with_shards(self, new: Mapping[str, np.ndarray]) -> Index:
        """Return an index that also holds new shards. `new` maps the name of a shard to its digests, `DIGEST` [n]."""
        if not new:
            return self
        segments = [*self.segments, Segment.of(new)]
        while len(segments) > 1 and not segments[-2].source and 2 * segments[-1].size >= segments[-2].size:
            last = segments.pop()
            segments.append(_joined([segments.pop(), last]))
        return Index(self.folder, segments)

    def without_shards(self, gone: Collection[str]) -> Index:
        """Return an index without the shards `gone`."""
        if not gone:
            return self
        left = self.shards.keys() - gone
        return Index(self.folder, [one for segment in self.segments if (one := _left(segment, left)).in_use.any()])

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Return a mask of the digests that are in any shard, bool [N].

        `digests` are `DIGEST` [N]. Errors: see `Segment.find`.
        """
        found = np.zeros(len(digests), bool)
        for segment in self.segments:
            for positions, _, _ in segment.find(digests):
                found[positions] = True
        return found

    def slabs(self, digests: np.ndarray, rows: int, shuffled: np.random.Generator | None = None) -> Iterator[Slab]:
        """Yield the slabs that hold `digests`, `DIGEST` [N]. A slab spans at most `rows` rows of one shard.

        Each digest must be in a shard. If a digest is in several shards, the first shard by name is used. All slabs of
        a shard follow one another. If `shuffled` is given, the shards, and the slabs of each shard, are in random
        order. If `shuffled` is None, shards are sorted by name, and the slabs of a shard by row.
        """
        names = list(self.shards)
        shards, lines = self._located(digests)
        order = np.lexsort((lines, shards))
        group = np.stack([shards[order], lines[order] // rows])  # [2, N]
        pieces = np.split(order, np.flatnonzero((np.diff(group) != 0).any(axis=0)) + 1) if len(order) else []
        if shuffled:
            rank, drawn = shuffled.permutation(len(names)), shuffled.random(len(pieces))
            by_rank = np.lexsort((drawn, [rank[shards[piece[0]]] for piece in pieces]))
            pieces = [pieces[number] for number in by_rank]
        for piece in pieces:
            yield Slab(self.folder / names[shards[piece[0]]], lines[piece], piece, digests[piece])

    def _located(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return two arrays: the shard of each digest, int64 [N], and the row of each digest in its shard, int32 [N].

        A shard is given as a position in `self.shards`.
        """
        ranks = {name: rank for rank, name in enumerate(self.shards)}
        shards = np.full(len(digests), len(ranks), np.int64)
        lines = np.zeros(len(digests), np.int32)
        for segment in self.segments:
            rank = np.array([ranks.get(name, len(ranks)) for name in segment.names], np.int64)
            for positions, numbers, rows in segment.find(digests):
                nearer = rank[numbers] < shards[positions]
                shards[positions[nearer]] = rank[numbers[nearer]]
                lines[positions[nearer]] = rows[nearer]
        return shards, lines


def _left(segment: Segment, names: Collection[str]) -> Segment:
    limited = segment.limited_to(names)
    return replace(limited, in_use=limited.in_use & segment.in_use)


def _joined(segments: Sequence[Segment]) -> Segment:
    """Join `segments` into one segment in memory. The new segment has only the shards that are in use."""
    names, lengths = names_in_use(segments)
    entries = Entries(*map(np.concatenate, zip(*merged(segments), strict=True)))
    return Segment(names, lengths, np.ones(len(names), bool), entries)


def _sorted(entries: Entries) -> Entries:
    order = np.argsort(entries.digests, kind="stable")  # sorted arrays, one after the other, are merged in linear time
    return Entries(*(values[order] for values in entries))
