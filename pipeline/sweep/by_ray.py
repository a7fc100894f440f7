"""A search on a Ray cluster: one actor owns the study, and workers on the nodes ask this actor for trials.

The features are put into Ray's object store once, where the workers of a node share one copy.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.connection import connected, load_ray
from headstart.features.cluster.nodes import alive, first_line, slots, why_alone
from headstart.features.errors import HeadstartError
from headstart.features.terminal import console
from headstart.pipeline.scoring.baselines import Baseline
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.leaderboard import live_board
from headstart.pipeline.sweep.owner import StudyOwner
from headstart.pipeline.sweep.space import Space
from headstart.pipeline.sweep.study import MOST_DEATHS, Study
from headstart.pipeline.sweep.trial_worker import TrialWorker
from headstart.pipeline.sweep.trials import OF_MACHINE, POLL_SECONDS, SearchData

_RECRUIT_SECONDS, _ALONE_SECONDS = 2.0, 60.0
_LEAVE_SECONDS = 10.0  # at most, for workers to remove their files
_MOST_FAILURES = 3  # failures of a node's workers, after which the node is left out


def search_by_ray(
    study: Study, data: SearchData, config: SweepConfig, by_ray: ClusterConfig, baselines: Sequence[Baseline] = ()
) -> None:
    """Run trials on a Ray cluster until `config.trials` trials are finished or no trial is left.

    No trial starts later than `config.timeout` seconds after the start of this call. Raises HeadstartError if there is
    no node for a worker, if workers failed on all nodes, or if the study's owner died. Raises OptionError if the
    features are on disk. An error that a head causes is raised, too.
    """
    held = data.require_in_memory()
    until = time.monotonic() + (config.timeout or float("inf"))
    with connected(by_ray.ray, held):
        ray = load_ray()
        here = ray.get_runtime_context().get_node_id()
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        owner = ray.remote(StudyOwner).options(num_cpus=0, scheduling_strategy=near)
        owner = owner.remote(study.path.absolute(), study.space, study.sampler, study.seed)
        searchers = _Searchers(ray, owner, (study.space, study.seed), ray.put(data), config.trials, by_ray)
        with live_board(study, config.trials, baselines) as tick:
            try:
                while len(study.finished()) < config.trials:
                    if time.monotonic() < until and not searchers.ended:
                        searchers.recruit()
                    else:
                        searchers.end()
                        if not searchers.busy:
                            break
                    searchers.look()
                    tick()
            finally:
                searchers.dismiss()


@dataclass(frozen=True)
class _Searcher:
    """A worker of the search. A worker has one slot, which is a share of its node's CPUs and GPUs."""

    actor: Any
    name: str
    node: str  # Ray's ID of the node
    host: str


