"""The division of images into units for workers. This module handles positions only, and needs no Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

UNIT_SECONDS = 60.0  # of work in a unit
FIRST_UNIT = 512  # images of a worker's first unit, as its speed is not known yet
_SHORTEST_SECONDS = 2.0  # of work in a unit near the end; each unit makes a shard
_SMALLEST_UNIT = 32
_LARGEST_UNIT = 1 << 16  # a unit is sent to its worker in one message
_MOST_DEATHS = 3
_MOST_HOLDERS = 2
_MOST_UNITS = 2  # of a worker: the one that it works on, and the next

Worker = TypeVar("Worker", bound=Hashable)


@dataclass(eq=False)
class Unit(Generic[Worker]):
    """A unit: the positions of its images, and its history."""

    positions: Sequence[int]
    deaths: int = 0  # workers that died while they had this unit
    failed_at: Hashable = None  # the place where it failed last; another place gets it next
    again: bool = False  # whether a worker had it before, so that some of its images may have features
    looked_twice: bool = False  # whether a worker at another place could not read these images
    holders: dict[Worker, float] = field(default_factory=dict)  # the workers that have it now, and since when

    def __len__(self) -> int:
        return len(self.positions)


class Units(Generic[Worker]):
    """Divides the images 0 to `images` - 1 into units, gives the units to workers, and takes units back from workers.

    A unit has at most `largest` images. A worker has at most two units. If a worker is slow, an idle worker gets the
    same unit.

    If three workers have died with a unit of several images, the unit is halved. If another worker dies with a half,
    the half is halved again. If three workers have died with a unit of one image, the image is given up.

    `place` always means the node of a worker.
    """

    def __init__(self, images: int, largest: int = _LARGEST_UNIT) -> None:
        self._next, self._images, self._largest = 0, images, largest
        self.limit = images  # no new unit begins here or later
        self._back: deque[Unit[Worker]] = deque()
        self._held: dict[Worker, list[Unit[Worker]]] = {}
        self.crashed: list[int] = []  # positions of the images that were given up

    @property
    def all_done(self) -> bool:
        """Whether no unit is left: all images are in finished units, or were given up."""
        return not (self._back or self._held or self._next < self._images)

    @property
    def done(self) -> int:
        """The number of images that are in finished units, or were given up."""
        held = {unit for units in self._held.values() for unit in units}
        return self._next - sum(map(len, self._back)) - sum(map(len, held))

    def held_by(self, worker: Worker) -> list[Unit[Worker]]:
        """Return the units that a worker has now, the earliest first."""
        return list(self._held.get(worker, ()))

    def take(
        self,
        worker: Worker,
        now: float,
        speed: float | None,
        workers: int,
        place: Hashable = None,
        alone: bool = True,
    ) -> Unit[Worker] | None:
        """Choose a unit for `worker`, and return it. Return None if there is no unit for `worker` now.

        The choices are, in this order:

        - a unit that must be given out again;
        - a new unit of about a minute's work, or a smaller new unit if few images are left;
        - if `worker` has no unit: a unit of another worker that is slow. The other worker is slow if it has had the
          unit for longer than `worker` would need for the unit. Both workers then have this unit.

        If `worker` has one unit already, two conditions must be met before `worker` gets a second unit: no other worker
        has the first unit, and no worker has died with the first or the second unit.

        Args:
            now: the present time in seconds, on a clock that never goes back.
            speed: the worker's images per second; None if the speed is not known.
            workers: the number of workers, including this one.
            alone: whether all workers are on one node.
            place: the worker's node. If `alone` is false, a unit that failed on this node goes to another node.
        """
        held = self._held.get(worker, [])
        if len(held) >= _MOST_UNITS or any(unit.deaths or len(unit.holders) > 1 for unit in held):
            return None
        unit = self._returned(place, alone, suspects=not held) or self._new(speed, workers)
        if not (unit or held):
            unit = self._slow(worker, now, speed)
        if unit:
            unit.holders[worker] = now
            self._held.setdefault(worker, []).append(unit)
        return unit

    def _returned(self, place: Hashable, alone: bool, suspects: bool) -> Unit[Worker] | None:
        for unit in self._back:
            if (alone or unit.failed_at is None or unit.failed_at != place) and (suspects or not unit.deaths):
                self._back.remove(unit)
                return unit
        return None

    def _new(self, speed: float | None, workers: int) -> Unit[Worker] | None:
        left = self._images - self._next
        if not left or self._next >= self.limit:
            return None
        share = left / max(1, workers)
        wanted = min(UNIT_SECONDS * speed if speed else FIRST_UNIT, share / 2)
        shortest = max(_SMALLEST_UNIT, min(_SHORTEST_SECONDS * (speed or 0.0), max(FIRST_UNIT, share)))
        size = min(left, round(max(wanted, shortest)))
        size = min(left if left - size < shortest / 2 else size, self._largest)
        start, self._next = self._next, self._next + size
        return Unit(range(start, self._next))

    def _slow(self, worker: Worker, now: float, speed: float | None) -> Unit[Worker] | None:
        units = {unit: min(unit.holders.values()) for held in self._held.values() for unit in held}
        for unit, since in sorted(units.items(), key=lambda one: one[1]):
            needed = len(unit) / speed if speed else UNIT_SECONDS
            if len(unit.holders) < _MOST_HOLDERS and now - since > needed:
                return unit
        return None

    def finish(
        self, worker: Worker, unit: Unit[Worker], unread: Sequence[int] = (), place: Hashable = None
    ) -> list[Worker]:
        """Record that `worker` has finished `unit`. Return the other workers that have the same unit.

        `place` is the node of `worker`. `unread` holds the positions of the images that `worker` could not read. The
        unread images become a new unit for another node.
        """
        others = [other for other in unit.holders if other != worker]
        for holder in list(unit.holders):
            self._release(holder, unit)
        if unread:
            self._back.append(Unit(list(unread), failed_at=place, again=True, looked_twice=True))
        return others

    def die(self, worker: Worker, place: Hashable = None) -> bool:
        """Record that `worker` has died. Return whether a worker had died earlier with one of the units of `worker`.

        `place` is the node of `worker`. If another worker also has a unit of `worker`, the other worker keeps the unit.
        Each other unit of `worker` is either given out again, or halved, or given up; see `Units`.
        """
        units = self.held_by(worker)
        suspicious = any(unit.deaths for unit in units)
        self.give_back(worker)
        for unit in units:
            unit.deaths, unit.failed_at = unit.deaths + 1, place
            if unit.deaths >= _MOST_DEATHS and not unit.holders:
                self._back.remove(unit)
                self._halve(unit)
        return suspicious

    def _halve(self, unit: Unit[Worker]) -> None:
        if len(unit) == 1:
            self.crashed.append(unit.positions[0])
            return
        middle = len(unit) // 2
        for part in (unit.positions[middle:], unit.positions[:middle]):
            # A half is halved at the next death. A single image is given up only after three more deaths.
            deaths = _MOST_DEATHS - 1 if len(part) > 1 else 0
            self._back.appendleft(Unit(part, deaths, unit.failed_at, again=True, looked_twice=unit.looked_twice))

    def give_back(self, worker: Worker, *units: Unit[Worker]) -> None:
        """Take `units` back from `worker`. If `units` is empty, take back all units of `worker`.

        Units that are taken back do not count as failed. They are given out again, unless another worker still has
        them.
        """
        for unit in reversed(units or self.held_by(worker)):
            self._release(worker, unit)
            if not unit.holders:
                unit.again = True
                self._back.appendleft(unit)

    def _release(self, worker: Worker, unit: Unit[Worker]) -> None:
        del unit.holders[worker]
        held = self._held[worker]
        held.remove(unit)
        if not held:
            del self._held[worker]
