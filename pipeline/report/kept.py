"""Read the figures of logistic regression and of cross-validation from a run's `metrics.json`.

`evaluate` computes these figures. The report only shows them.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from headstart.features.errors import RunError
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.config import converted
from headstart.pipeline.runs.files import REMEDY, without_null

_T = TypeVar("_T")


@dataclass(frozen=True)
class Simple:
    """The figures of logistic regression on the scored images; see `SimpleModels.logistic_regression`."""

    accuracy: float
    accuracy_interval: list[float]
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    top5: float | None = None
    loss: float | None = None
    auc: float | None = None

    def __post_init__(self) -> None:
        _require_rates([self.accuracy, *self.accuracy_interval])


@dataclass(frozen=True)
class Folds:
    """The result of `evaluate --folds`; see `CrossValidated.fields`."""

    folds: int
    repeats: int
    n: int
    accuracy: float
    accuracy_interval: list[float]

    def __post_init__(self) -> None:
        _require_rates([self.accuracy, *self.accuracy_interval])


def kept_simple(run: Run, key: str, count: int) -> Simple | None:
    """Return the figures of logistic regression that `evaluate` wrote under `key` into `metrics.json`.

    The result is None if there are no such figures, or if they were measured on another number of images than `count`.
    Raises RunError if the figures are damaged.
    """
    entry = run.metrics().get("evaluate", {}).get(key, {})
    values = entry.get("logistic_regression")
    return _read(run, values, Simple) if values is not None and entry.get("n") == count else None


def kept_folds(run: Run) -> Folds | None:
    """Return the result of cross-validation, or None if there is none. Raises RunError if the result is damaged."""
    values = run.metrics().get("cross_validation")
    return None if values is None else _read(run, values, Folds)


def _read(run: Run, values: Any, kind: type[_T]) -> _T:
    try:
        if not isinstance(values, dict):
            raise ValueError("no object")
        return converted(without_null(values), kind)
    except ValueError as error:
        raise RunError(f"{run.metrics_file}: {' '.join(str(error).split())[:200]}; {REMEDY}") from error


def _require_rates(values: list[float]) -> None:
    if len(values) != 3 or not all(0 <= one <= 1 for one in values):
        raise ValueError("an accuracy with its interval is not from 0 to 1")
