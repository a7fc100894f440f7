"""The queue of units, played through without a cluster."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from headstart.features.cluster.units import FIRST_UNIT, UNIT_SECONDS, Units
from hypothesis import given
from hypothesis import strategies as st


def test_a_unit_is_a_minute_of_work() -> None:
    units = Units[str](1_000_000)
    first = units.take("a", 0.0, None, 2)
    assert first is not None
    assert first.positions == range(FIRST_UNIT)
    units.finish("a", first)
    second = units.take("a", 1.0, 100.0, 2)
    assert second is not None
    assert (second.positions[0], len(second)) == (FIRST_UNIT, 100 * UNIT_SECONDS)


def test_units_get_smaller_near_the_end() -> None:
    units, sizes = Units[str](10_000), []
    while unit := units.take("a", 0.0, 100.0, 2):
        sizes.append(len(unit))
        units.finish("a", unit)
    assert sum(sizes) == 10_000
    assert sizes[:2] == [2500, 1875]
    assert all(later <= earlier for earlier, later in pairwise(sizes[:-1]))
    assert min(sizes[:-1]) == 200  # two seconds of work
    assert 100 <= sizes[-1] < 300


@pytest.mark.parametrize(
    ("images", "largest", "expected"), [(40_000, 1 << 16, 10_000), (40_000, 4096, 4096), (40, 32, 32)]
)
def test_no_speed_brings_a_worker_all_that_is_left(images: int, largest: int, expected: int) -> None:
    unit = Units[str](images, largest).take("a", 0.0, 1e9, 4)
    assert unit is not None
    assert len(unit) == expected


def test_an_idle_worker_repeats_the_oldest_unit_that_takes_too_long() -> None:
    units = Units[str](100)
    slow = units.take("slow", 0.0, 50.0, 1)
    assert slow is not None
    assert len(slow) == 100
    assert units.take("idle", 9.0, 10.0, 2) is None  # it would have needed ten seconds itself
    assert units.take("idle", 10.5, 10.0, 2) is slow
    assert units.take("third", 20.0, 10.0, 3) is None  # two have it
    assert units.finish("idle", slow) == ["slow"]
    assert units.all_done
    assert units.held_by("slow") == []


def test_the_unit_of_a_dead_worker_goes_to_another() -> None:
    units = Units[str](1000)
    lost = units.take("a", 0.0, None, 2)
    assert units.take("b", 0.0, None, 2) is not lost
    units.die("a")
    assert units.take("c", 1.0, None, 2) is lost
    assert lost is not None
    assert lost.deaths == 1


def test_a_unit_that_two_workers_have_survives_the_death_of_one() -> None:
    units = Units[str](10)
    unit = units.take("a", 0.0, None, 1)
    assert units.take("b", 100.0, 10.0, 2) is unit
    units.die("a")
    assert units.take("c", 1000.0, None, 2) is unit  # again the oldest, not one that came back
    assert unit is not None
    assert units.finish("b", unit) == ["c"]
    assert (units.all_done, units.crashed) == (True, [])


def test_a_worker_that_is_stopped_leaves_no_mark() -> None:
    units = Units[str](10)
    for _ in range(10):
        unit = units.take("a", 0.0, None, 1)
        units.give_back("a")
    assert unit is not None
    assert (unit.deaths, units.done) == (0, 0)


def killed(images: int, deadly: set[int], most: int) -> tuple[Units[int], Counter[int]]:
    """Play units through with one worker at a time that dies of `deadly` images. Count how often images were tried."""
    units, tried = Units[int](images), Counter[int]()
    for worker in range(most):
        while unit := units.take(worker, 0.0, None, 1):
            tried.update(unit.positions)
            if deadly & set(unit.positions):
                units.die(worker)
                break
            units.finish(worker, unit)
        if units.all_done:
            return units, tried
    pytest.fail("it does not end")


def test_an_image_that_kills_its_workers_is_found() -> None:
    units, tried = killed(1000, {417}, most=30)
    assert units.crashed == [417]
    assert set(tried) == set(range(1000))
    assert tried[417] <= 3 + 9 + 3  # three deaths, one for each halving of 512 images, and three of its own


def test_an_image_is_given_up_for_deaths_of_its_own_alone() -> None:
    units = Units[str](1)
    for worker in ("a", "b"):
        units.take(worker, 0.0, None, 1)
        units.die(worker)
    assert not units.crashed
    unit = units.take("c", 0.0, None, 1)
    assert unit is not None
    units.finish("c", unit)
    assert units.all_done
    assert not units.crashed


def test_a_worker_gets_a_second_unit_unless_one_is_under_suspicion() -> None:
    units = Units[str](10_000)
    first, second = (units.take("a", 0.0, None, 1) for _ in range(2))
    assert first is not None
    assert second is not None
    assert units.held_by("a") == [first, second]
    assert units.take("a", 0.0, None, 1) is None  # two are enough
    assert not units.die("a")
    assert (first.deaths, second.deaths) == (1, 1)
    assert units.take("b", 0.0, None, 1) is first
    assert units.take("b", 0.0, None, 1) is None  # if it dies, the unit was it
    assert units.die("b")


def test_a_unit_that_failed_goes_to_another_place_if_there_is_one() -> None:
    units = Units[str](10_000)
    lost = units.take("a", 0.0, None, 2, place="x", alone=False)
    units.die("a", "x")
    assert units.take("b", 0.0, None, 2, place="x", alone=False) is not lost
    assert units.take("c", 0.0, None, 2, place="y", alone=False) is lost
    units.die("c", "y")
    assert units.take("d", 0.0, None, 1, place="y", alone=True) is lost


def test_images_that_a_worker_could_not_read_are_tried_once_more_elsewhere() -> None:
    units = Units[str](10)
    unit = units.take("a", 0.0, None, 2, "x", alone=False)
    assert unit is not None
    units.finish("a", unit, unread=[3, 7], place="x")
    assert (units.done, units.all_done) == (8, False)
    assert units.take("a", 0.0, None, 2, "x", alone=False) is None
    again = units.take("b", 0.0, None, 2, "y", alone=False)
    assert again is not None
    assert (again.positions, again.looked_twice, again.again) == ([3, 7], True, True)


@given(st.integers(1, 400), st.sets(st.integers(0, 399), max_size=3))
def test_all_but_deadly_images_are_done(images: int, deadly: set[int]) -> None:
    deadly = {position for position in deadly if position < images}
    units, _ = killed(images, deadly, most=100)
    assert sorted(units.crashed) == sorted(deadly)
    assert units.done == images


@dataclass
class Play:
    """A cluster that does as a list of drawn numbers says."""

    images: int
    units: Units[int] = field(init=False)
    done: set[int] = field(default_factory=set)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.units = Units(self.images)

    def step(self, action: int, worker: int) -> None:
        self.now += 7.0
        held = self.units.held_by(worker)
        if not held or (action == 0 and len(held) < 2):
            self.units.take(worker, self.now, (None, 3.0, 500.0)[action % 3], 4, worker % 2, alone=False)
            assert len(self.units.held_by(worker)) <= 2
        elif action < 6:
            unit = held[0]
            unread = unit.positions[:action] if action > 3 and not unit.looked_twice else []
            self.done.update(set(unit.positions) - set(unread))
            for other in self.units.finish(worker, unit, unread, worker % 2):
                assert unit not in self.units.held_by(other)
        elif action < 8:
            self.units.die(worker, worker % 2)
        else:
            self.units.give_back(worker, *held[: action % 2])


@given(st.integers(1, 3000), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=60))
def test_nothing_is_lost_whatever_happens(images: int, steps: list[tuple[int, int]]) -> None:
    play, before = Play(images), 0
    for action, worker in steps:
        play.step(action, worker)
        assert play.units.done == len(play.done) + len(play.units.crashed) >= before
        before = play.units.done
    for _ in range(10_000):
        if play.units.all_done:
            break
        for worker in range(4):
            play.step(1, worker)
    assert play.done | set(play.units.crashed) == set(range(images))
    assert not play.done & set(play.units.crashed)
