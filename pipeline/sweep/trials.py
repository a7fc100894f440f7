"""Run trials in one process: claim a trial, train its head, and report the result to the study."""

import time
from collections.abc import Callable, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from headstart.features.errors import DivergedError, OptionError
from headstart.features.signals import asked_to_stop
from headstart.features.tensorflow import tf
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import TrainedHead, fit_head
from headstart.pipeline.head.loop import writing_curves
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.optimizers import release
from headstart.pipeline.scoring.choosing import to_minimise
from headstart.pipeline.scoring.folds import Fold
from headstart.pipeline.sweep.pruning import EpochPruner, successive_halving
from headstart.pipeline.sweep.space import Space
from headstart.pipeline.sweep.study import remove_curves
from tensorboard.plugins.hparams import api as hparams

POLL_SECONDS = 0.5
OUT_OF_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)
# Errors of a machine that lacks something, such as room on a disk. Another machine may run the trial.
OF_MACHINE = (OSError, *OUT_OF_MEMORY)
# Errors that a trial's head did not cause. Another process may run the trial.
_ELSEWHERE = (KeyboardInterrupt, SystemExit, *OF_MACHINE, optuna.exceptions.StorageInternalError)


@dataclass(frozen=True)
class SearchData:
    """The data that all trials of a search share: the features of train and val, and the folds."""

    labelled: LabelledFeatures  # rows of train, then of val; with several folds, it has no views
    folds: Sequence[Fold]  # a trial's figures are means over the folds

    @property
    def training_sizes(self) -> list[int]:
        """Return the number of training examples of each fold."""
        return [len(self.labelled.labels[train]) for train, _ in self.folds]

    def require_in_memory(self) -> int:
        """Raise an OptionError if the features are on disk, where nodes of a cluster can't read them.

        Return how many bytes of memory the features take.
        """
        parts = [self.labelled.features, *self.labelled.views]
        arrays = [part for part in parts if isinstance(part, np.ndarray)]
        if len(arrays) < len(parts):
            raise OptionError(
                "--ray: these features are on disk, and its workers need them in memory; give more --memory"
            )
        return sum(array.nbytes for array in arrays)


class Trials(Protocol):
    """The part of `Study` (in `study.py`) that `run_trials` needs. On a cluster, `ServedStudy` has the same methods."""

    space: Space
    seed: int
    logs: Path

    def claim(self, most: int) -> tuple[Any, int]:
        """Claim the next trial. Return the trial or None, and the number of trials that other processes run.

        The trial is None if no trial can be claimed now; see `Study.claim`.
        """

    def finished(self) -> Sized:
        """Return the trials that are complete or pruned; see `Study.finished`. Callers only count these trials."""

    def give_back(self, trial: Any, too_large: bool = False) -> None:
        """Give a claimed trial back to the study; see `Study.give_back`.

        `too_large` is true if the memory of this process could not hold the trial.
        """

    def fail(self, trial: Any) -> None:
        """Mark a claimed trial as failed for good; see `Study.fail`."""

    def tell(self, trial: Any, value: float | None) -> None:
        """Report the result of a trial; see `Study.tell`. `value` is None if the trial was pruned."""

    def prune_by(self, pruner: optuna.pruners.BasePruner) -> None:
        """Set the pruner, which decides which trials are pruned; see `Study.prune_by`."""


def run_trials(study: Trials, data: SearchData, most: int, until: float, tick: Callable[[], None]) -> None:
    """Run trials until all processes together have finished `most` trials, or until no trial is left.

    No trial starts after the time `until`, in seconds since 1970. `tick` is called after each trial, and regularly
    while this process waits for the trials of other processes. An error in a trial is raised after the trial was given
    back to the study, or marked as failed.
    """
    study.prune_by(successive_halving(data.training_sizes))
    while time.time() < until:
        trial, elsewhere = study.claim(most)
        if trial is None:
            tick()
            if not elsewhere or len(study.finished()) >= most:
                return
            time.sleep(POLL_SECONDS)  # a trial that runs elsewhere can be claimed if its process is killed
            continue
        try:
            _run_trial(study, trial, data)
        except _ELSEWHERE as error:
            study.give_back(trial, isinstance(error, OUT_OF_MEMORY))
            raise
        except Exception as error:
            (study.give_back if asked_to_stop(error) else study.fail)(trial)
            raise
        tick()


def _run_trial(study: Trials, trial: optuna.Trial, data: SearchData) -> None:
    """Train and validate the head of `trial` on each fold, and report the result to the study and TensorBoard."""
    config, cuts = study.space.suggest(trial)
    labelled = data.labelled.at(cuts)
    logs = study.logs / f"trial-{trial.number}"
    remove_curves(logs)
    start = time.perf_counter()
    done: list[TrainedHead] = []
    complete = False
    with suppress(DivergedError):
        for number, (train, val) in enumerate(data.folds, 1):
            pruner = EpochPruner(trial if len(data.folds) == 1 else None, config.choose_by)
            curves = logs / f"fold-{number}"
            trained = _fit(labelled.take(train), labelled.take(val), config, study.seed, pruner, curves)
            release(trained.model.variables)
            done.append(trained)
            if len(data.folds) > 1:
                trial.report(to_minimise(config.choose_by, _means(done)), number)
            if pruner.pruned or (number < len(data.folds) and trial.should_prune()):
                break
        else:
            complete = True
    figures = _means(done)
    trial.set_user_attr("seconds", time.perf_counter() - start)
    if done:
        for name, figure in figures.items():
            trial.set_user_attr(name, figure)
        trial.set_user_attr("best_epoch", max(head.best_epoch for head in done))
    with tf.summary.create_file_writer(str(logs)).as_default():  # TensorBoard's HParams tab reads these
        hparams.hparams(dict(trial.params), trial_id=f"trial-{trial.number}")
        for name, figure in figures.items():
            tf.summary.scalar(f"val_{name}", figure, step=0)
    value = to_minimise(config.choose_by, figures) if done else float("inf")
    kept = complete and np.isfinite(value)
    study.tell(trial, value if kept else None)


def _fit(
    train: LabelledFeatures, val: LabelledFeatures, config: HeadConfig, seed: int, pruner: EpochPruner, logs: Path
) -> TrainedHead:
    """Train one head for all epochs, or until `pruner` stops it. Writes TensorBoard's curves into `logs`."""
    with writing_curves(logs, config.learning_rate) as write:
        return fit_head(train, val, config, seed, on_epoch=lambda *ended: write(*ended) or pruner(*ended))


def _means(done: Sequence[TrainedHead]) -> dict[str, float]:
    """Return the mean of each val figure over the trained heads in `done`. If `done` is empty, return {}."""
    return {name: float(np.mean([head.val[name] for head in done])) for name in (done[0].val if done else ())}
