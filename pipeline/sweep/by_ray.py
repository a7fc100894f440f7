"""A search on a Ray cluster: one actor owns the study, and workers on the nodes ask it for trials.

The features are put into Ray's object store once, where the workers of a node share one copy.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.connection import connected, load_ray
from headstart.features.cluster.nodes import slots
from headstart.features.errors import HeadstartError, OptionError
from headstart.features.terminal import console
from headstart.pipeline.scoring.baselines import Baseline
from headstart.pipeline.sweep.config import Sampler, SweepConfig
from headstart.pipeline.sweep.leaderboard import live_board
from headstart.pipeline.sweep.space import Space
from headstart.pipeline.sweep.study import Study, remove_curves
from headstart.pipeline.sweep.trial_worker import TrialWorker
from headstart.pipeline.sweep.trials import POLL_SECONDS, SearchData

_RECRUIT_SECONDS, _ALONE_SECONDS = 2.0, 60.0
_MOST_FAILURES = 3  # of a node's workers, before the node is left out


class StudyOwner:
    """The owner of a study: an actor on the driver's node that claims trials for workers, and records their results.

    It opens the study once for each worker. If a worker dies, its study is closed, and its trial can be claimed again.
    """

    def __init__(self, path: Path, space: Space, sampler: Sampler, seed: int) -> None:
        self._arguments = path, space, sampler, seed
        self._studies: dict[str, Study] = {}
        self._trials: dict[str, optuna.Trial] = {}

    def claim(self, worker: str, most: int, pruner: Any) -> tuple[tuple[int, dict[str, Any]] | None, int, int]:
        """Claim a trial for `worker`. Return its number and parameters, or None; and the trials that run and are done.

        The number of trials that run elsewhere, and the number of finished trials, follow `Study.claim`.
        """
        if worker not in self._studies:
            self._studies[worker] = Study(*self._arguments)
        study = self._studies[worker]
        study.prune_by(pruner)
        trial, elsewhere = study.claim(most)
        if trial is None:
            return None, elsewhere, len(study.finished())
        self._trials[worker] = trial
        return (trial.number, dict(trial.params)), elsewhere, len(study.finished())

    def report(self, worker: str, value: float, step: int) -> bool:
        """Record the value of an epoch or fold. Return whether the trial should end."""
        trial = self._trials[worker]
        trial.report(value, step)
        return trial.should_prune()

    def tell(
        self, worker: str, attributes: Mapping[str, Any], value: float | None, curves: Mapping[str, bytes]
    ) -> None:
        """Record the result of a trial, and write its curves, the files of TensorBoard by name, beside the study."""
        trial, study = self._trials.pop(worker), self._studies[worker]
        logs = study.logs / f"trial-{trial.number}"
        remove_curves(logs)
        for name, content in curves.items():
            file = logs / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
        study.tell(trial, value)

    def give_back(self, worker: str) -> None:
        """Return the trial of a worker to the study."""
        self._studies[worker].give_back(self._trials.pop(worker))

    def fail(self, worker: str) -> None:
        """Mark the trial of a worker as failed for good."""
        self._studies[worker].fail(self._trials.pop(worker))

    def leave(self, worker: str) -> None:
        """Close the study of a worker that has ended or died."""
        if worker in self._trials:
            self.give_back(worker)
        self._studies.pop(worker, None)


def search_by_ray(
    study: Study, data: SearchData, config: SweepConfig, by_ray: ClusterConfig, baselines: Sequence[Baseline] = ()
) -> None:
    """Run trials on a Ray cluster until `config.trials` are finished, or until the time `config.timeout` is over.

    Raises HeadstartError if there is no node for a worker, or if workers failed on all nodes; and OptionError if the
    features are on disk.
    """
    parts = [data.labelled.features, *data.labelled.views]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) < len(parts):
        raise OptionError("--ray: these features are on disk, and its workers need them in memory; give more --memory")
    until = time.monotonic() + (config.timeout or float("inf"))
    with connected(by_ray.ray, sum(array.nbytes for array in arrays)):
        ray = load_ray()
        here = ray.get_runtime_context().get_node_id()
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        owner = ray.remote(StudyOwner).options(num_cpus=0, scheduling_strategy=near)
        owner = owner.remote(study.path.absolute(), study.space, study.sampler, study.seed)
        searchers = _Searchers(ray, owner, (study.space, study.seed), ray.put(data), config.trials, by_ray)
        with live_board(study, config.trials, baselines) as tick:
            try:
                while len(study.finished()) < config.trials:
                    left = until - time.monotonic()
                    if left > 0 and not searchers.ended:
                        searchers.recruit(left)
                    elif not searchers.busy:
                        break
                    searchers.look()
                    tick()
            finally:
                searchers.dismiss()


class _Searchers:
    """The workers of a search, at most one on each slot of the nodes."""

    def __init__(
        self, ray: Any, owner: Any, search: tuple[Space, int], data: Any, most: int, config: ClusterConfig
    ) -> None:
        self.ray, self.owner, self.search, self.data = ray, owner, search, data
        self.most, self.config = most, config
        self.ended = False  # a worker found no further trial, as those of a grid
        self._workers: dict[tuple[str, int], tuple[Any, Any, str]] = {}  # actor, call and name, by node and slot
        self._failures: Counter[str] = Counter()  # of each node
        self._why = ""
        self._started, self._recruited, self._alone = 0, -float("inf"), time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether a worker has not ended yet."""
        return bool(self._workers)

    def recruit(self, seconds: float) -> None:
        """Start a worker on every free slot, which may begin trials for `seconds`."""
        now = time.monotonic()
        if now - self._recruited < _RECRUIT_SECONDS:
            return
        self._recruited = now
        for node in self.ray.nodes():
            usable = node["Alive"] and self._failures[node["NodeID"]] < _MOST_FAILURES
            for slot, (cpus, gpus) in enumerate(slots(node["Resources"], self.config) if usable else []):
                if (node["NodeID"], slot) not in self._workers:
                    self._start(node["NodeID"], slot, cpus, gpus, seconds)
        if self._workers:
            self._alone = now
        elif self._why or now - self._alone > _ALONE_SECONDS:
            raise HeadstartError(self._why or f"--ray {self.config.ray}: no node has the CPUs for a worker")

    def _start(self, node: str, slot: int, cpus: int, gpus: float, seconds: float) -> None:
        self._started += 1
        name = str(self._started)
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": where}
        actor = self.ray.remote(TrialWorker).options(**options).remote(cpus, name, self.owner)
        call = actor.run.remote(version("headstart"), *self.search, self.data, self.most, seconds)
        self._workers[node, slot] = actor, call, name

    def look(self) -> None:
        """Wait shortly for a worker to end. The trial of a dead worker goes back to the study."""
        calls = {call: place for place, (_, call, _) in self._workers.items()}
        if not calls:
            time.sleep(POLL_SECONDS)
            return
        for call in self.ray.wait(list(calls), num_returns=1, timeout=POLL_SECONDS)[0]:
            place = calls[call]
            actor, _, name = self._workers.pop(place)
            try:
                self.ray.get(call)
                self.ended = True
            except self.ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from error
            except self.ray.exceptions.RayError as error:
                self._failures[place[0]] += 1
                self._why = (
                    f"--ray {self.config.ray}: workers of the search died ({' '.join(str(error).split())[:200]})"
                )
                console.print(f"node {place[0][:8]}: a worker of the search died")
            self.ray.get(self.owner.leave.remote(name))
            self.ray.kill(actor)

    def dismiss(self) -> None:
        """Kill all workers. Their trials go back to the study."""
        with suppress(self.ray.exceptions.RayError):
            for actor, _, name in self._workers.values():
                self.ray.kill(actor)
                self.ray.get(self.owner.leave.remote(name))
