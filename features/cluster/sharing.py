"""Work that is shared by the workers of a crew, whose results come back to the driver, such as a scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from headstart.features.cluster.crew import Crew, Member
from headstart.features.cluster.unit_job import Outcome
from headstart.features.cluster.units import Unit, Units

_TICK_SECONDS = 0.2
_TELL_SECONDS = 1.0
_LAST_SECONDS = 5.0  # for a unit that is stopped to end

Piece = tuple[int, int, Any]  # the positions of its items, from `start` to `stop` - 1, and their result


@dataclass
class Sharing:
    """Items 0 to `count` - 1, whose units are done by the members of a crew. The crew has a task; see `Crew.begin`.

    Args:
        items: returns the items from a start to a stop, as they are sent to a worker.
        advance: takes the number of items that were just finished.
        blind: takes a start, a stop and a result; returns why its node must be refused, or "" if the result is good.
        largest: number of items in a unit.
        window: number of items that may be begun after the first that is not done. It bounds what `in_order` holds.
    """

    crew: Crew
    count: int
    items: Callable[[int, int], Any]
    advance: Callable[[int], None]
    blind: Callable[[int, int, Any], str] = lambda start, stop, result: ""
    largest: int = 1 << 16
    window: int | None = None
    done: int = field(default=0, init=False)  # items from the first on, without a gap

    def __post_init__(self) -> None:
        self._units = Units[Member](self.count, self.largest)
        self._speeds: dict[Member, float] = {}  # items per second
        self._shown, self._asked, self._crashed = 0, 0.0, 0

    def run(self) -> Iterator[Piece]:
        """Give out units until all are done. Yield each when it is finished.

        An item of which three workers have died has the result None.
        """
        try:
            while not self._units.all_done:
                self.crew.recruit()
                self._give_out()
                for member, answer in self.crew.answers(_TICK_SECONDS):
                    yield from self._taken(member, answer)
                for position in self._units.crashed[self._crashed :]:
                    self._crashed += 1
                    yield position, position + 1, None
                self._show_progress()
        finally:
            self.crew.rest(_LAST_SECONDS)

    def in_order(self) -> Iterator[Piece]:
        """Do the same as `run`, but yield the units in the order of their items."""
        held: dict[int, Piece] = {}
        for piece in self.run():
            held[piece[0]] = piece
            while self.done in held:
                ready = held.pop(self.done)
                self.done = ready[1]
                yield ready

    def _give_out(self) -> None:
        if self.window is not None:
            self._units.limit = self.done + self.window
        workers = len(self.crew.working())
        for member in self.crew.ready():
            unit = self._units.take(member, time.monotonic(), self._speeds.get(member), workers)
            if unit:
                self.crew.extract(member, self.items(unit.start, unit.stop))

    def _taken(self, member: Member, answer: Outcome | None) -> Iterator[Piece]:
        """Take the answer of a member that had a unit: None if it died. Yield the unit if it is done."""
        unit: Unit[Member] | None = self._units.held_by(member)
        if answer is None:
            (self._units.die if member.died else self._units.give_back)(member)
        elif unit is None:  # another worker was faster
            pass
        elif answer.stopped:
            self._units.give_back(member)
        elif reason := self.blind(unit.start, unit.stop, answer.result):
            self.crew.refuse(member, reason)
            self._units.give_back(member)
        else:
            self._speeds[member] = len(unit) / max(answer.seconds, 1e-3)
            for other in self._units.finish(member):
                self.crew.stop(other)
            yield unit.start, unit.stop, answer.result

    def _show_progress(self) -> None:
        """Ask busy workers how far they are, and show the sum."""
        busy = [member for member in self.crew.working() if self._units.held_by(member)]
        now = time.monotonic()
        if now - self._asked > _TELL_SECONDS:
            self._asked = now
            self.crew.ask(busy)
        done = self._units.done
        for unit in {self._units.held_by(member) for member in busy}:
            if unit:
                done += min(len(unit), max(member.tried for member in unit.holders))
        if done > self._shown:
            self.advance(done - self._shown)
            self._shown = done
