"""The crew: Ray's actors on the nodes of a cluster. Each runs a `Worker`, which is checked before it gets units."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.connection import load_ray
from headstart.features.cluster.nodes import first_line, slots
from headstart.features.cluster.probe import NodeError
from headstart.features.cluster.worker import Built, Task, Worker
from headstart.features.errors import HeadstartError
from headstart.features.terminal import console

_RECRUIT_SECONDS = 2.0
_MOST_FAILURES = 3
_ALONE_SECONDS = 60.0  # without a node that can take a worker
_PATIENT_SECONDS = 20.0


@dataclass(eq=False)
class Member:
    """A worker of the crew, on a slot of a node."""

    actor: Any
    node: str  # Ray's ID of the node
    slot: int
    name: str  # of the node, for messages
    step: str = "hello"  # the method of `Worker` that was called last; `ready` if none is running after `build`
    call: Any = None  # the reference to its result
    told: Any = None  # the reference to the result of `tell`
    unit: int = -1  # number of the current or last unit
    tried: int = 0  # images of the current unit that are done
    speed: float | None = None  # images per second
    died: bool = False


@dataclass
class Crew:
    """The workers of a cluster. They stay for several tasks, and are killed by `dismiss`."""

    config: ClusterConfig
    members: dict[tuple[str, int], Member] = field(default_factory=dict)  # by node and slot
    refused: dict[str, str] = field(default_factory=dict)  # why a node gets no worker, by the node's ID

    def __post_init__(self) -> None:
        self.ray = load_ray()
        self._failures: Counter[str] = Counter()  # of each node, since the last success
        self._recruited = -np.inf
        self._alone_since: float | None = None
        self._began, self._patient = time.monotonic(), True

    def begin(self, task: Task) -> None:
        """Give the crew a task."""
        self._task = task
        self._reference: tuple[str, Built] | None = None
        self._began = time.monotonic()
        for member in self.members.values():
            if member.step != "hello":
                self._call(member, "meet", task)

    def is_elsewhere(self) -> bool:
        """Return whether a node other than the driver's can have a worker."""
        here = self.ray.get_runtime_context().get_node_id()
        return any(
            node["Alive"] and node["NodeID"] != here and slots(node["Resources"], self.config)
            for node in self.ray.nodes()
        )

    def ready(self) -> list[Member]:
        """Return the members that can get a unit now."""
        return [member for member in self.members.values() if member.step == "ready"]

    def working(self) -> list[Member]:
        """Return the members that have been ready at least once in this task."""
        return [member for member in self.members.values() if member.step in ("ready", "extract")]

    def extract(self, member: Member, items: Any, backwards: bool = False) -> None:
        """Send a unit to a member."""
        member.unit, member.tried = member.unit + 1, 0
        self._call(member, "extract", member.unit, items, backwards)

    def stop(self, member: Member) -> None:
        """Have a member end its unit early."""
        member.actor.stop.remote(member.unit)

    def ask(self, members: Sequence[Member]) -> None:
        """Ask `members` how many images of their units are done. The answers come later into `Member.tried`."""
        for member in members:
            member.told = member.told or member.actor.tell.remote(member.unit)
        asked = {member.told: member for member in self.members.values() if member.told}
        answered, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
        for call in answered:
            asked[call].told = None
            with suppress(self.ray.exceptions.RayError):  # it died, which `answers` will tell
                asked[call].tried = self.ray.get(call)

    def rest(self, seconds: float) -> None:
        """Have all members end their units within `seconds`. Kill those that do not, and those that are not ready."""
        working = [member for member in self.members.values() if member.step == "extract"]
        for member in working:
            self.stop(member)
        calls = [member.call for member in working]
        ended = self.ray.wait(calls, num_returns=len(calls), timeout=seconds)[0] if calls else []
        for member in list(self.members.values()):
            if member.call in ended:
                member.step, member.call = "ready", None
            elif member.step not in ("ready", "met", "hello"):
                self.lose(member)

    def _call(self, member: Member, step: str, *arguments: Any) -> None:
        member.step, member.call, member.told = step, getattr(member.actor, step).remote(*arguments), None

    def recruit(self) -> None:
        """Start a worker on every free slot of the nodes. Raise a HeadstartError if there is no node to be had."""
        now = time.monotonic()
        if now - self._recruited < _RECRUIT_SECONDS:
            return
        self._recruited = now
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        free = [node for node in nodes if node["NodeID"] not in self.refused]
        count = 0
        for node in free:
            for slot, (cpus, gpus) in enumerate(slots(node["Resources"], self.config)):
                count += 1
                if (node["NodeID"], slot) not in self.members:
                    self._start(node, slot, cpus, gpus)
        self._require_some(count, [self.refused[node["NodeID"]] for node in nodes if node not in free], now)
        self._patient &= not self.working()
        if self._patient and now - self._began > _PATIENT_SECONDS:
            self._patient = False
            console.print(f"waiting for the first of {count} workers: Ray gives its CPUs to other jobs, or is slow")

    def _require_some(self, count: int, refused: list[str], now: float) -> None:
        """Raise a HeadstartError if no node can take a worker, and none came for a minute."""
        if count:
            self._alone_since = None
            return
        if refused:
            raise HeadstartError(refused[0])
        self._alone_since = self._alone_since or now
        if now - self._alone_since > _ALONE_SECONDS:
            raise HeadstartError(
                f"--ray {self.config.ray}: no node has the CPUs for a worker (--ray-cpus {self.config.ray_cpus}, "
                f"--ray-gpus {self.config.ray_gpus:g}), and none joined; what was finished is kept"
            )

    def _start(self, node: dict[str, Any], slot: int, cpus: int, gpus: float) -> None:
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": 2, "scheduling_strategy": where}
        actor = self.ray.remote(Worker).options(**options).remote(cpus)
        name = f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
        member = Member(actor, node["NodeID"], slot, name)
        self.members[member.node, slot] = member
        self._call(member, "hello")

    def answers(self, timeout: float) -> Iterator[tuple[Member, Any]]:
        """Wait up to `timeout` seconds for an answer. Yield the member that has finished a unit, with the result.

        If the member has died, or its node was refused, the result is None. Answers to earlier steps lead to the next
        step, until the member is ready. Errors that are not the node's fault are raised.
        """
        calls = {member.call: member for member in self.members.values() if member.call is not None}
        if not calls:
            time.sleep(timeout)
            return
        done, _ = self.ray.wait(list(calls), num_returns=1, timeout=timeout)
        for call in done:
            member = calls[call]
            was_extracting = member.step == "extract"
            answer = self._answer(member)
            if was_extracting:
                yield member, answer

    def _answer(self, member: Member) -> Any:
        """Return the answer of a member, and take the next step. None if it died, or its node was refused."""
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(member.call)
        except errors.RayTaskError as error:
            self._faulty(member, error)
            return None
        except errors.RayError as error:  # the worker or its node died
            self._died(member, error)
            return None
        except ImportError as error:  # an answer of another version of headstart
            self.refuse(member, f"has another version of headstart ({error})")
            return None
        try:
            self._next(member, answer)
        except NodeError as error:
            self.refuse(member, str(error))
            return None
        return answer

    def _faulty(self, member: Member, error: Any) -> None:
        """Refuse the node if an error is the node's fault. Else raise the error."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, NodeError) or (isinstance(cause, HeadstartError) and member.step in ("meet", "build")):
            self.refuse(member, str(cause))
        elif isinstance(cause, Exception):
            raise cause from error
        else:
            raise error

    def _died(self, member: Member, error: Exception) -> None:
        text = str(error)
        if "ModuleNotFoundError" in text or "ImportError" in text:
            self.refuse(member, "headstart of this version is not installed there")
            return
        member.died = True
        self.lose(member)
        self._failures[member.node] += 1
        others = {other.node for other in self.members.values()} - {member.node}
        if self._failures[member.node] >= _MOST_FAILURES and (others or member.step != "extract"):
            self._tell_refused(member, f"{_MOST_FAILURES} of its workers have died ({first_line(text)})")
        else:
            console.print(f"node {member.name}: a worker died ({first_line(text)})")

    def _next(self, member: Member, answer: Any) -> None:
        """Take the step after an answer. Raise a NodeError if the node can't take part."""
        if member.step == "hello":
            here = version("headstart")
            if answer["headstart"] != here:
                raise NodeError(f"it has headstart {answer['headstart']}, the driver has {here}")
            self._call(member, "meet", self._task)
        elif member.step == "meet":
            self._task.require_same(answer)
            if self._building():  # the first worker chooses the batch size for all
                member.step, member.call = "met", None
            else:
                self._call(member, "build", self._reference[1].batch_size if self._reference else 0)
        elif member.step == "build":
            self._compare(member, answer)
            member.step, member.call = "ready", None
            for other in self.members.values():
                if other.step == "met":
                    self._call(other, "build", answer.batch_size)
        else:
            member.step, member.call = "ready", None
            self._failures[member.node] = 0

    def _building(self) -> bool:
        return not self._reference and any(member.step == "build" for member in self.members.values())

    def _compare(self, member: Member, built: Built) -> None:
        """Compare a worker's features with those of the first one. If bits differ, refuse the node or tell it."""
        if not self._reference:
            self._reference = member.name, built
            return
        name, first = self._reference
        if np.array_equal(first.features, built.features):
            return
        difference = np.linalg.norm(first.features - built.features) / np.linalg.norm(first.features)
        told = (
            f"its features differ by {difference:.1e} in norm from those of node {name} ({built.processor}, "
            f"{built.device}, there {first.processor}, {first.device})"
        )
        if not self.config.ray_mixed:
            raise NodeError(f"{told}; --ray-mixed uses it all the same")
        console.print(f"node {member.name}: {told}")

    def refuse(self, member: Member, reason: str) -> None:
        """Kill a member, and start no other on its node. Print the reason. Its other workers find out by themselves."""
        self._tell_refused(member, reason)
        self.lose(member)

    def _tell_refused(self, member: Member, reason: str) -> None:
        if member.node not in self.refused:
            self.refused[member.node] = f"node {member.name}: {reason}"
            console.print(f"refused {self.refused[member.node]}", style="yellow")

    def lose(self, member: Member) -> None:
        """Kill a member, and forget it. A worker that was to choose the batch size leaves this to another."""
        self.members.pop((member.node, member.slot), None)
        self.ray.kill(member.actor)
        if member.step == "build" and not self._reference:
            waiting = [other for other in self.members.values() if other.step == "met"]
            if waiting:
                self._call(waiting[0], "build", 0)

    def dismiss(self) -> None:
        """Kill all members."""
        for member in list(self.members.values()):
            self.ray.kill(member.actor)
        self.members.clear()
