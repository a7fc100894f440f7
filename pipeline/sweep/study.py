"""A search on disk: an Optuna study that several processes can fill. Interrupted trials are run again."""

import json
import uuid
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import IO, Any, ClassVar

import optuna
from headstart.features.errors import OptionError, StoreError
from headstart.features.locks import lock
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.sweep.config import Sampler
from headstart.pipeline.sweep.sound import differences, require_no_other_database, require_sound
from headstart.pipeline.sweep.space import Space
from optuna.trial import FrozenTrial, TrialState

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_NAME = "headstart"
_OWNER, _REPLACES, _FAULTY, _DIED = "worker", "replaces", "faulty", "died"  # keys of a trial's attributes
MOST_DEATHS = 3  # of workers that had the same head
_LOCK_SECONDS = 60


class Study:
    """The study in the SQLite file `path`, which is created if missing. `optuna-dashboard` can open the file, too.

    A trial's parameters depend on `sampler`, `seed`, the trial's number and the earlier trials. Raises OptionError if
    `path` can't name a study, and StoreError if the file can't be written, or can't be opened as a study.
    """

    def __init__(self, path: Path, space: Space, sampler: Sampler, seed: int) -> None:
        if not path.name or (path.exists() and not path.is_file()) or "?" in str(path):
            raise OptionError(f"--study must be a file, with no ? in its name. Received: {path}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path, self.logs = path, path.with_name(f"{path.name}.logs")
        self.space, self.sampler, self.seed = space, sampler, seed
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(path, error) from error
        with self.locked():
            self.optuna = self._open()
            self._worker = _Worker(path)

    def __reduce__(self) -> tuple[type["Study"], tuple[Path, Space, Sampler, int]]:
        return Study, (self.path, self.space, self.sampler, self.seed)  # worker processes open the study again

    def _open(self) -> optuna.Study:
        arguments = {"connect_args": {"timeout": _LOCK_SECONDS}}
        try:
            require_no_other_database(self.path)
            storage = optuna.storages.RDBStorage(f"sqlite:///{self.path.absolute()}", engine_kwargs=arguments)
            study = optuna.create_study(storage=storage, study_name=_NAME, load_if_exists=True, direction="minimize")
            require_sound(study)
            return study
        except Exception as error:  # SQLAlchemy has errors of its own for a file that is no database
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise StoreError(
                f"--study {self.path}: can't be opened as a study ({reason}); if it lies on a network's disk that "
                "can't lock files, name a file on a local disk"
            ) from error

    def require_same(self, identity: Mapping[str, Any], part: str = "identity") -> Mapping[str, Any]:
        """Raise an OptionError if the study was made with other data or settings than `identity` describes.

        The argument `part` is the name of a record in the study. If the study has no such record, `identity` is
        recorded. Otherwise, `identity` is compared with the record. The error message tells the differences. If there
        is no error, the record is returned.
        """
        now: dict[str, Any] = json.loads(json.dumps(identity))
        with self.locked():
            then: dict[str, Any] | None = self.optuna.user_attrs.get(part)
            if then is None:
                if not self.optuna.get_trials(deepcopy=False):
                    for folder in self.logs.glob("trial-*"):  # curves of a study that was deleted
                        remove_curves(folder)
                self.optuna.set_user_attr(part, now)
                return now
        if told := differences(then, now):
            raise OptionError(
                f"--study {self.path}: was made with other data or settings: {told}; give another --study"
            )
        return then

    def read_as(self, asked: DataConfig) -> DataConfig:
        """Return the settings with which to read the study's data.

        If `asked` differs from the defaults, the result is `asked`. Otherwise, the result is the last record of
        `keep_reading`. Without such a record, there are two cases. For a new study, the result is the defaults. For a
        study begun before version 0.2, the result is the defaults, but with the layout `v1`.
        """
        attributes = self.optuna.user_attrs
        begun = attributes.get("reading", {"layout": "v1"} if "identity" in attributes else {})
        return DataConfig(**begun) if asked == DataConfig() else asked

    def keep_reading(self, reading: DataConfig) -> None:
        """Record how the study's data are read, for `read_as`."""
        self.optuna.set_user_attr("reading", asdict(reading))

    def claim(self, most: int) -> tuple[optuna.Trial | None, int]:
        """Claim the next trial. Return the trial, and the number of trials that run in other processes.

        The trial is None if the number of finished and running trials is at least `most`, or if the grid is used up. If
        another process dies, a later call can claim the trials of that process.
        """
        with self.locked():
            for unfinished in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                owner = unfinished.user_attrs.get(_OWNER)
                if owner in (None, self._worker.name) or _Worker.ended(self.path, owner):
                    self._cut_off(unfinished)
            trials = self.optuna.get_trials(deepcopy=False)
            running = sum(trial.state == TrialState.RUNNING for trial in trials)
            enough = sum(trial.state in _FINISHED for trial in trials) + running >= most
            if enough or (self.sampler == "grid" and not self._enqueue_from_grid(trials)):
                return None, running
            # Each trial has a sampler with its own seed. A sampler's state is not saved, so with one seed for all, each
            # start would draw the same heads. TPE: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization".
            kind = optuna.samplers.TPESampler if self.sampler == "tpe" else optuna.samplers.RandomSampler
            self.optuna.sampler = kind(seed=(self.seed * 1_000_003 + len(trials)) % 2**32)
            trial = self.optuna.ask()
            trial.set_user_attr(_OWNER, self._worker.name)
            self.space.suggest(trial)  # within the lock, so that the study has all parameters if this process is killed
            return trial, running

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        """Mark a claimed trial as pruned if `value` is None, else as complete. The study minimises `value`."""
        self.optuna.tell(trial, value, TrialState.PRUNED if value is None else None)

    def prune_by(self, pruner: optuna.pruners.BasePruner) -> None:
        """Set the pruner of the study, which decides which trials are pruned."""
        self.optuna.pruner = pruner

    def give_back(self, trial: optuna.Trial, too_large: bool = False) -> None:
        """Give a claimed trial back to the study, so that another process can run it. `too_large` is not used."""
        with self.locked():
            self._cut_off(self.optuna.trials[trial.number])

    def fail(self, trial: optuna.Trial) -> None:
        """Mark a claimed trial as failed for good. Its head is not queued again, as it would fail elsewhere, too."""
        trial.set_user_attr(_FAULTY, True)
        self.optuna.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def die(self, trial: optuna.Trial) -> int:
        """Record the death of the worker that ran `trial`.

        Return how many workers have died in trials of the same head as `trial`. If this number is below `MOST_DEATHS`,
        give `trial` back to the study. Otherwise, `trial` fails; see `fail`.
        """
        trial.set_user_attr(_DIED, True)
        head = json.dumps(trial.params, sort_keys=True)
        deaths = sum(
            bool(other.user_attrs.get(_DIED)) and json.dumps(other.params, sort_keys=True) == head
            for other in self.optuna.get_trials(deepcopy=False)
        )
        (self.give_back if deaths < MOST_DEATHS else self.fail)(trial)
        return deaths

    def _cut_off(self, trial: FrozenTrial) -> None:
        """Mark an interrupted trial as failed, and let a new trial try its head."""
        if trial.state != TrialState.RUNNING:
            return
        params = trial.system_attrs.get("fixed_params") or trial.params
        replaced = any(other.user_attrs.get(_REPLACES) == trial.number for other in self.optuna.trials)
        if params and not replaced and self.sampler != "grid":  # `_enqueue_from_grid` finds the head again
            self.optuna.enqueue_trial(params, user_attrs={_REPLACES: trial.number})
        # Queued before this, so that a call that is killed between the two can be repeated.
        self.optuna.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _enqueue_from_grid(self, trials: list[FrozenTrial]) -> bool:
        """If the queue is empty, add one untried point of the grid. Return False if the queue stays empty."""
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        taken = {
            json.dumps(trial.params, sort_keys=True)
            for trial in trials
            if trial.state != TrialState.FAIL or trial.user_attrs.get(_FAULTY)
        }
        left = next((params for params in self._grid if json.dumps(params, sort_keys=True) not in taken), None)
        if left is not None:
            self.optuna.enqueue_trial(left)
        return left is not None

    @cached_property
    def _grid(self) -> list[dict[str, Any]]:
        return self.space.grid(self.seed)

    def enqueue_first(self, params: Mapping[str, Any]) -> None:
        """Queue the head with the parameters `params` as the first trial of a new study.

        If the study has trials, or if the sampler is `grid`, nothing happens.
        """
        with self.locked():
            if not self.optuna.get_trials(deepcopy=False) and self.sampler != "grid":
                self.optuna.enqueue_trial(dict(params))

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that are complete or pruned."""
        return self.optuna.get_trials(deepcopy=False, states=_FINISHED)

    @contextmanager
    def storage_errors_named(self) -> Iterator[None]:
        """While the context is open, turn a database error (full disk, lasting lock, damage) into a StoreError."""
        try:
            yield
        except optuna.exceptions.StorageInternalError as error:
            raise StoreError(
                f"--study {self.path}: can't be read or written ({error.__cause__ or error}); what was finished is kept"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While the context is open, hold the study's lock, so that no other process changes the study."""
        with _locked_file(self.path, "lock"):
            yield


def remove_curves(folder: Path) -> None:
    """Remove TensorBoard's files from a trial's `folder`, and then the folders that are empty. Other files stay."""
    for file in folder.rglob("events.out.tfevents.*"):
        file.unlink(missing_ok=True)
    for inner in [*folder.glob("fold-*/*"), *folder.glob("fold-*"), folder]:
        with suppress(OSError):  # it is missing, or not empty
            inner.rmdir()


class _Worker:
    """A file whose lock shows that this process is alive. The kernel releases the lock when the process ends."""

    # Names of this process's workers. A POSIX lock does not keep out its own process, which must not even open the file
    # again: when it closes any file, it loses its POSIX locks on this file.
    _here: ClassVar[set[str]] = set()

    def __init__(self, study: Path) -> None:
        for left in study.parent.glob(f".{escape(study.name)}.*.worker"):
            with suppress(OSError):  # it is no file, or of somebody else
                self.ended(study, left.name.split(".")[-2])
        self.name = uuid.uuid4().hex  # no process ID, which a later process may get, too
        weakref.finalize(self, self._leave, self.name, _locked_file(study, f"{self.name}.worker"))
        self._here.add(self.name)

    @classmethod
    def _leave(cls, name: str, file: IO[str]) -> None:
        _release(file)
        cls._here.discard(name)

    @classmethod
    def ended(cls, study: Path, name: str) -> bool:
        """Return whether the worker named `name` has ended. If so, remove its file, which lies beside `study`."""
        if name in cls._here:
            return False
        with suppress(FileNotFoundError), _beside(study, f"{name}.worker").open("r+") as file:
            try:
                lock(file, wait=False)
            except BlockingIOError:
                return False
            _release(file)
        return True


def _beside(study: Path, ending: str) -> Path:
    return study.with_name(f".{study.name}.{ending}")


def _locked_file(study: Path, ending: str) -> IO[str]:
    """Open and lock the file beside `study` whose name ends with `ending`."""
    try:
        file = _beside(study, ending).open("w")
    except OSError as error:
        raise _unwritable(study, error) from error
    try:
        lock(file)
    except OSError as error:
        _release(file)
        raise StoreError(
            f"--study {study}: its disk can't lock files ({error.strerror}), which a search needs; name a file on a "
            "local disk"
        ) from error
    return file


def _unwritable(study: Path, error: OSError) -> StoreError:
    return StoreError(f"--study {study}: can't be written ({error.strerror}); name a file that can be written to")


def _release(file: IO[str]) -> None:
    Path(file.name).unlink(missing_ok=True)
    file.close()
