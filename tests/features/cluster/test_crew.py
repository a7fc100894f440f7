"""The crew and the loop that shares work, played through without Ray."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from headstart.features.cluster import crew as crew_module
from headstart.features.cluster import nodes
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.crew import Crew
from headstart.features.cluster.member import Member
from headstart.features.cluster.probe import NodeMemoryError
from headstart.features.cluster.sharing import Sharing
from headstart.features.cluster.worker import Built
from headstart.features.errors import HeadstartError
from headstart.tests.features.cluster.fake_ray import PENDING, FakeRay, RayError

GPU = "GPU, one"


@dataclass
class Done:
    """The result of a unit."""

    items: list[int]
    seconds: float = 1.0
    stopped: bool = False


class Plain:
    """A worker without faults. Each node makes it anew."""

    def __init__(self, node: str) -> None:
        self.node, self.stopped, self.shared = node, list[int](), list[int]()

    def hello(self) -> dict[str, Any]:
        return {"headstart": version("headstart"), "host": self.node, "pid": 1}

    def meet(self, task: Any) -> Any:
        return None

    def build(self, batch_sizes: Mapping[str, int]) -> Any:
        return Built(8, {"": np.zeros(2, np.float32)}, "CPU, 2 cores")

    def do_unit(self, unit: int, items: Sequence[int], backwards: bool) -> Any:
        return Done(list(items))

    def tell(self, unit: int) -> int:
        return 0

    def stop(self, unit: int) -> None:
        self.stopped.append(unit)

    def share(self, unit: int) -> None:
        self.shared.append(unit)


@dataclass
class Task:
    """A task without demands."""

    tries_batch_sizes: bool = True
    takes_network = False
    kept = None

    def job(self, before: Any) -> Any:
        raise NotImplementedError

    def require_same(self, met: Any) -> None:
        pass


Make = Callable[..., tuple[Crew, FakeRay]]


@pytest.fixture
def crew_of(monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that makes a crew of workers on nodes with these resources."""

    def make(
        worker: Callable[[str], Any], task: Task | None = None, **resources: dict[str, float]
    ) -> tuple[Crew, FakeRay]:
        ray = FakeRay(resources, worker)
        monkeypatch.setattr(crew_module, "load_ray", lambda: ray)
        monkeypatch.setattr(crew_module, "_RECRUIT_SECONDS", 0.0)
        crew = Crew(ClusterConfig(ray="auto"))
        crew.begin(task or Task())
        return crew, ray

    return make


def shared(crew: Crew, count: int, **more: Any) -> tuple[list[int], list[int]]:
    """Share `count` items. Return those that were done, in the order of their units, and those that crashed."""
    done, crashed = list[int](), list[int]()
    for piece in Sharing(crew, count, lambda positions, again: positions, lambda count: None, **more).run():
        if piece.result is None:
            crashed += piece.positions
        else:
            done += piece.positions
    return done, crashed


def until(crew: Crew, holds: Callable[[], bool]) -> None:
    for _ in range(100):
        if holds():
            return
        crew.recruit()
        list(crew.answers(0.0))
    pytest.fail("it does not come")


ONE, TWO_GPUS = {"CPU": 1.0}, {"CPU": 4.0, "GPU": 2.0}


@pytest.mark.parametrize("ahead", [False, True])
def test_all_items_are_done_once(crew_of: Make, ahead: bool) -> None:
    crew, _ = crew_of(Plain, a=ONE, b=ONE)
    done, crashed = shared(crew, 2000, ahead=ahead)
    assert sorted(done) == list(range(2000))
    assert not crashed


@pytest.mark.parametrize("ahead", [False, True])
def test_an_item_that_kills_its_workers_is_not_held_against_their_nodes(crew_of: Make, ahead: bool) -> None:
    class Deadly(Plain):
        def do_unit(self, unit: int, items: Sequence[int], backwards: bool) -> Any:
            if 417 in items:
                raise RayError("killed")
            return super().do_unit(unit, items, backwards)

    crew, _ = crew_of(Deadly, a=ONE, b=ONE)
    done, crashed = shared(crew, 2000, ahead=ahead)
    assert crashed == [417]
    assert len(done) == 1999
    assert not crew.refused


def test_a_node_on_which_every_unit_dies_is_refused(crew_of: Make) -> None:
    class Broken(Plain):
        def do_unit(self, unit: int, items: Sequence[int], backwards: bool) -> Any:
            if self.node == "broken":
                raise RayError("killed")
            return Done(list(items), seconds=60.0)

    crew, _ = crew_of(Broken, broken=ONE, good=ONE)
    done, crashed = shared(crew, 20_000)
    assert (len(done), crashed) == (20_000, [])
    assert list(crew.refused) == ["broken"]


