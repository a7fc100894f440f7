"""Checks of a study's database, which may be damaged or come from elsewhere."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import optuna
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.runs.config import converted, require_known
from headstart.pipeline.sweep.baselines import Baseline
from optuna.trial import FrozenTrial, TrialState

BASELINES = "baselines at "  # begins the name of an attribute with the baselines on the features at some cuts


@dataclass(frozen=True)
class _StudyAttributes:
    identity: dict[str, Any] | None = None
    reading: DataConfig | None = None


@dataclass(frozen=True)
class _TrialAttributes:
    worker: str = ""
    replaces: int | None = None
    faulty: bool = False
    seconds: float = 0.0
    accuracy: float | None = None
    best_epoch: int | None = None


def require_sound(study: optuna.Study) -> None:
    """Raise a ValueError that names the first attribute of `study` that headstart can't have written."""
    attributes = study.user_attrs
    converted(attributes, _StudyAttributes, "attribute ")
    require_known(attributes.get("reading") or {}, "attribute reading", DataConfig)
    for name, value in attributes.items():
        if name.startswith(BASELINES):
            converted({"all": value}, _Baselines, f"attribute {name[:80]!r}: ")
    for trial in study.get_trials(deepcopy=False):
        _require_sound_trial(trial, f"trial {trial.number}: ")


@dataclass(frozen=True)
class _Baselines:
    all: list[Baseline]


def _require_sound_trial(trial: FrozenTrial, where: str) -> None:
    found = converted(trial.user_attrs, _TrialAttributes, where)
    if found.worker and not found.worker.isalnum():  # it is part of a file's name
        raise ValueError(f"{where}worker is {found.worker[:80]!r}")
    if trial.state != TrialState.COMPLETE:
        return
    if not isfinite(trial.value or 0.0):
        raise ValueError(f"{where}its loss is {trial.value}")
    if found.accuracy is None or found.best_epoch is None:
        raise ValueError(f"{where}lacks accuracy or best_epoch")
