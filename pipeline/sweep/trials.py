"""What a process of a search does: claim a trial, train its head on features in memory, tell how it went."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import optuna
import tensorflow as tf
from headstart.features.backbones.frozen import use_device
from headstart.features.errors import DataError, HeadstartError
from headstart.features.files import scratch_folder
from headstart.features.terminal import console, silent_libraries
from headstart.pipeline.head.head import fit_head
from headstart.pipeline.optimizers import release
from headstart.pipeline.sweep.baselines import Baseline, Fold
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.leaderboard import live_board
from headstart.pipeline.sweep.space import Space
from headstart.pipeline.sweep.study import Sampler, Study, count_finished
from headstart.pipeline.sweep.worker import begin
from headstart.pipeline.training import curves
from optuna.trial import TrialState
from tensorboard.plugins.hparams import api as hparams

_PATIENCE = 4  # epochs without a better loss on val
_EXAMPLES_BEFORE_A_LOOK, _LATEST_FIRST_LOOK = 4_000, 4
_POLL_SECONDS = 0.5
_NOT_THE_HEADS = (
    KeyboardInterrupt, SystemExit, OSError, MemoryError, tf.errors.ResourceExhaustedError,
    optuna.exceptions.StorageInternalError,
)  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What all trials share.

    Args:
        features: float32 [N, D], of train and then of val.
        labels: int64 [N] in [0, classes).
        columns: where in `features` each cut lies.
        folds: rows to train on and rows to validate on; a trial's loss is the mean over them.
        views: other features [N of train, D], of which each epoch takes one; with one fold only.
        reduced: as of `fit_head`.
    """

    features: np.ndarray
    labels: np.ndarray
    columns: Mapping[str, slice]
    folds: Sequence[Fold]
    classes: int
    views: Sequence[np.ndarray] = ()
    reduced: bool = False

    @property
    def first_look(self) -> int:
        """After how many epochs a head may be given up: one, or more where that is few examples. Or how many folds."""
        if len(self.folds) > 1:
            return 2
        return min(-(-_EXAMPLES_BEFORE_A_LOOK // len(self.folds[0][0])), _LATEST_FIRST_LOOK)

    def at(self, cuts: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Features and views at some cuts, side by side."""
        whole = [self.features, *self.views]
        parts = [np.concatenate([rows[:, self.columns[cut]] for cut in cuts], axis=1) for rows in whole]
        return parts[0], parts[1:]

    def widths(self, cuts: Sequence[str]) -> list[int]:
        """How many columns of `at` each cut has."""
        return [self.columns[cut].stop - self.columns[cut].start for cut in cuts]


def work(study: Study, material: Material, most: int, until: float, seed: int, tell: Callable[[], None]) -> None:
    """Do trials until `most` are finished by all processes together, or the time is `until`.

    Args:
        until: by `time.time()`.
        tell: called now and then.
    """
    study.give_up_from(material.first_look)
    while time.time() < until:
        trial, others = study.claim(most)
        if trial is None:
            tell()
            if not others or count_finished(study.finished()) >= most:
                return
            time.sleep(_POLL_SECONDS)  # for what others are at: if they are killed, it is for us
            continue
        try:
            _do(study, trial, material, seed)
        except _NOT_THE_HEADS:
            study.give_back(trial)
            raise
        except Exception:
            study.fail(trial)
            raise
        tell()


def _do(study: Study, trial: optuna.Trial, material: Material, seed: int) -> None:
    """Train and validate the head of `trial`, and write how that went into the study."""
    config, cuts = study.space.suggest(trial)
    features, views = material.at(cuts)
    losses, accuracies, epochs = [], [], []
    logs = study.logs / f"trial-{trial.number}"
    shutil.rmtree(logs, ignore_errors=True)
    start = time.perf_counter()
    try:
        for number, (train, val) in enumerate(material.folds, 1):
            report = Report(trial if len(material.folds) == 1 else None)
            trained = fit_head(
                (features[train], material.labels[train]),
                (features[val], material.labels[val]),
                material.classes, config, seed, views, [report, curves(logs, f"fold-{number}")],
                reduced=material.reduced, widths=material.widths(cuts),
            )  # fmt: skip
            release(trained.model.variables)
            losses.append(trained.val["loss"])
            accuracies.append(trained.val["accuracy"])
            epochs.append(trained.best_epoch)
            if len(material.folds) > 1:
                trial.report(float(np.mean(losses)), number)
            if report.pruned or (number < len(material.folds) and trial.should_prune()):
                break
    except DataError:  # diverged: as bad as can be
        losses.append(float("inf"))
    trial.set_user_attr("seconds", time.perf_counter() - start)
    if accuracies:
        trial.set_user_attr("accuracy", float(np.mean(accuracies)))
        trial.set_user_attr("best_epoch", max(epochs))
    done = len(losses) == len(material.folds) and not report.pruned and np.isfinite(losses).all()
    with tf.summary.create_file_writer(str(logs)).as_default():
        hparams.hparams(dict(trial.params), trial_id=f"trial-{trial.number}")
        tf.summary.scalar("val_loss", float(np.mean(losses)), step=0)
    if done:
        study.optuna.tell(trial, float(np.mean(losses)))
    else:
        study.optuna.tell(trial, state=TrialState.PRUNED)


class Report(keras.callbacks.Callback):
    """Ends a training that is no use: one that the pruner gives up, or that has found nothing better for long.

    Args:
        trial: told of the best loss on val so far after each epoch; None where the pruner goes by folds.
    """

    def __init__(self, trial: optuna.Trial | None) -> None:
        super().__init__()
        self.trial = trial
        self.pruned = False
        self._best, self._since = float("inf"), 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at `val_loss`."""
        loss = (logs or {})["val_loss"]
        if loss < self._best:
            self._best, self._since = loss, 0
        else:
            self._since += 1
        if self.trial is not None and np.isfinite(self._best):
            self.trial.report(self._best, epoch + 1)
            self.pruned = self.trial.should_prune()
        if self.pruned or self._since >= _PATIENCE:
            self.model.stop_training = True


def search(
    study: Study, material: Material, config: SweepConfig, seed: int, baselines: Sequence[Baseline] = ()
) -> None:
    """Do what is left of `config.trials`, in this process or in `config.jobs` of its own, showing how far it is.

    Args:
        baselines: shown beside the best trials.

    Raises:
        HeadstartError: processes of its own failed.
    """
    tf.get_logger().setLevel("ERROR")  # each head is a graph of its own, which TensorFlow warns of
    until = time.time() + (config.timeout or float("inf"))
    with live_board(study, config.trials, baselines) as tell:
        if config.jobs == 1:
            work(study, material, config.trials, until, seed, tell)
            return
        with scratch_folder(study.path.parent) as folder:
            _work_apart(study, material, folder, config, until, tell)


def _work_apart(
    study: Study, material: Material, folder: Path, config: SweepConfig, until: float, tell: Callable[[], None]
) -> None:
    """`work` in several processes, which read one copy of the features on disk."""
    for number, rows in enumerate([material.features, *material.views]):
        np.save(folder / f"{number}.npy", rows)
    apart = replace(material, features=np.empty(0), views=())
    spawn = multiprocessing.get_context("spawn")
    settings = (study.path, study.space, study.sampler, study.seed)
    arguments = (settings, apart, folder, config.trials, until, os.getpid())
    pickled = (pickle.dumps(arguments),)
    workers = [spawn.Process(target=begin, args=pickled, daemon=True) for _ in range(config.jobs)]
    try:
        with _surroundings_of_workers(max(1, (os.cpu_count() or 1) // config.jobs)):
            for worker in workers:
                worker.start()
        while any(worker.is_alive() for worker in workers):
            tell()
            time.sleep(_POLL_SECONDS)
    finally:
        for worker in workers:
            if worker.pid:
                worker.terminate()  # a trial in hand is given out again by the next start
                worker.join()
    failed = [worker for worker in workers if worker.exitcode]
    if failed and count_finished(study.finished()) < config.trials and time.time() < until:
        codes = ", ".join(str(worker.exitcode) for worker in failed)
        raise HeadstartError(
            f"--jobs {config.jobs}: {len(failed)} processes of the search failed (exit codes {codes}); what was "
            "finished is kept: repeat the command to go on, with fewer --jobs if memory was short"
        )


@contextmanager
def _surroundings_of_workers(threads: int) -> Iterator[None]:
    """What a process that is started within has from its first moment on: no Ctrl-C, few threads, a quiet import."""
    changed = {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(
    settings: tuple[Path, Space, Sampler, int], material: Material, folder: Path, most: int, until: float, parent: int
) -> None:
    """What a process of `search` does, begun by `worker.begin`."""
    with silent_libraries():
        use_device()
    tf.get_logger().setLevel("ERROR")
    files = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    features, *views = (np.load(file, mmap_mode="r") for file in files)
    study = Study(*settings)

    def leave_if_alone() -> None:
        if os.getppid() != parent:
            raise SystemExit

    try:
        with study.faults_named():
            work(study, replace(material, features=features, views=views), most, until, study.seed, leave_if_alone)
    except (HeadstartError, OSError, MemoryError, tf.errors.ResourceExhaustedError) as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        console.print(f"a process of the search failed: {told}", style="red")
        raise SystemExit(1) from error