def test_deaths_without_end_end_with_their_reason(crew_of: Make) -> None:
    class Doomed(Plain):
        def do_unit(self, unit: int, items: Sequence[int], backwards: bool) -> Any:
            raise RayError("the kernel killed it")

    crew, ray = crew_of(Doomed, a=ONE, b=ONE)
    with pytest.raises(HeadstartError, match=r"30 workers have died .*the kernel killed it.*is kept"):
        shared(crew, 2000)
    assert len(ray.killed) < 50


def test_a_gpu_with_other_bits_is_refused_alone(crew_of: Make) -> None:
    made = list[str]()

    class Odd(Plain):
        def __init__(self, node: str) -> None:
            super().__init__(node)
            made.append(node)
            self.value = float(len(made))

        def build(self, batch_sizes: Mapping[str, int]) -> Any:
            return Built(8, {"": np.full(2, self.value, np.float32)}, GPU)

    crew, _ = crew_of(Odd, a=TWO_GPUS)
    done, _ = shared(crew, 2000)
    assert len(done) == 2000
    assert list(crew.refused_slots) == [("a", 1)]
    assert len(made) == 2


def test_a_node_that_is_refused_does_not_end_the_work_of_its_other_gpu(crew_of: Make) -> None:
    class Late(Plain):
        def do_unit(self, unit: int, items: Sequence[int], backwards: bool) -> Any:
            return PENDING

    crew, _ = crew_of(Late, a=TWO_GPUS)
    until(crew, lambda: len(crew.working()) == 2)
    one, other = crew.working()
    one.give("unit", "do_unit", [1], False)
    crew.refuse(other, "a fault of the node")
    crew.recruit()
    crew.lose(one)
    with pytest.raises(HeadstartError, match="a fault of the node"):
        crew.recruit()


def test_the_death_of_the_own_node_ends_the_work_at_once(
    crew_of: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "_PATIENT_SECONDS", -1.0)
    for count, resources in ((1, {"a": ONE}), (2, {"a": ONE, "b": ONE})):
        crew, ray = crew_of(Plain, **resources)
        until(crew, lambda crew=crew, count=count: len(crew.working()) == count)
        ray.dead.add("a")
        with pytest.raises(HeadstartError, match=r"--ray auto: the node of this command died \(a, a\); what was"):
            crew.recruit()
    assert "of 0 workers" not in capsys.readouterr().err


