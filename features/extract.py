"""The loop that fills stores: find missing digests, decode pixels, run the frozen backbone, write shards.

This module uses no labels. It imports TensorFlow only if an image lacks features.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.digests import first_positions
from headstart.features.files import require_space
from headstart.features.images.augment import View
from headstart.features.images.columns.images import Images
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.claims import Claim, Claims
from headstart.features.store.portions import Portions, cut_into_portions
from headstart.features.store.store import FeatureStore
from headstart.features.store.writer import SHARD_IMAGES, ShardWriter
from headstart.features.terminal import console, progress

if TYPE_CHECKING:
    from headstart.features.frozen.frozen import FrozenBackbone

_WAIT_SECONDS = 1.0
_OPEN, _TRIED, _ELSEWHERE = range(3)


@dataclass(frozen=True)
class NodeWork:
    """How many images a node of a cluster extracted, and how many seconds the node took."""

    images: int = 0
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """The images extracted per second; 0 if nothing was extracted."""
        return self.images / self.seconds if self.seconds else 0.0

    def __add__(self, other: NodeWork) -> NodeWork:
        return NodeWork(self.images + other.images, self.seconds + other.seconds)


@dataclass(frozen=True)
class Extracted:
    """The result of `extract_features`.

    `digests` are the digests that got new features, `rejects` are the rejected images, and `seconds` is the time that
    the extraction took. `nodes` maps the name of each node of a cluster to the node's work. Without a cluster, `nodes`
    is empty.
    """

    digests: frozenset[str] = frozenset()
    rejects: Sequence[Reject] = ()
    seconds: float = 0.0
    nodes: Mapping[str, NodeWork] = field(default_factory=dict)

    @property
    def extracted(self) -> int:
        """The number of digests for which features were extracted."""
        return len(self.digests)

    @property
    def images_per_second(self) -> float:
        """The images extracted per second; 0 if nothing was extracted."""
        return self.extracted / self.seconds if self.seconds else 0.0

    def __add__(self, other: Extracted) -> Extracted:
        names = [*self.nodes, *(name for name in other.nodes if name not in self.nodes)]
        nodes = {name: self.nodes.get(name, NodeWork()) + other.nodes.get(name, NodeWork()) for name in names}
        seconds = self.seconds + other.seconds
        return Extracted(self.digests | other.digests, [*self.rejects, *other.rejects], seconds, nodes)


def extract_features(
    images: Sequence[ImageFile],
    freeze: Callable[[], FrozenBackbone],
    stores: Mapping[Cut, FeatureStore],
    config: ImageConfig,
    view: View | None = None,
    part: bool = False,
) -> Extracted:
    """Extract the features that `stores` lack for `images`. If `view` is given, augment the images first.

    One forward pass serves all cuts. Images that have all their features are not read. Processes that fill one store at
    the same time share the work. Shards that were written before an error are kept.

    Args:
        freeze: returns the frozen backbone with the cuts of `stores`. It is called only if features are missing.
        part: whether `images` are one part of the images that the caller extracts.

    Raises:
        StoreError: features are not finite, or the folder of a store is gone or can't be written to.
        OSError: the disk has no room for the missing features.
        DataError: the access to remote images was lost.
    """
    every = Images.of(images)
    first = first_positions(every.digests)
    digests = every.digests if len(first) == len(every) else every.digests[first]
    writer = ShardWriter(stores, digests, part=part)
    done = Extracted()
    if lacking := writer.lacking():
        work = cut_into_portions(digests, lacking)
        missing = every[first[np.isin(digests, work.digests.raw)]]
        del images, every, digests, first, lacking  # they have an entry per image, and extraction may take days
        done = _extract_missing(missing, work, freeze, writer, config, view)
    return done


def _extract_missing(
    missing: Sequence[ImageFile],
    work: Portions,
    freeze: Callable[[], FrozenBackbone],
    writer: ShardWriter[Cut],
    config: ImageConfig,
    view: View | None,
) -> Extracted:
    from headstart.features.images.batches import decoded_batches, why_all_undecodable

    parts = (missing[start : start + SHARD_IMAGES] for start in range(0, len(missing), SHARD_IMAGES))
    if not any(True for part in parts for _ in decoded_batches(part, config, batch_size=1)):  # stops at the first
        return Extracted(rejects=why_all_undecodable(missing))
    which = "" if view is None else f"view {view.number} of "
    console.print(f"extracting features of {which}{len(missing)} images that have none yet")
    require_space(writer.folder, writer.bytes_to_come())
    writer.require_writable()
    backbone = freeze()
    description = "extracting features" if view is None else f"view {view.number}"
    claims = Claims(writer.folder)
    with ExitStack() as at_the_end, progress(description, len(missing)) as advance:
        at_the_end.callback(claims.release_all)
        at_the_end.callback(writer.close)  # also after Ctrl-C or an error: finished features are kept
        return _Extraction(missing, work, writer, claims, config, view, advance).run(backbone)


@dataclass
class _Extraction:
    """The extraction of images that lack features. Other processes may extract the same images at the same time.

    Each process claims portions of the images. A portion waits for the next round in two cases: another process is
    extracting the portion, or has finished the portion although some features are still missing.
    """

    missing: Sequence[ImageFile]
    work: Portions
    writer: ShardWriter[Cut]
    claims: Claims
    config: ImageConfig
    view: View | None
    advance: Callable[[int], None]

    def __post_init__(self) -> None:
        self._open = list(range(len(self.work.names)))  # portions that are left for the next round
        self._taken: deque[int] = deque()  # portions that this process extracts now, in the order of their claims
        self._state = np.full(len(self.missing), _OPEN, np.int8)  # of each image
        self._tried = self._elsewhere = self._shown = 0  # images: tried, extracted elsewhere, shown as done
        self._error: Exception | None = None

    def run(self, backbone: FrozenBackbone) -> Extracted:
        """Extract in rounds until each image has features or was tried here. Return what this process extracted."""
        from headstart.features.images.batches import why_all_undecodable

        extracted: set[str] = set()
        seconds, rounds = 0.0, 0
        while self._open:
            if rounds == 1:
                console.print("waiting for the last images, which other processes extract")
            if rounds:
                time.sleep(_WAIT_SECONDS)
            start = time.perf_counter()  # the time includes writing shards, but not waiting
            portions = self._portions(again=rounds > 0)
            if (first := next(portions, None)) is not None:
                extracted |= self._round(backbone, itertools.chain([first], portions))
                seconds += time.perf_counter() - start
            if self._error:
                raise self._error
            self._show_progress()
            rounds += 1
        if self._elsewhere:
            console.print(f"{self._elsewhere} of {len(self.missing)} images were extracted by other processes")
        tried = [self.missing[position] for position in np.flatnonzero(self._state == _TRIED).tolist()]
        rejects = why_all_undecodable([image for image in tried if image.digest not in extracted])
        return Extracted(frozenset(extracted), rejects, seconds)

    def _round(self, backbone: FrozenBackbone, portions: Iterator[np.ndarray]) -> set[str]:
        """Extract the images at the positions that `portions` yields.

        Return the digests of the images whose features were extracted.
        """
        from headstart.features.images.batches import decoded_batches

        extracted: set[str] = set()
        batches = decoded_batches(self.missing, self.config, backbone.images_per_pass, self.view, portions)
        for positions, features in backbone.stream(batches):
            unchanged = np.array([self.missing[position].is_unchanged_since_read() for position in positions])
            digests = [self.missing[position].digest for position in positions[unchanged]]
            if self.writer.add(digests, {cut: rows[unchanged] for cut, rows in features.items()}):
                self.writer.write(self._finished(before=self.work.portion_of(int(positions[-1]))))
            self.claims.renew()
            extracted.update(digests)
            self._tried += len(positions)
            self._show_progress()
        self.writer.write(self._finished())
        self.writer.wait()
        return extracted

    def _portions(self, again: bool) -> Iterator[np.ndarray]:
        """Claim the open portions. For each, yield the positions of images without features, int64 [n]."""
        waiting, self._open = deque(self._open), []
        drawn = False
        try:
            while waiting:
                portion = waiting.popleft()
                claim = self.claims.take(self.work.names[portion], again)
                mine = claim in (Claim.MINE, Claim.TAKEN_OVER)
                if not mine and not drawn:  # in a random order, processes seldom want the same portion
                    waiting, drawn = deque(np.random.default_rng().permutation(waiting).tolist()), True
                    self.writer.keep_shards_small()
                if claim == Claim.BUSY:
                    self._open.append(portion)
                    continue
                left = self._left(portion, at_once=again or claim == Claim.TAKEN_OVER)
                if mine and not len(left):
                    self.claims.release(self.work.names[portion])
                elif mine:
                    self._taken.append(portion)
                    self._state[left] = _TRIED
                    yield left
                elif len(left):  # the other process failed, or wrote features after the last search
                    self._open.append(portion)
        except Exception as error:  # TensorFlow would raise another error in its place
            self._error = error

    def _left(self, portion: int, at_once: bool) -> np.ndarray:
        """Return the positions of a portion's untried images that lack features, int64 [n]."""
        positions = self.work.positions(portion)
        positions = positions[self._state[positions] == _OPEN]
        lacking = self.writer.still_lacking([self.missing[one].digest for one in positions.tolist()], at_once)
        self._state[positions[~lacking]] = _ELSEWHERE
        self._elsewhere += int((~lacking).sum())
        left: np.ndarray = positions[lacking]
        return left

    def _show_progress(self) -> None:
        done = self._tried + self._elsewhere
        self.advance(done - self._shown)
        self._shown = done

    def _finished(self, before: int | None = None) -> Callable[[], None]:
        """Take the portions that were claimed earlier than portion `before`. If `before` is None, take all portions.

        Return a function that marks the taken portions as done.
        """
        names = []
        while self._taken and self._taken[0] != before:
            names.append(self.work.names[self._taken.popleft()])

        def tell() -> None:
            for name in names:
                self.claims.done(name)

        return tell
