"""The owner of a study: it claims trials for workers in other processes, and records the results."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from headstart.features.errors import HeadstartError, StoreError
from headstart.pipeline.sweep.config import Sampler
from headstart.pipeline.sweep.space import Space
from headstart.pipeline.sweep.study import Study, remove_curves


@dataclass(frozen=True)
class Left:
    """Two counts for a worker that has ended or died."""

    finished: int  # number of trials that the worker finished
    deaths: int  # workers that died with the same head, this worker included; 0 if it did not die in a trial


class StudyOwner:
    """The owner of a study: an actor on the driver's node that claims trials for workers, and records the results.

    The owner opens the study once for each worker. If a worker dies, the owner closes the study that it opened for the
    worker. The worker's trial can then be claimed by another worker.
    """

    def __init__(self, path: Path, space: Space, sampler: Sampler, seed: int) -> None:
        self._arguments = path, space, sampler, seed
        self._studies: dict[str, Study] = {}
        self._trials: dict[str, optuna.Trial] = {}
        self._finished: Counter[str] = Counter()  # trials of each worker
        self._over = False
        self._left: set[str] = set()  # a claim of a worker may arrive after its death was noticed

    def claim(self, worker: str, most: int, pruner: Any) -> tuple[tuple[int, dict[str, Any]] | None, int, int]:
        """Claim a trial for the worker whose name is `worker`. `pruner` decides which trials end early.

        If `end` was called, or if the worker has left, the result is (None, 0, 0). Raises StoreError if the study can't
        be opened or locked.

        Returns:
            The number and the parameters of the trial. None if no trial is left, or if the number of finished and
            running trials has reached the limit `most`.
            The number of other trials that are running.
            The number of finished trials.
        """
        if self._over or worker in self._left:
            return None, 0, 0
        with _of_study(self._arguments[0]):
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
        """Record, in the trial of `worker`, the value of an epoch or fold. Return whether this trial should end.

        `step` is the number of the epoch or fold.
        """
        trial = self._trials[worker]
        trial.report(value, step)
        return trial.should_prune()

    def tell(
        self, worker: str, attributes: Mapping[str, Any], value: float | None, curves: Mapping[str, bytes]
    ) -> None:
        """Record the result of the trial of `worker`. `value` is None if the trial was pruned.

        `attributes` are stored with the trial. `curves` maps the names of TensorBoard's files to the contents of the
        files. The files are written beside the study. Raises StoreError if the files can't be written.
        """
        trial, study = self._trials[worker], self._studies[worker]
        with _of_study(study.path):
            _write_curves(study.logs / f"trial-{trial.number}", curves)
        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
        study.tell(trial, value)
        del self._trials[worker]
        self._finished[worker] += 1

    def give_back(self, worker: str) -> None:
        """Give the trial of `worker` back to the study, if the worker has a trial."""
        if trial := self._trials.pop(worker, None):
            self._studies[worker].give_back(trial)

    def fail(self, worker: str) -> None:
        """Mark the trial of `worker` as failed for good, if the worker has a trial."""
        if trial := self._trials.pop(worker, None):
            self._studies[worker].fail(trial)

    def end(self) -> list[str]:
        """Refuse all further claims. Return the names of the workers that have a trial."""
        self._over = True
        return list(self._trials)

    def leave(self, worker: str, died: bool = False) -> Left:
        """Stop serving `worker`, which has ended or died. Return the worker's counts.

        If the worker still has a trial, the trial goes back to the study; see `Study.give_back`. If `died` is true,
        the trial may fail for good instead; see `Study.die`.
        """
        self._left.add(worker)
        trial, study = self._trials.pop(worker, None), self._studies.pop(worker, None)
        deaths = 0
        if trial and study and died:
            deaths = study.die(trial)
        elif trial and study:
            study.give_back(trial)
        return Left(self._finished.pop(worker, 0), deaths)


@contextmanager
def _of_study(path: Path) -> Iterator[None]:
    """While the context is open, turn an OSError into a StoreError that names `path`, the file of the study."""
    try:
        yield
    except HeadstartError:
        raise
    except OSError as error:  # the driver would take it for an error of the worker's machine
        raise StoreError(
            f"--study {path}: it or TensorBoard's files beside it can't be read or written ({error}); what was "
            "finished is kept: mend this, and repeat the command"
        ) from error


def _write_curves(logs: Path, curves: Mapping[str, bytes]) -> None:
    """Remove TensorBoard's files from the folder `logs`, and write new files into it.

    `curves` maps the names of the new files to their contents.
    """
    remove_curves(logs)
    for name, content in curves.items():
        file = logs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