def test_the_death_of_all_nodes_with_workers_is_told_at_once(
    crew_of: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crew, ray = crew_of(Plain, head={"CPU": 0.0}, a=ONE)
    until(crew, lambda: len(crew.working()) == 1)
    monkeypatch.setattr(crew_module, "_PATIENT_SECONDS", -1.0)
    crew.begin(Task())
    ray.dead.add("a")
    crew.lose(next(iter(crew.members.values())))
    crew.recruit()
    told = " ".join(capsys.readouterr().err.split())
    assert "all nodes with workers died, and no other has the CPUs for a worker" in told
    assert "waiting 60 s for one to join" in told
    assert "of 0 workers" not in told

    ray.dead.clear()
    until(crew, lambda: len(crew.working()) == 1)
    ray.dead.add("a")
    crew.lose(next(iter(crew.members.values())))
    crew.recruit()
    assert "waiting 60 s" in " ".join(capsys.readouterr().err.split())  # anew

    monkeypatch.setattr(crew_module, "_ALONE_SECONDS", -1.0)
    with pytest.raises(HeadstartError, match=r"all nodes with workers died.* and none joined"):
        crew.recruit()


def test_a_lack_of_memory_costs_a_slot_or_a_worker(crew_of: Make) -> None:
    class Small(Plain):
        def build(self, batch_sizes: Mapping[str, int]) -> Any:
            if self.node == "small":
                raise NodeMemoryError("its memory is not enough")
            return super().build(batch_sizes)

        def do_unit(self, unit: int, items: Sequence[int], backwards: bool) -> Any:
            if 417 in items and len(items) > 1:
                raise NodeMemoryError("its memory is not enough")
            return super().do_unit(unit, items, backwards)

    crew, _ = crew_of(Small, small=ONE, a=ONE, b=ONE)
    done, crashed = shared(crew, 2000)
    assert (len(done), crashed) == (2000, [])
    assert list(crew.refused_slots) == [("small", 0)]


class Choosing(Plain):
    """Chooses its batch size, unless it is given. The first never ends."""

    asked: list[dict[str, int]]

    def build(self, batch_sizes: Mapping[str, int]) -> Any:
        self.asked.append(dict(batch_sizes))
        return PENDING if len(self.asked) == 1 else Built(96, {}, GPU)


def test_workers_on_gpus_wait_for_the_first_batch_size_but_not_for_ever(
    crew_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    Choosing.asked = []
    crew, _ = crew_of(Choosing, a={"CPU": 8.0, "GPU": 4.0})
    for _ in range(10):
        crew.recruit()
        list(crew.answers(0.0))
    assert Choosing.asked == [{}]
    monkeypatch.setattr(nodes, "_PATIENT_SECONDS", -1.0)
    until(crew, lambda: len(crew.working()) == 3)
    assert Choosing.asked[2:] == [{GPU: 96}] * 2 or Choosing.asked[1:] == [{}] * 3


@pytest.mark.parametrize(("task", "resources"), [(Task(False), TWO_GPUS), (Task(), {"CPU": 2.0})])
def test_workers_that_choose_no_batch_size_build_at_once(
    crew_of: Make, task: Task, resources: dict[str, float]
) -> None:
    Choosing.asked = []
    crew, _ = crew_of(Choosing, task, a=resources, b=resources)
    until(crew, lambda: len(crew.working()) > 0)
    assert len(Choosing.asked) >= 2


def test_items_that_a_node_can_not_read_are_tried_on_another(crew_of: Make) -> None:
    class Flaky(Plain):
        def do_unit(self, unit: int, items: Sequence[int], backwards: bool) -> Any:
            unread = [one for one in items if one % 10 == 0 and (self.node == "flaky" or one == 500)]
            return Done(unread)

    crew, _ = crew_of(Flaky, flaky=ONE, good=ONE)
    until(crew, lambda: len(crew.working()) == 2)
    missed = set[int]()
    sharing = Sharing(
        crew, 2000, lambda positions, again: positions, lambda count: None, unread=lambda _, result: result.items
    )
    for piece in sharing.run():
        missed = (missed - set(piece.positions)) | set(piece.result.items)
    assert missed == {500}


def test_a_worker_that_was_not_fastest_ends_its_unit_while_the_next_task_begins(crew_of: Make) -> None:
    crew, _ = crew_of(Plain, a=ONE, b=ONE)
    until(crew, lambda: len(crew.working()) == 2)
    slow, fast = crew.working()
    call = slow.actor.worker.do_unit
    slow.actor.worker.do_unit = lambda *_: PENDING
    slow.give("unit", "do_unit", [1], False)
    crew.begin(Task())
    until(crew, lambda: crew.working() == [fast])
    done, _ = shared(crew, 100)
    assert len(done) == 100
    (reference,) = slow.jobs
    reference.result, slow.actor.worker.do_unit = Done([]), call
    until(crew, lambda: set(crew.working()) == {slow, fast})


def test_what_is_left_decides_who_gets_the_next_unit(crew_of: Make) -> None:
    crew, _ = crew_of(Plain, a=ONE, b=ONE)
    until(crew, lambda: len(crew.working()) == 2)
    given = list[tuple[str, int]]()
    for member in crew.working():
        member.actor.worker.do_unit = lambda *_: PENDING
        original = member.give

        def give(
            unit: Any, method: str, *rest: Any, member: Member = member, original: Callable[..., None] = original
        ) -> None:
            given.append((member.node, len(unit)))
            original(unit, method, *rest)

        member.give = give  # type: ignore[method-assign]
    sharing = Sharing(crew, 2000, lambda positions, again: positions, lambda count: None, ahead=True)
    sharing._give_out()
    assert [node for node, _ in given] == ["a", "b"]
    for member in crew.working():
        member.began -= 10.0  # it has worked for ten seconds
        member.tried = 100 if member.node == "a" else 480
    sharing._give_out()
    assert [node for node, _ in given[2:]] == ["b"]


@pytest.mark.parametrize("count", [1, 2000])
def test_an_item_that_no_node_can_read_refuses_none(crew_of: Make, count: int) -> None:
    class Unable(Plain):
        def do_unit(self, unit: int, items: Sequence[int], backwards: bool) -> Any:
            return Done([one for one in items if one == 0])

    def blind(positions: Sequence[int], result: Done) -> str:
        return "blind" if 2 * len(result.items) > len(positions) and count > 1 else ""

    crew, _ = crew_of(Unable, a=ONE, b=ONE)
    until(crew, lambda: len(crew.working()) == 2)
    done, crashed = shared(crew, count, blind=blind, unread=lambda _, result: result.items)
    assert set(done) == set(range(count))
    assert done.count(0) == 2
    assert not crashed
    assert not crew.refused


def test_items_that_were_done_before_tell_nothing_of_a_speed(crew_of: Make) -> None:
    crew, _ = crew_of(Plain, a=ONE)
    until(crew, lambda: len(crew.working()) == 1)
    for tried, speeds in ((10, []), (300, [300.0])):
        sharing = Sharing(
            crew, 500, lambda positions, again: positions, lambda count: None, tried=lambda *_, tried=tried: tried
        )
        assert sum(len(piece.positions) for piece in sharing.run()) == 500
        assert list(sharing._speeds.values()) == speeds
