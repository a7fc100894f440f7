"""Units: the parts of the images that workers get, one at a time. This module knows neither images nor Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

UNIT_SECONDS = 60.0  # of work in a unit
FIRST_UNIT = 512  # images of a worker's first unit, as its speed is not known yet
_SHORTEST_SECONDS = 4.0  # of work in a unit near the end; a unit costs its worker about half a second besides
_SMALLEST_UNIT = 32
_LARGEST_UNIT = 1 << 16  # a unit is sent to its worker in one message
_MOST_DEATHS = 3
_MOST_HOLDERS = 2

Worker = TypeVar("Worker", bound=Hashable)


@dataclass(eq=False)
class Unit(Generic[Worker]):
    """Images at successive positions, `start` up to `stop` - 1."""

    start: int
    stop: int
    deaths: int = 0  # workers that died while they had this unit
    holders: dict[Worker, float] = field(default_factory=dict)  # the workers that have it now, and since when

    def __len__(self) -> int:
        return self.stop - self.start


class Units(Generic[Worker]):
    """The units of images 0 to `images` - 1: those to come, those that workers have now, and those that came back.

    A worker that takes longer for its unit than an idle worker would need does not delay the end: the idle one gets the
    same unit. A unit of which three workers have died is halved, until a single image of which three workers have died
    is given up.
    """

    def __init__(self, images: int, largest: int = _LARGEST_UNIT) -> None:
        self._next, self._images, self._largest = 0, images, largest
        self.limit = images  # no new unit begins here or later
        self._back: deque[Unit[Worker]] = deque()
        self._held: dict[Worker, Unit[Worker]] = {}
        self.crashed: list[int] = []  # positions of the images that were given up

    @property
    def all_done(self) -> bool:
        """Whether no unit is left, neither to come nor with a worker."""
        return not (self._back or self._held or self._next < self._images)

    @property
    def done(self) -> int:
        """The number of images in finished units, or given up."""
        left = self._images - self._next + sum(map(len, self._back))
        return self._images - left - sum(map(len, set(self._held.values())))

    def held_by(self, worker: Worker) -> Unit[Worker] | None:
        """Return the unit that a worker has now."""
        return self._held.get(worker)

    def take(self, worker: Worker, now: float, speed: float | None, workers: int) -> Unit[Worker] | None:
        """Give a unit to `worker`, which must not have one. Return None if there is nothing for it to do at `now`.

        A unit that came back goes first. Then come new units of about a minute's work, which get smaller when fewer
        than two of them are left for each of `workers`. Then comes the unit that another worker has had for the longest
        time, if this worker would have needed less. Such a unit has two holders then.

        Args:
            now: in seconds, on a clock that never goes back.
            speed: the worker's images per second, if it is known.
            workers: the number of workers, including this one.
        """
        unit = self._back.popleft() if self._back else self._new(speed, workers) or self._slow(worker, now, speed)
        if unit:
            unit.holders[worker] = now
            self._held[worker] = unit
        return unit

    def _new(self, speed: float | None, workers: int) -> Unit[Worker] | None:
        left = self._images - self._next
        if not left or self._next >= self.limit:
            return None
        wanted = min(UNIT_SECONDS * speed if speed else FIRST_UNIT, self._largest, left / (2 * max(1, workers)))
        shortest = max(_SMALLEST_UNIT, _SHORTEST_SECONDS * (speed or 0.0))
        size = min(left, round(max(wanted, shortest)))
        unit = Unit[Worker](self._next, self._next + (left if left - size < shortest / 2 else size))
        self._next = unit.stop
        return unit

    def _slow(self, worker: Worker, now: float, speed: float | None) -> Unit[Worker] | None:
        units = {unit: min(unit.holders.values()) for unit in self._held.values()}
        for unit, since in sorted(units.items(), key=lambda one: one[1]):
            needed = len(unit) / speed if speed else UNIT_SECONDS
            if len(unit.holders) < _MOST_HOLDERS and now - since > needed:
                return unit
        return None

    def finish(self, worker: Worker) -> list[Worker]:
        """Tell that `worker` has finished its unit. Return the other workers that have the same unit."""
        unit = self._held.pop(worker)
        del unit.holders[worker]
        others = list(unit.holders)
        for other in others:
            del self._held[other]
        unit.holders.clear()
        return others

    def die(self, worker: Worker) -> None:
        """Tell that `worker` has died. If no other worker has its unit, the unit is given out again."""
        unit = self._held.get(worker)
        self.give_back(worker)
        if unit is None:
            return
        unit.deaths += 1
        if unit.deaths < _MOST_DEATHS or unit.holders:
            return
        self._back.remove(unit)
        if len(unit) == 1:
            self.crashed.append(unit.start)
            return
        middle = (unit.start + unit.stop) // 2
        for start, stop in ((middle, unit.stop), (unit.start, middle)):
            # A half is halved at the next death. A single image is given up only for deaths of its own.
            self._back.appendleft(Unit(start, stop, _MOST_DEATHS - 1 if stop - start > 1 else 0))

    def give_back(self, worker: Worker) -> None:
        """Take the unit of `worker`, if it has one, for no fault of the unit."""
        unit = self._held.pop(worker, None)
        if unit:
            del unit.holders[worker]
            if not unit.holders:
                self._back.appendleft(unit)