class _Searchers:
    """The workers of a search: at most one for each slot, which is a share of a node's CPUs and GPUs."""

    def __init__(
        self, ray: Any, owner: Any, search: tuple[Space, int], data: Any, most: int, config: ClusterConfig
    ) -> None:
        self.ray, self.owner, self.search, self.data = ray, owner, search, data
        self.most, self.config = most, config
        self._here: str = ray.get_runtime_context().get_node_id()
        self.ended = False  # a worker found no further trial, for example because the grid is used up
        self._workers: dict[tuple[str, int], _Searcher] = {}  # by node and slot
        self._calls: dict[Any, tuple[str, int]] = {}  # the place of the worker that will answer each call
        self._met: set[str] = set()  # workers that run trials
        self._refused: set[str] = set()  # nodes
        self._failures: Counter[str] = Counter()  # failures of each node since a worker there finished a trial
        self._why = ""
        self._started, self._recruited, self._alone = 0, -float("inf"), time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether some worker has not ended yet."""
        return bool(self._workers)

    def recruit(self) -> None:
        """Start a worker on every free slot, which is a share of a node's CPUs and GPUs.

        Raises a HeadstartError if no node can run a worker.
        """
        now = time.monotonic()
        if now - self._recruited < _RECRUIT_SECONDS:
            return
        self._recruited = now
        for node in alive(self.ray.nodes(), self._here, self.config):
            usable = node["NodeID"] not in self._refused
            for slot, (cpus, gpus) in enumerate(slots(node["Resources"], self.config) if usable else []):
                if (node["NodeID"], slot) not in self._workers:
                    self._start(node, slot, cpus, gpus)
        if self._workers:
            self._alone = now
        elif self._why or now - self._alone > _ALONE_SECONDS:
            raise HeadstartError(self._why or f"{why_alone(self.config, self._started > 0)}; finished trials are kept")

    def _start(self, node: dict[str, Any], slot: int, cpus: int, gpus: float) -> None:
        self._started += 1
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": 2, "scheduling_strategy": where}
        name, host = str(self._started), f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
        actor = self.ray.remote(TrialWorker).options(**options).remote(cpus, name, self.owner)
        self._workers[node["NodeID"], slot] = _Searcher(actor, name, node["NodeID"], host)
        self._calls[actor.hello.remote()] = node["NodeID"], slot

    def end(self) -> None:
        """Refuse all further claims of trials. Dismiss workers without a trial, such as workers that wait for CPUs."""
        with self._owner_named():
            held = self.ray.get(self.owner.end.remote())
        self._dismiss([place for place, worker in self._workers.items() if worker.name not in held])

    def look(self) -> None:
        """Wait briefly for a worker's answer, and handle the answer.

        Raises the error of a worker, unless the worker's machine caused this error.
        """
        if not self._calls:
            time.sleep(POLL_SECONDS)
            return
        for call in self.ray.wait(list(self._calls), num_returns=1, timeout=POLL_SECONDS)[0]:
            place = self._calls.pop(call)
            worker = self._workers[place]
            try:
                self._next(place, worker, self.ray.get(call))
            except self.ray.exceptions.RayTaskError as error:
                cause = self._cause(error)
                if isinstance(cause, HeadstartError) or not isinstance(cause, OF_MACHINE):
                    raise cause from error
                self.ray.kill(worker.actor)
                self._died(place, worker, first_line(str(cause) or type(cause).__name__))
            except self.ray.exceptions.RayError as error:
                self._died(place, worker, first_line(str(error)))

    def _next(self, place: tuple[str, int], worker: _Searcher, answer: Any) -> None:
        """Handle an answer of the worker at `place`.

        The first answer is the worker's version of headstart. The second answer says that this worker finds no further
        trial.
        """
        here = version("headstart")
        if worker.name in self._met:
            self.ended = True
            self._dismiss([place])
        elif answer == here:
            self._met.add(worker.name)
            self._calls[worker.actor.run.remote(*self.search, self.data, self.most)] = place
        else:
            self._refuse(worker, f"it has headstart {answer}, the driver has {here}")
            self._dismiss([place])

    def _died(self, place: tuple[str, int], worker: _Searcher, reason: str) -> None:
        """Forget a worker that died. After `_MOST_FAILURES` such failures, its node gets no more workers."""
        del self._workers[place]
        with self._owner_named():
            left = self.ray.get(self.owner.leave.remote(worker.name, died=True))
        if left.finished:
            self._failures[worker.node] = 0
        console.print(f"node {worker.host}: a worker of the search died ({reason})")
        if left.deaths == MOST_DEATHS:
            console.print(f"{MOST_DEATHS} workers died of one head: its trial failed, and is not repeated")
        self._failures[worker.node] += left.deaths < 2  # a head that had killed a worker before is at fault itself
        if self._failures[worker.node] == _MOST_FAILURES:
            self._refuse(worker, f"workers of the search died ({reason})")

    def _refuse(self, worker: _Searcher, reason: str) -> None:
        if worker.node not in self._refused:
            self._refused.add(worker.node)
            self._why = f"node {worker.host}: {reason}"
            console.print(f"refused {self._why}", style="yellow")

    def _cause(self, error: Any) -> Exception:
        """Return the exception that caused an error in a worker. If the study's owner died, return a HeadstartError."""
        errors = self.ray.exceptions
        while isinstance(error, errors.RayTaskError) and isinstance(error.cause, Exception):
            error = error.cause
        if isinstance(error, errors.RayActorError):
            return self._owner_died(error)
        return error if isinstance(error, Exception) else HeadstartError(first_line(str(error)))

    @contextmanager
    def _owner_named(self) -> Iterator[None]:
        try:
            yield
        except self.ray.exceptions.RayError as error:
            raise self._cause(error) from error

    def _owner_died(self, error: Exception) -> HeadstartError:
        return HeadstartError(
            f"--ray {self.config.ray}: the owner of the study died ({first_line(str(error))}); repeat the command"
        )

    def dismiss(self) -> None:
        """End all workers. Their trials go back to the study."""
        self._dismiss(list(self._workers))

    def _dismiss(self, places: Sequence[tuple[str, int]]) -> None:
        """End the workers at `places`. A place is a node and a slot.

        The workers first get a short time to remove their files.
        """
        workers = [self._workers.pop(place) for place in places]
        self._calls = {call: place for call, place in self._calls.items() if place in self._workers}
        calls = [worker.actor.remove_files.remote() for worker in workers if worker.name in self._met]
        if calls:
            self.ray.wait(calls, num_returns=len(calls), timeout=_LEAVE_SECONDS)
        for worker in workers:
            self.ray.kill(worker.actor)
        with suppress(self.ray.exceptions.RayError):  # the owner died, and its study with it
            self.ray.get([self.owner.leave.remote(worker.name) for worker in workers])
