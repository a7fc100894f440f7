"""Sharing of work by the workers of a crew: the driver gives units to the workers, and gets the results back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, Protocol

from headstart.features.cluster.crew import Crew
from headstart.features.cluster.member import Member
from headstart.features.cluster.units import Unit, Units

_TICK_SECONDS = 0.2
_TELL_SECONDS = 1.0
_LAST_SECONDS = 5.0  # the longest time that a stopped unit may still take
_AHEAD_SECONDS = 5.0  # a worker gets its next unit when it has less work left than this


class Result(Protocol):
    """The result of a unit, as a worker sends it back."""

    @property
    def seconds(self) -> float:
        """The seconds that the worker took for the unit."""

    @property
    def stopped(self) -> bool:
        """Whether the unit was ended early."""


class Piece(NamedTuple):
    """A unit that is done, with its result."""

    positions: Sequence[int]  # of its items
    result: Any  # None if the unit is one item with which three workers have died


@dataclass
class Sharing:
    """Shares the items 0 to `count` - 1 among the members of a crew, in units. The crew must have a task.

    Args:
        items: takes the positions of a unit's items, and whether these items were sent out before; returns the data to
            send to the worker that gets the unit.
        advance: is called with the number of items that were just finished.
        unread: takes the positions and the result of a unit; returns the positions of items that the worker could not
            read. Another node, if there is one, gets a second try at these items.
        blind: takes the positions and the result of a unit; returns why the worker's node must be refused, or "" if the
            result is good. `blind` is not called for a second try.
        worked: is called with the member and the result, for each result.
        tried: takes the positions and the result of a unit; returns the number of items that cost the worker time. By
            default, all items count. Units with few such items are not used to measure the worker's speed.
        tick: is called several times a second.
        ahead: whether a worker gets its next unit before its present unit has ended.
        largest: the largest number of items in a unit.
        window: each new unit begins at one of the first `window` items that `in_order` has not yielded yet. None means
            no limit.
    """

    crew: Crew
    count: int
    items: Callable[[Sequence[int], bool], Any]
    advance: Callable[[int], None]
    _: KW_ONLY
    blind: Callable[[Sequence[int], Any], str] = lambda positions, result: ""
    unread: Callable[[Sequence[int], Any], Sequence[int]] = lambda positions, result: ()
    worked: Callable[[Member, Any], None] = lambda member, result: None
    tried: Callable[[Sequence[int], Any], int] = lambda positions, result: len(positions)
    tick: Callable[[], None] = lambda: None
    ahead: bool = False
    largest: int = 1 << 16
    window: int | None = None
    done: int = field(default=0, init=False)  # number of items at the beginning that are all done; see `in_order`
    begun: float | None = field(default=None, init=False)  # when the first unit was given out

    def __post_init__(self) -> None:
        self._units = Units[Member](self.count, self.largest)
        self._speeds: dict[Member, float] = {}  # items per second
        self._shown, self._asked, self._crashed = 0, 0.0, 0

    def run(self) -> Iterator[Piece]:
        """Give out units until all are done. Yield each unit when it is finished.

        If two workers have the same unit, the result of the faster one counts, and the slower one is not waited for.
        After an error, workers get a few seconds to end their units.
        """
        try:
            while not self._units.all_done:
                self.crew.recruit()
                self._give_out()
                for member, unit, result in self.crew.answers(_TICK_SECONDS):
                    yield from self._taken(member, unit, result)
                for position in self._units.crashed[self._crashed :]:
                    self._crashed += 1
                    yield Piece([position], None)
                self._show_progress()
                self.tick()
        except BaseException:
            self.crew.rest(_LAST_SECONDS)
            raise

    def in_order(self) -> Iterator[Piece]:
        """Do the same as `run`, but yield the units in the order of their items.

        The field `unread` must be a function that always returns an empty sequence. Otherwise, items could get a second
        try, and be yielded again out of order.
        """
        held: dict[int, Piece] = {}
        for piece in self.run():
            held[piece.positions[0]] = piece
            while self.done in held:
                ready = held.pop(self.done)
                self.done += len(ready.positions)
                yield ready

    def _give_out(self) -> None:
        """Give units to members that have none or, if `ahead` is true, that will soon have none."""
        if self.window is not None:
            self._units.limit = self.done + self.window
        working = self.crew.working()
        left = {member: self._seconds_left(member) for member in working}
        busy = {member.node for member in working if not member.jobs or self._units.held_by(member)}
        for member in sorted(working, key=left.__getitem__):
            if left[member] > (_AHEAD_SECONDS if self.ahead else 0.0) or (member.jobs and not self.ahead):
                continue
            now, speed, alone = time.monotonic(), self._speeds.get(member), busy <= {member.node}
            if unit := self._units.take(member, now, speed, len(working), member.node, alone):
                self.begun = self.begun or time.perf_counter()
                for other in unit.holders:
                    other.tell(unit, "share")
                repeated = len(unit.holders) > 1
                member.give(unit, "do_unit", self.items(unit.positions, unit.again or repeated), repeated)

    def _seconds_left(self, member: Member) -> float:
        """Estimate the seconds until `member` has no work left. If no estimate is possible, return infinity."""
        if not member.jobs:
            return 0.0
        held = self._units.held_by(member)
        if not held or len(held) < len(member.jobs):  # it is ending a unit that another worker has finished
            return float("inf")
        speed = member.tried / max(time.monotonic() - member.began, 1e-3) if member.tried else 0.0
        speed = self._speeds.get(member, speed)
        return (sum(map(len, held)) - member.tried) / speed if speed else float("inf")

    def _taken(self, member: Member, unit: Unit[Member] | None, result: Result | None) -> Iterator[Piece]:
        """Process the result of `unit`. A done unit is yielded. If `unit` is None, `member` died or was refused."""
        if unit is None or result is None:
            self._lost(member)
            return
        self.worked(member, result)
        if unit not in self._units.held_by(member):  # another worker was faster
            return
        if result.stopped:
            self._units.give_back(member, unit)
        elif not unit.looked_twice and (reason := self.blind(unit.positions, result)):
            self.crew.refuse(member, reason)
            self._units.give_back(member)
        else:
            tried = self.tried(unit.positions, result)
            if not unit.again and len(unit.holders) == 1 and 2 * tried >= len(unit):
                self._speeds[member] = tried / max(result.seconds, 1e-3)
            yield from self._finished(member, unit, result)

    def _finished(self, member: Member, unit: Unit[Member], result: Result) -> Iterator[Piece]:
        elsewhere = any(other.node != member.node for other in self.crew.working())
        unread = self.unread(unit.positions, result) if elsewhere and not unit.looked_twice else ()
        for other in self._units.finish(member, unit, unread, member.node):
            other.tell(unit, "stop")
        yield Piece(unit.positions, result)

    def _lost(self, member: Member) -> None:
        if not member.died:
            self._units.give_back(member)
        elif not self._units.die(member, member.node) and member.ready:
            self.crew.blame(member)  # none of its units is under suspicion, so the node may be at fault

    def _show_progress(self) -> None:
        """Ask busy workers how many items of their units are done, and show the total."""
        busy = [member for member in self.crew.working() if self._units.held_by(member)]
        now = time.monotonic()
        if now - self._asked > _TELL_SECONDS:
            self._asked = now
            self.crew.ask(busy)
        done = self._units.done
        present = {self._units.held_by(member)[0]: member for member in busy}
        for unit in present:
            tried = [other.tried for other in unit.holders if self._units.held_by(other)[0] is unit]
            done += min(len(unit), max(tried))
        if done > self._shown:
            self.advance(done - self._shown)
            self._shown = done
