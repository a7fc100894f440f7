"""Checks of a study. Its database may be damaged or come from elsewhere. Its data and settings may have changed."""

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from headstart.features.config import FeatureConfig
from headstart.features.frozen.network import Network, fingerprints_of
from headstart.features.terminal import console
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.head.config import HEAD_VERSION
from headstart.pipeline.runs.config import converted, require_known
from headstart.pipeline.scoring.baselines import Baseline
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.space import Space
from optuna.trial import FrozenTrial, TrialState

_HEADS = "version of heads"
# Settings that older studies don't name, and the values that these studies have.
_UNSAID = {"--choose-by": "loss", "space of class_weight": "none", _HEADS: 1}
BASELINES = "baselines at "  # the beginning of the name of an attribute that holds the baselines at some cuts


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
    loss: float | None = None  # this and the next four: figures on val
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    f1: float | None = None
    auc: float | None = None
    best_epoch: int | None = None


def require_no_other_database(path: Path) -> None:
    """Raise a ValueError if the SQLite file at `path` has tables, but not the tables of a study.

    headstart does not change the file, but SQLite may roll back a transaction of a process that was killed.
    """
    if not path.exists():
        return
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not {"studies", "trials", "version_info"} <= tables:
        raise ValueError("it is a database of something else")


def require_sound(study: optuna.Study) -> None:
    """Raise a ValueError if `study` or one of its trials has an attribute that headstart can't have written.

    A ValueError is also raised if the loss of a complete trial is not finite. The error message says what is wrong.
    """
    attributes = study.user_attrs
    converted(attributes, _StudyAttributes, "attributes")
    require_known(attributes.get("reading") or {}, "attributes.reading", DataConfig)
    for name, value in attributes.items():
        if name.startswith(BASELINES):
            converted({"all": value}, _Baselines, f"attributes {name[:80]!r}")
    for trial in study.get_trials(deepcopy=False):
        _require_sound_trial(trial, f"trial {trial.number}")


@dataclass(frozen=True)
class _Baselines:
    all: list[Baseline]


def _require_sound_trial(trial: FrozenTrial, where: str) -> None:
    found = converted(trial.user_attrs, _TrialAttributes, where)
    if found.worker and not found.worker.isalnum():  # it is part of a file's name
        raise ValueError(f"{where}: worker is {found.worker[:80]!r}")
    if trial.state == TrialState.COMPLETE and not isfinite(trial.value or 0.0):
        raise ValueError(f"{where}: its loss is {trial.value}")


def identity_of(
    space: Space,
    config: SweepConfig,
    features: FeatureConfig,
    networks: Sequence[Network],
    digests: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:
    """Return the data and settings of a study as a JSON object. `digests` is the result of `example_digests`."""
    return {  # The test split is left out: no trial sees it, so it may change while a study is filled.
        **{f"features at {name}": key for name, key in fingerprints_of(networks).items()},
        **{"classes": digests["classes"], "examples of train": digests["train"]},
        **{"examples of val": digests.get("val", ""), "cuts to choose from": str(space.cuts)},
        **{f"space of {name}": str(choice) for name, choice in space.choices.items()},
        "--choose-by": config.choose_by,
        "views": [features.views, features.augment] if features.views else 0,
        **{"folds": config.folds, "sampler": config.sampler, "seed": seed, _HEADS: HEAD_VERSION},
        **({"--head": f"{config.own.digest}:{config.own.function}"} if config.own else {}),
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how the data or settings of a study differ from the present ones. Return "" if nothing differs.

    The argument `then` has the data and settings that the study recorded. The argument `now` has the present data and
    settings. Both arguments are JSON objects. If the study was begun with an earlier `HEAD_VERSION`, the earlier
    version does not count as a difference; see `tell_earlier_heads`.
    """
    then = {**{name: value for name, value in _UNSAID.items() if name in now}, **then}
    if _has_earlier_heads(then):
        then = {**then, _HEADS: HEAD_VERSION}
    differs = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    return "; ".join(f"{name} was {_short(then.get(name))}, is {_short(now.get(name))}" for name in differs)


def tell_earlier_heads(path: Path, then: Mapping[str, Any]) -> None:
    """Tell the user if the study at `path` was begun with an earlier `HEAD_VERSION`.

    The argument `then` has the data and settings that the study recorded.
    """
    if _has_earlier_heads({**_UNSAID, **then}):
        console.print(
            f"--study {path}: was begun by an earlier version of headstart, whose heads of few images were worse; "
            "heads that were tried stay with their figures, and the best head is trained anew"
        )


def _has_earlier_heads(then: Mapping[str, Any]) -> bool:
    version = then.get(_HEADS)
    return isinstance(version, int) and version < HEAD_VERSION


def _short(value: Any) -> str:
    """Return `value` as text for an error message. A SHA-256 hash is shortened to 12 characters."""
    if value is None:
        return "not there"
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text
