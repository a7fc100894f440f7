"""A worker of a search on a cluster: it gets trials from the study's owner, and sends results back."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sized
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial


class ServedTrial(FixedTrial):
    """A trial with parameters from the owner of its study. Reports go to the owner."""

    def __init__(self, number: int, params: dict[str, Any], report: Callable[[float, int], bool]) -> None:
        super().__init__(params, number)
        self.attributes: dict[str, Any] = {}
        self._report_to_owner, self._prune = report, False

    def report(self, value: float, step: int) -> None:
        """Send a figure, which the search minimises, to the study's owner.

        `step` is the number of the figure's epoch or fold.
        """
        self._prune = self._report_to_owner(value, step)

    def should_prune(self) -> bool:
        """Return whether the trial should end: the owner's answer to the last report."""
        return self._prune

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep an attribute. The owner gets it with the result of the trial."""
        self.attributes[key] = value


class ServedStudy:
    """Stands for a `Study` in a worker of a Ray cluster. It has the methods of `Study` that `run_trials` needs.

    Most methods send a request to the process that owns the study; see `owner.py`.
    """

    def __init__(self, worker: str, owner: Any, space: Any, seed: int, logs: Path) -> None:
        self.space, self.seed, self.logs = space, seed, logs
        self._worker, self._owner = worker, owner
        self._pruner: Any = None
        self._finished = 0

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._owner, method).remote(self._worker, *arguments))

    def claim(self, most: int) -> tuple[ServedTrial | None, int]:
        """Claim the next trial. Return the trial or None, and the number of trials that other processes run.

        The trial is None if no trial can be claimed now; see `Study.claim`.
        """
        claimed, elsewhere, self._finished = self._ask("claim", most, self._pruner)
        if claimed is None:
            return None, elsewhere
        number, params = claimed
        return ServedTrial(number, params, lambda value, step: bool(self._ask("report", value, step))), elsewhere

    def finished(self) -> Sized:
        """Return an object whose length is the number of trials that were finished when `claim` was last called."""
        return range(self._finished)

    def give_back(self, trial: ServedTrial, too_large: bool = False) -> None:
        """Give a claimed trial back to the study; see `Study.give_back`.

        `too_large` says that the memory of this worker could not hold the trial. If `too_large` is true, this method
        does nothing, and the study's owner deals with the trial later; see `StudyOwner.leave`.
        """
        if not too_large:
            self._ask("give_back")

    def fail(self, trial: ServedTrial) -> None:
        """Mark a claimed trial as failed for good; see `Study.fail`."""
        self._ask("fail")

    def tell(self, trial: ServedTrial, value: float | None) -> None:
        """Report the result of a trial; see `Study.tell`. `value` is None if the trial was pruned.

        The trial's curves are sent, too, because this node may not see the study's folder.
        """
        folder = self.logs / f"trial-{trial.number}"
        files = [file for file in folder.rglob("*") if file.is_file()]
        curves = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        self._ask("tell", trial.attributes, value, curves)
        shutil.rmtree(folder, ignore_errors=True)

    def prune_by(self, pruner: Any) -> None:
        """Keep the pruner, and send it with each `claim`; see `Study.prune_by`."""
        self._pruner = pruner


class TrialWorker:
    """Runs trials as an actor on a node of a cluster."""

    def __init__(self, cpus: int, name: str, owner: Any) -> None:
        os.environ["HEADSTART_CPUS"] = str(cpus)  # before TensorFlow starts, which takes its number of threads once
        self._name, self._owner = name, owner
        self._files: Path | None = None

    def hello(self) -> str:
        """Return the version of headstart on this node.

        If the driver has another version, this worker may be unable to read the arguments of `run`.
        """
        return version("headstart")

    def run(self, space: Any, seed: int, data: Any, most: int) -> None:
        """Run trials until the number of the study's finished trials reaches `most`, or until no trial is left.

        The finished trials of all workers count. `space` is a `Space`, and `data` is a `SearchData`.
        """
        from headstart.pipeline.sweep.trials import run_trials

        with tempfile.TemporaryDirectory(prefix="headstart-trials-", ignore_cleanup_errors=True) as files:
            self._files = Path(files)
            study = ServedStudy(self._name, self._owner, space, seed, self._files)
            run_trials(study, data, most, math.inf, lambda: None)

    def remove_files(self) -> None:
        """Remove the files of the current trial. Any thread may call this method.

        The driver calls this method before it kills the worker.
        """
        if self._files:
            shutil.rmtree(self._files, ignore_errors=True)
