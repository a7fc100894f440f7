"""Portions: the parts into which the work is divided if several processes extract the same images.

Each process divides the images without asking other processes. All processes find the same portions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from headstart.features.digests import HexDigests, hex_digests, raw_digests

LARGEST_PORTION = 1024  # images on average, if a set has at most 16 million: a shard
_LARGEST_OF_ALL = 1 << 16  # images on average, of a larger set
_MOST_PORTIONS = 1 << 14  # of a large set: each process visits them all, and a GPU extracts 1,024 images in 0.2 s
_SMALLEST_PORTION = 4
_FEWEST_PORTIONS = 64  # of a small set; with fewer, one process would wait long for the last portion of another
_NAME_DIGITS = 16


@dataclass(frozen=True)
class Portions:
    """The digests of images that lack features, cut into portions. A portion has successive digests."""

    digests: HexDigests
    names: Sequence[str]  # of the portions
    starts: np.ndarray  # int64 [portions + 1]: portion b has the digests at `starts[b]` up to `starts[b + 1] - 1`

    def positions(self, portion: int) -> np.ndarray:
        """Return the positions of a portion's digests in `self.digests`, int64 [n].

        `portion` is the number of the portion.
        """
        return np.arange(self.starts[portion], self.starts[portion + 1])

    def portion_of(self, position: int) -> int:
        """Return the number of the portion that has the digest at `position` in `self.digests`."""
        return int(np.searchsorted(self.starts, position, "right")) - 1


def portion_size(images: int) -> int:
    """Return the average number of images in a portion. It is a power of 2.

    `images` is the total number of images.
    """
    largest = np.clip(images / _MOST_PORTIONS, LARGEST_PORTION, _LARGEST_OF_ALL)
    return 1 << int(np.log2(np.clip(images / _FEWEST_PORTIONS, _SMALLEST_PORTION, largest)))


def cut_into_portions(digests: Sequence[str] | np.ndarray, missing: Collection[str]) -> Portions:
    """Cut `digests` into portions. Then drop digests that are not in `missing`, and portions that have become empty.

    Args:
        digests: hexadecimal, or an array of dtype `DIGEST`; all different, and at least one.
        missing: hexadecimal.

    A portion ends at a digest that begins with enough bits of 0, or at the last digest. The portion is named after this
    digest. So processes with the same `digests` find the same portions, whatever is missing. If a few digests are
    added, most portions stay the same.
    """
    bits = int(np.log2(portion_size(len(digests))))
    raw = raw_digests(digests)
    values = np.frombuffer(raw.tobytes(), ">u8")[::4]
    ends = np.union1d(np.flatnonzero(values >> np.uint64(64 - bits) == 0), [len(digests) - 1])
    kept = np.isin(raw, raw_digests(list(missing)))
    before = np.concatenate([[0], np.cumsum(kept)])
    starts = before[np.concatenate([[0], ends + 1])]
    some = np.flatnonzero(np.diff(starts))
    return Portions(
        digests=HexDigests(raw[kept]),
        names=[name[:_NAME_DIGITS] for name in hex_digests(raw[ends[some]])],
        starts=np.concatenate([starts[some], before[-1:]]),
    )
