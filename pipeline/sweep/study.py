"""A search on disk: an Optuna study that several processes fill. A trial that was cut off is done again."""

import fcntl
import json
import re
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import optuna
from headstart.features.errors import OptionError, StoreError
from headstart.pipeline.sweep.space import Space
from optuna.trial import FrozenTrial, TrialState

Sampler = Literal["tpe", "random", "grid"]
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_NAME = "headstart"
_OWNER, _REPLACES, _FAULTY = "worker", "replaces", "faulty"  # attributes of a trial
_LOCK_SECONDS = 60


class Study:
    """The study in the SQLite file `path`, made where there is none; `optuna-dashboard` opens it too.

    `sampler`, `seed`, a trial's number and the trials before it decide the trial's parameters.
    """

    def __init__(self, path: Path, space: Space, sampler: Sampler, seed: int) -> None:
        if not path.name or path.is_dir() or "?" in str(path):
            raise OptionError(f"--study must be a file, with no ? in its name. Received: {path}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path, self.logs = path, path.with_name(f"{path.name}.logs")
        self.space, self.seed = space, seed
        self.sampler: Sampler = sampler
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.locked():
            self.optuna = self._open()
        self._worker = _Worker(path)

    def _open(self) -> optuna.Study:
        arguments = {"connect_args": {"timeout": _LOCK_SECONDS}}
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{self.path.absolute()}", engine_kwargs=arguments)
            return optuna.create_study(storage=storage, study_name=_NAME, load_if_exists=True, direction="minimize")
        except Exception as error:  # SQLAlchemy has errors of its own for a file that is no database
            reason = str(error).splitlines()[0]
            raise StoreError(f"--study {self.path}: can't be opened as a study ({reason})") from error

    def require_same(self, identity: Mapping[str, Any], part: str = "identity") -> None:
        """Keep data and settings of a new study as its `part`; raise OptionError, with names, if others are kept."""
        now = json.loads(json.dumps(identity))
        with self.locked():
            then = self.optuna.user_attrs.get(part)
            if then is None:
                if not self.optuna.get_trials(deepcopy=False):
                    for folder in self.logs.glob("trial-*"):  # curves of a study that was deleted
                        remove_curves(folder)
                self.optuna.set_user_attr(part, now)
                return
        differs = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
        if differs:
            told = "; ".join(f"{name} was {_short(then.get(name))}, is {_short(now.get(name))}" for name in differs)
            raise OptionError(
                f"--study {self.path}: was made with other data or settings: {told}; give another --study"
            )

    def claim(self, most: int) -> tuple[optuna.Trial | None, int]:
        """Claim the next trial; also return how many are running elsewhere.

        The trial is None if `most` are finished or running. Trials of dead processes are given out again first. So
        there may be more to do later as long as trials are running elsewhere.
        """
        with self.locked():
            for unfinished in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                owner = unfinished.user_attrs.get(_OWNER)
                if owner == self._worker.name or _Worker.ended(self.path, owner):
                    self._cut_off(unfinished)
            trials = self.optuna.get_trials(deepcopy=False)
            running = sum(trial.state == TrialState.RUNNING for trial in trials)
            if count_finished(trials) + running >= most:
                return None, running
            if self.sampler == "grid" and not self._enqueue_from_grid(trials):
                return None, running
            self.optuna.sampler = _make_sampler(self.sampler, self.seed, len(trials))
            trial = self.optuna.ask()
            trial.set_user_attr(_OWNER, self._worker.name)
            self.space.suggest(trial)  # within the lock, so that the study has all parameters if this process is killed
            return trial, running

    def give_back(self, trial: optuna.Trial) -> None:
        """Give a claimed trial back, to be done by another."""
        with self.locked():
            self._cut_off(self.optuna.trials[trial.number])

    def fail(self, trial: optuna.Trial) -> None:
        """Give a claimed trial up for good: its head would end the next start, too."""
        trial.set_user_attr(_FAULTY, True)
        self.optuna.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _cut_off(self, trial: FrozenTrial) -> None:
        """Fail a running trial, and queue its head again. The steps may be cut off anywhere and repeated."""
        if trial.state != TrialState.RUNNING:
            return
        params = trial.system_attrs.get("fixed_params") or trial.params
        replaced = any(other.user_attrs.get(_REPLACES) == trial.number for other in self.optuna.trials)
        if params and not replaced and self.sampler != "grid":  # the grid finds undone heads by itself
            self.optuna.enqueue_trial(params, user_attrs={_REPLACES: trial.number})
        self.optuna.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _enqueue_from_grid(self, trials: list[FrozenTrial]) -> bool:
        """Queue the next head of the grid. Returns whether there is one."""
        if any(trial.state == TrialState.WAITING for trial in self.optuna.get_trials(deepcopy=False)):
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
        """Queue a head that is known to be good as the first of a new study."""
        with self.locked():
            if not self.optuna.get_trials(deepcopy=False) and self.sampler != "grid":
                self.optuna.enqueue_trial(dict(params))

    def finished(self) -> list[FrozenTrial]:
        """The trials that are complete or pruned."""
        return self.optuna.get_trials(deepcopy=False, states=FINISHED)

    @contextmanager
    def storage_errors_named(self) -> Iterator[None]:
        """Turn errors of the database into a StoreError that names the study: full disk, lasting lock, damage."""
        try:
            yield
        except optuna.exceptions.StorageInternalError as error:
            raise StoreError(
                f"--study {self.path}: can't be read or written ({error.__cause__ or error}); what was finished is kept"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study's lock: no other process changes the study meanwhile."""
        with self.path.with_name(f".{self.path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def remove_curves(folder: Path) -> None:
    """Remove TensorBoard's files of a trial, and the folders that are empty then. Other files stay."""
    for file in folder.rglob("events.out.tfevents.*"):
        file.unlink(missing_ok=True)
    for inner in [*folder.glob("fold-*/*"), *folder.glob("fold-*"), folder]:
        with suppress(OSError):  # it is missing, or not empty
            inner.rmdir()


def count_finished(trials: Sequence[FrozenTrial]) -> int:
    """The number of complete or pruned trials."""
    return sum(trial.state in FINISHED for trial in trials)


class _Worker:
    """A lock that this process holds as long as it lives, so that others can see that it does.

    The kernel releases the lock when the process dies; a PID could be reused.
    """

    def __init__(self, study: Path) -> None:
        self.name = uuid.uuid4().hex
        file = _worker_file(study, self.name).open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        weakref.finalize(self, _release, file)

    @staticmethod
    def ended(study: Path, name: str | None) -> bool:
        """Whether the worker of that name is dead."""
        try:
            if name is not None:
                with _worker_file(study, name).open("r+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _release(file)
        except (BlockingIOError, FileNotFoundError) as error:
            return isinstance(error, FileNotFoundError)
        return True


def _worker_file(study: Path, name: str) -> Path:
    return study.with_name(f".{study.name}.{name}.worker")


def _release(file: IO[str]) -> None:
    Path(file.name).unlink(missing_ok=True)
    file.close()


def _make_sampler(name: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """A sampler for one trial: its state is not on disk, and a sampler that began anew would draw the same heads."""
    # TPE: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization".
    kind = optuna.samplers.TPESampler if name == "tpe" else optuna.samplers.RandomSampler
    return kind(seed=(seed * 1_000_003 + number) % 2**32)


def _short(value: Any) -> str:
    """A value for a message; a hash is cut short."""
    if value is None:
        return "not there"
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text
