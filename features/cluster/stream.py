"""The stream of a worker: units are extracted one after the other, without a pause between them."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, overload

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.digests import hex_digests
from headstart.features.images.augment import View
from headstart.features.images.columns.images import Images
from headstart.features.images.faults import Reason
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.store.store import FeatureStore
from headstart.features.store.writer import SHARD_SECONDS, ShardWriter

if TYPE_CHECKING:
    from headstart.features.frozen.frozen import FrozenBackbone

_PORTION = 64  # images; a unit can be stopped between two portions
_SHARED_SECONDS = 3.0  # between two shards of a unit that two workers extract


@dataclass(frozen=True)
class Finished:
    """The result of a unit. Each of `rejects` is a tuple (position in the unit, reason, detail).

    `stopped` tells whether the unit was ended early.
    """

    extracted: int  # number of images; those that had features before do not count
    rejects: Sequence[tuple[int, Reason, str]]
    seconds: float
    stopped: bool


@dataclass(eq=False)
class _Unit:
    """A unit that waits, or is being extracted."""

    number: int
    images: Images
    again: bool
    backwards: bool
    shared: bool = False
    stopped: bool = False
    last: int | None = None  # the number of its last image in the stream; None as long as images may be added
    skipped: int = 0  # images that have features already; counted by the thread that decodes
    passed: int = 0  # images that went through the network; counted by the stream's thread
    extracted: int = 0
    undecoded: list[int] = field(default_factory=list)  # positions in the unit
    seconds: float = 0.0
    over: Future[None] = field(default_factory=Future)  # ends when its features are on disk

    @property
    def tried(self) -> int:
        """The number of images that are done."""
        return self.skipped + self.passed


class _Images(Sequence[ImageFile]):
    """Images that are being extracted. The index of an image is its number in the stream."""

    def __init__(self) -> None:
        self.size = 0  # images so far
        self.rows: dict[int, tuple[_Unit, int]] = {}  # unit, and position there; two threads use it

    def add(self, unit: _Unit, positions: np.ndarray) -> np.ndarray:
        """Add images: those that are at `positions` in `unit`. Return their numbers in the stream, int64 [n]."""
        numbers = np.arange(self.size, self.size + len(positions))
        self.rows.update(zip(numbers.tolist(), ((unit, position) for position in positions.tolist()), strict=True))
        self.size += len(positions)
        return numbers

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> ImageFile: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[ImageFile]: ...
    def __getitem__(self, at: int | slice) -> ImageFile | Sequence[ImageFile]:
        if isinstance(at, slice):
            raise TypeError("images of a stream are taken one by one")
        unit, position = self.rows[at]
        return unit.images[position]


class UnitStream:
    """Extracts the features of units of images, one unit after the other, in a thread of its own.

    Features that are in `stores` already are not extracted again. If the next unit comes in time, there is no pause
    between two units. One `ShardWriter` writes the shards of all units.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        stores: Mapping[Cut, FeatureStore],
        config: ImageConfig,
        view: View | None,
        images: int,
    ) -> None:
        """Start the thread of the stream. `images` is the number of images that all workers together extract."""
        self.stores = stores
        self._backbone, self._config, self._view = backbone, config, view
        self._writer = ShardWriter(stores, [], images)
        self._units: dict[int, _Unit] = {}  # those that are not over, by their numbers
        self._stopped: set[int] = set()  # numbers of units to stop, which may come later
        self._waiting: SimpleQueue[_Unit | None] = SimpleQueue()
        self._ended = 0.0  # when the last unit ended
        self._error: Exception | None = None
        self._thread = Thread(target=self._serve, name="headstart-stream", daemon=True)
        self._thread.start()

    def extract(self, number: int, images: Sequence[ImageFile], again: bool, backwards: bool) -> Finished:
        """Extract the features of a unit, after all units that came before. Return when the features are on disk.

        `number` identifies the unit in calls of `tried`, `stop` and `share`. No two of `images` have the same digest.
        `again` tells whether some images may have features already. If `backwards` is true, the last images are
        extracted first. So two workers with the same unit meet in the middle.
        """
        from headstart.features.images.batches import why_all_undecodable

        unit = _Unit(number, Images.of(images), again, backwards, shared=backwards)
        self._units[number] = unit
        unit.stopped = number in self._stopped
        start = time.perf_counter()
        self._waiting.put(unit)
        try:
            unit.over.result()
        finally:
            del self._units[number]
            self._stopped.discard(number)
        undecoded = [unit.images[position] for position in unit.undecoded]
        rejects = why_all_undecodable(undecoded, lambda: unit.stopped)
        told = [(at, one.reason, one.detail) for at, one in zip(unit.undecoded, rejects, strict=False)]
        stopped = unit.stopped and (unit.tried < len(unit.images) or len(told) < len(undecoded))
        return Finished(unit.extracted, told, unit.seconds or time.perf_counter() - start, stopped)

    def tried(self, number: int) -> int:
        """Return how many images of a unit are done. Before the unit comes, and after it has ended, return 0."""
        unit = self._units.get(number)
        return unit.tried if unit else 0

    def stop(self, number: int) -> None:
        """End a unit early. The features that were extracted so far are written.

        If the unit comes after this call, none of its images are extracted.
        """
        self._stopped.add(number)
        if unit := self._units.get(number):
            unit.stopped = True

    def share(self, number: int) -> None:
        """Write new features of a unit every few seconds from now on, because a second worker has the same unit."""
        if unit := self._units.get(number):
            unit.shared = True

    def close(self) -> None:
        """Tell the stream's thread to finish all units that were given to `extract`, and then to end."""
        self._waiting.put(None)

    def _serve(self) -> None:
        while unit := self._waiting.get():
            try:
                if not unit.over.done():  # else it failed with another one
                    self._run(unit)
            except Exception as error:  # the calls that wait for the units raise it
                self._fail(error)
        self._writer.close()

    def _fail(self, error: Exception) -> None:
        for unit in list(self._units.values()):
            with suppress(InvalidStateError):  # it is over
                unit.over.set_exception(error)

    def _run(self, first: _Unit) -> None:
        """Extract the unit `first`, and all units that come while images are decoded."""
        from headstart.features.images.batches import decoded_batches

        self._ended, self._error = time.perf_counter(), None
        self._images, self._begun, self._passed = _Images(), deque[_Unit](), 0
        portions = self._portions(first)
        if (head := next(portions, None)) is not None:
            each = itertools.chain([head], portions)
            batches = decoded_batches(self._images, self._config, self._backbone.images_per_pass, self._view, each)
            for numbers, features in self._backbone.stream(batches):
                self._take(numbers, features)
        if self._error:
            raise self._error
        self._pass(len(self._images), np.zeros(0, np.int64))
        self._writer.write(self._ending(len(self._images)))
        self._writer.wait()

    def _portions(self, unit: _Unit | None) -> Iterator[np.ndarray]:
        """Add images of `unit` and of later units to the stream. Yield the number of each added image, int64 [n]."""
        try:
            while unit:
                self._begun.append(unit)
                yield from self._portions_of(unit)
                unit.last = len(self._images) - 1
                unit = self._waiting_unit()  # None lets the decoder finish a batch that is not full
        except Exception as error:  # TensorFlow would raise another error in its place
            self._error = error

    def _portions_of(self, unit: _Unit) -> Iterator[np.ndarray]:
        digests = unit.images.digests
        positions = np.flatnonzero(self._writer.extend(digests, at_once=unit.again))
        unit.skipped = len(digests) - len(positions)
        parts = [positions[start : start + _PORTION] for start in range(0, len(positions), _PORTION)]
        for part in reversed(parts) if unit.backwards else parts:
            if unit.stopped:
                return
            lacking = np.ones(len(part), bool)
            if unit.shared:
                lacking = self._writer.still_lacking(hex_digests(digests[part]), at_once=False)
                unit.skipped += len(part) - int(lacking.sum())
            if lacking.any():
                yield self._images.add(unit, part[lacking])

    def _waiting_unit(self) -> _Unit | None:
        try:
            unit = self._waiting.get_nowait()
        except Empty:
            return None
        if unit is None:
            self._waiting.put(None)  # it is for `_serve`
        return unit

    def _take(self, numbers: np.ndarray, features: Mapping[Cut, np.ndarray]) -> None:
        """Collect features, except those of changed files. Write them when a unit ends or a shard is due."""
        images = [self._images[number] for number in numbers.tolist()]
        unchanged = np.array([image.is_unchanged_since_read() for image in images])
        digests = [image.digest for image, same in zip(images, unchanged, strict=True) if same]
        shared = any(unit.shared for unit in tuple(self._begun))  # another thread appends to it
        rows = {cut: of_all[unchanged] for cut, of_all in features.items()}
        full = self._writer.add(digests, rows, _SHARED_SECONDS if shared else SHARD_SECONDS)
        after = int(numbers[-1]) + 1
        self._pass(after, numbers[unchanged])
        ends = self._begun[0].last is not None and self._begun[0].last < after
        if full or ends:
            self._writer.write(self._ending(after))

    def _pass(self, after: int, extracted: np.ndarray) -> None:
        """Count as done all images whose numbers are smaller than the argument `after`.

        Images whose numbers are in `extracted` count as extracted, and all others count as undecoded.
        """
        done = set(extracted.tolist())
        for number in range(self._passed, after):
            unit, position = self._images.rows.pop(number)
            unit.passed += 1
            if number in done:
                unit.extracted += 1
            else:
                unit.undecoded.append(position)
        self._passed = after

    def _ending(self, after: int) -> Callable[[], None]:
        """Remove each unit whose last image has a number smaller than the argument `after`.

        Return a function to call when the features of the removed units are on disk.
        """
        ended = []
        while self._begun and (last := self._begun[0].last) is not None and last < after:
            ended.append(self._begun.popleft())
        for unit in ended:
            self._writer.forget(unit.images.digests)
            now = time.perf_counter()
            unit.seconds, self._ended = now - self._ended, now

        def end() -> None:
            for unit in ended:
                with suppress(InvalidStateError):  # it failed
                    unit.over.set_result(None)

        return end
