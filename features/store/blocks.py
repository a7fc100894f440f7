"""Blocks: the parts into which processes that extract the same images cut their work.

Each process cuts on its own, and all of them find the same blocks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from headstart.features.digests import raw_digests

LARGEST_BLOCK = 1024  # images on average: a shard
_SMALLEST_BLOCK = 4
_FEWEST_BLOCKS = 64  # of a small set; with fewer, one process would wait long for the last block of another
_NAME_DIGITS = 16


@dataclass(frozen=True)
class Blocks:
    """The digests of images that lack features, in order, cut into blocks of successive digests."""

    digests: Sequence[str]  # hexadecimal
    names: Sequence[str]  # of the blocks
    starts: np.ndarray  # int64 [blocks + 1]: block b has the digests at `starts[b]` up to `starts[b + 1] - 1`

    def positions(self, block: int) -> np.ndarray:
        """Return the positions at which `digests` holds the digests of a block, int64 [n]."""
        return np.arange(self.starts[block], self.starts[block + 1])

    def block_of(self, position: int) -> int:
        """Return the block of the digest at `position`."""
        return int(np.searchsorted(self.starts, position, "right")) - 1


def cut_into_blocks(digests: Sequence[str], missing: Collection[str]) -> Blocks:
    """Cut `digests` into blocks of successive digests. Keep in the blocks only the digests that are in `missing`.

    `digests` holds at least one digest, in hexadecimal, and none twice. A digest ends a block if its first bits are 0.
    So processes with the same digests find the same blocks, whatever is missing when they begin. If one process has a
    few digests more, most blocks are still the same. A block is named after the digest that ends it.
    """
    size = np.clip(len(digests) / _FEWEST_BLOCKS, _SMALLEST_BLOCK, LARGEST_BLOCK)
    bits = int(np.log2(size))
    values = np.frombuffer(raw_digests(digests).tobytes(), ">u8")[::4]
    ends = np.union1d(np.flatnonzero(values >> np.uint64(64 - bits) == 0), [len(digests) - 1])
    kept = np.fromiter((digest in missing for digest in digests), bool, len(digests))
    before = np.concatenate([[0], np.cumsum(kept)])
    starts = before[np.concatenate([[0], ends + 1])]
    some = np.flatnonzero(np.diff(starts))
    return Blocks(
        digests=[digest for digest, is_kept in zip(digests, kept, strict=True) if is_kept],
        names=[digests[ends[block]][:_NAME_DIGITS] for block in some],
        starts=np.concatenate([starts[some], before[-1:]]),
    )
