"""The crew: Ray actors on the nodes of a cluster, each with a `Worker`. Workers are checked before they get jobs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.connection import load_ray
from headstart.features.cluster.member import Member
from headstart.features.cluster.nodes import Reference, alive, first_line, slots, why_alone
from headstart.features.cluster.probe import NodeError, NodeMemoryError
from headstart.features.cluster.worker import Task, Worker
from headstart.features.errors import HeadstartError
from headstart.features.terminal import console

_RECRUIT_SECONDS = 2.0
_MOST_FAILURES = 3
_MOST_DEATHS = 30  # deaths of workers, with no finished job between them; with many workers, three per worker
_ALONE_SECONDS = 60.0  # without a node that can take a worker
_PATIENT_SECONDS = 20.0
_CALLS_AT_ONCE = 4  # two jobs, `tell` and `stop`


@dataclass
class Crew:
    """The workers of a cluster. Each has a `Member`. Workers stay for several tasks, until `dismiss` kills them."""

    config: ClusterConfig
    members: dict[tuple[str, int], Member] = field(default_factory=dict)  # by node and slot; see `slots`
    refused: dict[str, str] = field(default_factory=dict)  # why a node gets no worker, by the node's ID
    refused_slots: dict[tuple[str, int], str] = field(default_factory=dict)  # why a slot of a node gets no worker
    libraries: bool = True  # see `Worker`

    def __post_init__(self) -> None:
        self.ray = load_ray()
        self.here: str = self.ray.get_runtime_context().get_node_id()
        self._failures: Counter[str] = Counter()  # of each node, since the last success
        self._deaths = 0  # of all workers, since the last success
        self._recruited = -np.inf
        self._alone_since: float | None = None
        self._started = False  # whether there was a worker
        self._began, self._patient = time.monotonic(), True
        self._task: Task | None = None
        self._prepared: Any = None

    def prepare(self, task: Task) -> None:
        """Send `task` to one worker on the driver's node; see `Worker.prepare`. Without such a worker, do nothing."""
        for member in self.members.values():
            if member.node == self.here:
                self._prepared = member.actor.prepare.remote(task)
                break

    def prepared(self, seconds: float) -> None:
        """Wait at most `seconds` until the task that `prepare` sent is done. Errors of this task are not raised."""
        if self._prepared is not None:
            self.ray.wait([self._prepared], timeout=seconds)
            self._prepared = None

    def begin(self, task: Task) -> None:
        """Give the crew a task. A member with unfinished calls of the previous task first finishes these calls."""
        self._task, self._reference = task, Reference(task)
        self._began = time.monotonic()
        for member in self.members.values():
            member.past = member.step != "hello" and bool(member.jobs or member.call)
            if member.step != "hello" and not member.past:
                member.take_step("meet", task)

    def is_elsewhere(self) -> bool:
        """Return whether a node other than the driver's can have a worker."""
        return any(
            node["Alive"] and node["NodeID"] != self.here and slots(node["Resources"], self.config)
            for node in self.ray.nodes()
        )

    def working(self) -> list[Member]:
        """Return the members that have built the network of the present task."""
        return [member for member in self.members.values() if member.ready]

    def ask(self, members: Sequence[Member]) -> None:
        """Ask each of `members` how much of its present unit is done; see `Member.ask`."""
        for member in members:
            member.ask(self.ray)

    def rest(self, seconds: float) -> None:
        """Tell all members to end their jobs. After `seconds`, kill each member that still has a job."""
        calls = [call for member in self.members.values() for call in member.jobs]
        for member in self.members.values():
            for _, key in list(member.jobs.values()):
                member.tell(key, "stop")
        ended = set(self.ray.wait(calls, num_returns=len(calls), timeout=seconds)[0] if calls else [])
        for member in list(self.members.values()):
            member.jobs = {call: job for call, job in member.jobs.items() if call not in ended}
            if member.jobs:
                self.lose(member)

    def recruit(self) -> None:
        """Start a worker on every free slot; see `slots`. Raise a HeadstartError if no node can have a worker."""
        now = time.monotonic()
        if now - self._recruited < _RECRUIT_SECONDS:
            return
        self._recruited = now
        nodes, count = alive(self.ray.nodes(), self.here, self.config), 0
        for node in nodes:
            for slot, (cpus, gpus) in enumerate(slots(node["Resources"], self.config)):
                if self._why_refused(node["NodeID"], slot) is None:
                    count += 1
                    if (node["NodeID"], slot) not in self.members:
                        self._start(node, slot, cpus, gpus)
        if self.members:
            self._alone_since = None
        else:
            self._require_usable_slot(count, nodes, now)
        if self._task:
            self._let_build(now)
            self._patient &= not self.working()
            if self._patient and count and now - self._began > _PATIENT_SECONDS:
                self._patient = False
                console.print(f"waiting for the first of {count} workers: Ray gives its CPUs to other jobs, or is slow")

    def _why_refused(self, node: str, slot: int) -> str | None:
        return self.refused.get(node) or self.refused_slots.get((node, slot))

    def _require_usable_slot(self, count: int, nodes: Sequence[dict[str, Any]], now: float) -> None:
        """Raise a HeadstartError if no slot is usable (`count` is 0), and a slot was refused or a minute is over."""
        if count:
            return
        every = {node: why for (node, _), why in self.refused_slots.items()} | self.refused
        for node in nodes:
            if node["NodeID"] in every:
                raise HeadstartError(every[node["NodeID"]])
        if self._alone_since is None:
            self._alone_since = now
            console.print(f"{why_alone(self.config, self._started)}; waiting {_ALONE_SECONDS:.0f} s for one to join")
        if now - self._alone_since > _ALONE_SECONDS:
            raise HeadstartError(f"{why_alone(self.config, self._started)}, and none joined; what was finished is kept")

    def _start(self, node: dict[str, Any], slot: int, cpus: int, gpus: float) -> None:
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": where, "max_concurrency": _CALLS_AT_ONCE}
        self._started = True
        actor = self.ray.remote(Worker).options(**options).remote(cpus, self.libraries)
        name = f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
        member = Member(actor, node["NodeID"], slot, name, on_gpu=gpus > 0)
        self.members[member.node, slot] = member
        member.take_step("hello")

    def answers(self, timeout: float) -> Iterator[tuple[Member, Any, Any]]:
        """Wait at most `timeout` seconds for answers. For each ended job, yield (member, key of the job, result).

        If a member dies or is refused, yield (member, None, None). Jobs of an earlier task are left out. Members that
        have ended a step begin the next; see `Member`. Errors of workers are raised, unless the node is to blame.
        """
        calls = {member.call: member for member in self.members.values() if member.call is not None}
        calls |= {call: member for member in self.members.values() for call in member.jobs}
        if not calls:
            time.sleep(timeout)
            return
        if self.ray.wait(list(calls), num_returns=1, timeout=timeout)[0]:
            for call in self.ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]:
                if self._has(calls[call]):  # else it was lost by an answer before
                    yield from self._answered(calls[call], call)

    def _has(self, member: Member) -> bool:
        return self.members.get((member.node, member.slot)) is member

    def _answered(self, member: Member, call: Any) -> Iterator[tuple[Member, Any, Any]]:
        answer = self._answer(member, call)
        if not self._has(member):
            yield member, None, None
            return
        if call in member.jobs:
            key = member.end_job(call)
            self._failures[member.node] = self._deaths = 0
            if not member.past:
                yield member, key, answer
        if member.past and not member.jobs and member.call is None:
            member.past = False
            member.take_step("meet", self._task)

    def _answer(self, member: Member, call: Any) -> Any:
        """Return the answer to `call`, or None if the call failed. After a step (see `Member`), begin the next step."""
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(call)
            if call == member.call:
                member.call = None
                if not member.past:
                    self._next(member, answer)
            return answer
        except errors.RayTaskError as error:
            self._faulty(member, error)
        except errors.RayError as error:  # the worker or its node died
            self._died(member, str(error))
        except ImportError as error:  # an answer of another version of headstart
            self.refuse(member, f"has another version of headstart ({error})")
        except NodeError as error:
            self.refuse(member, str(error))
        return None

    def _faulty(self, member: Member, error: Any) -> None:
        """Remove a member from the crew if its node is to blame for `error`. In all other cases, raise the error."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, NodeMemoryError) and member.step == "ready":
            self._died(member, str(cause))
        elif isinstance(cause, NodeMemoryError):
            self.refuse(member, str(cause), slot_alone=True)
        elif isinstance(cause, NodeError) or (isinstance(cause, HeadstartError) and member.step != "ready"):
            self.refuse(member, str(cause))
        elif isinstance(cause, Exception):
            raise cause from error
        else:
            raise error

    def _died(self, member: Member, text: str) -> None:
        if "ModuleNotFoundError" in text or "ImportError" in text:
            self.refuse(member, "headstart of this version is not installed there")
            return
        self._deaths += 1
        if self._deaths >= max(_MOST_DEATHS, 3 * len(self.members)):
            raise HeadstartError(
                f"--ray {self.config.ray}: {self._deaths} workers have died one after the other, the last on node "
                f"{member.name} ({first_line(text)}); what was finished is kept"
            )
        console.print(f"node {member.name}: a worker died ({first_line(text)})")
        member.died = True
        self.lose(member)
        if member.step != "ready":
            self.blame(member, text)

    def blame(self, member: Member, why: str = "") -> None:
        """Count a death of `member` against its node. After three deaths in a row, start no more workers on the node.

        There is one exception: the node stays in use if `member` was ready and no other node has workers.
        """
        self._failures[member.node] += 1
        others = {other.node for other in self.members.values()} - {member.node}
        if self._failures[member.node] >= _MOST_FAILURES and (others or member.step != "ready"):
            said = f" ({first_line(why)})" if why else ""
            self._tell_refused(member, f"{_MOST_FAILURES} of its workers have died{said}")

    def _next(self, member: Member, answer: Any) -> None:
        """Begin the next step of `member`, whose last step returned `answer`. Raise NodeError if the node is unfit."""
        task = self._task
        if member.step == "hello":
            if answer["headstart"] != version("headstart"):
                raise NodeError(f"it has headstart {answer['headstart']}, the driver has {version('headstart')}")
            member.step = "known"
            if task:
                member.take_step("meet", task)
        elif member.step == "meet" and task:
            task.require_same(answer)
            member.step, member.since = "met", time.monotonic()
            self._let_build(member.since)
        elif member.step == "build":
            if told := self._reference.difference(member.name, answer):
                if not self.config.ray_mixed:
                    self.refuse(member, f"{told}; --ray-mixed uses it all the same", slot_alone=True)
                    return
                console.print(f"node {member.name}: {told}")
            member.step = "ready"
            self._let_build(time.monotonic())

    def _let_build(self, now: float) -> None:
        """Begin the step `build` of each member that may build its network now; see `Reference.may_build`."""
        for member in self.members.values():
            if member.step == "met":
                building = [one for one in self.members.values() if one.step == "build" and one.on_gpu]
                if self._reference.may_build(member.on_gpu, [now - one.since for one in building]):
                    member.take_step("build", self._reference.batch_sizes)

    def refuse(self, member: Member, reason: str, slot_alone: bool = False) -> None:
        """Kill `member`, print `reason`, and close its node to new workers. With `slot_alone`, close only its slot."""
        self._tell_refused(member, reason, slot_alone)
        self.lose(member)  # other workers of the node stay: each of them meets the fault by itself

    def _tell_refused(self, member: Member, reason: str, slot_alone: bool = False) -> None:
        if self._why_refused(member.node, member.slot) is None:
            said = f"node {member.name}: {reason}"
            if slot_alone:
                self.refused_slots[member.node, member.slot] = said
            else:
                self.refused[member.node] = said
            console.print(f"refused {said}", style="yellow")

    def lose(self, member: Member) -> None:
        """Kill a member, and remove it from the crew."""
        self.members.pop((member.node, member.slot), None)
        self.ray.kill(member.actor)

    def dismiss(self) -> None:
        """Kill all members."""
        for member in list(self.members.values()):
            self.ray.kill(member.actor)
        self.members.clear()
