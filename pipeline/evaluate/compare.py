"""Compare runs on the same examples, and test whether the best two models differ by more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import OptionError, RunError
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run, read_csv, require_finite
from headstart.pipeline.scoring.metrics import McNemar, mcnemar, predicted_labels, score
from rich.table import Table
from rich.text import Text

_PHASES = {"head": "head", "finetuned": "finetune"}  # the phase that trained each model
_ANEW = "`headstart evaluate` writes it anew"
_UNINTERESTING = {"data", "seed", "versions", "store", "rehash", "max_rejects", "overwrite"}


@dataclass(frozen=True)
class Compared:
    """The metrics and settings of one model of a run: of its head, or of its fine-tuned classifier."""

    run: str
    model: str
    accuracy: float
    accuracy_interval: list[float]
    loss: float
    seconds: float | None  # of training the model; None if unknown
    settings: dict[str, Any]  # the run's settings in which the runs differ


@dataclass(frozen=True)
class CompareResult:
    """The compared models, the most accurate first, and a test of the first two."""

    rows: list[Compared]
    test: McNemar

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"runs": [asdict(row) for row in self.rows], "test": asdict(self.test)}

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        table = Table("run", "", "accuracy", "95 % interval", "loss", "seconds", "settings that differ")
        for row in self.rows:
            low, high = row.accuracy_interval
            table.add_row(
                Text(row.run),
                row.model,
                f"{row.accuracy:.4f}",
                f"{low:.4f} - {high:.4f}",
                f"{row.loss:.4f}",
                "-" if row.seconds is None else f"{row.seconds:.1f}",
                Text(", ".join(f"{name} {value}" for name, value in row.settings.items())),
            )
        return [table, str(self.test)]


def compare(paths: Sequence[Path], split: str = "test", places: Places = Places()) -> CompareResult:
    """Compare runs by the predictions on `split` that `evaluate` wrote.

    `places` has no effect, because the predictions are in the runs. Other commands on runs have this argument, too.

    Raises OptionError if there are fewer than two models, or if a run is named twice. Raises RunError if a path is not
    a run, or if the runs were not all evaluated on `split` with the same examples and classes.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise OptionError(f"RUN: names a run twice. Received: {' '.join(map(str, paths))}")
    runs = [Run.open(path) for path in paths]
    labels, class_names, logits = _same_examples(runs, split)
    if len(logits) < 2:
        raise OptionError(f"RUN: one classifier has nothing to be compared with. Received: {paths[0]}")
    settings = _differing_settings(runs)
    rows = [
        Compared(
            run=str(run.path),
            model=model,
            **{name: scored[name] for name in ("accuracy", "accuracy_interval", "loss")},
            seconds=run.metrics().get(_PHASES[model], {}).get("seconds"),
            settings=settings[run],
        )
        for (run, model), values in logits.items()
        for scored in [score(values, labels, class_names)]
    ]
    ranked = sorted(zip(rows, logits.values(), strict=True), key=lambda pair: (-pair[0].accuracy, pair[0].loss))
    first, second = (f"{row.run} ({row.model})" for row, _ in ranked[:2])
    right, other = (predicted_labels(values) == labels for _, values in ranked[:2])
    test = mcnemar(first, second, right, other)
    return CompareResult([row for row, _ in ranked], test)


def _same_examples(runs: Sequence[Run], split: str) -> tuple[np.ndarray, list[str], dict[tuple[Run, str], np.ndarray]]:
    """Return labels, int64 [N], class names, and each model's logits, [N, 1 or classes]. Rows are sorted by digest.

    Raises RunError if the runs were not evaluated on the same examples and classes.
    """
    class_names = runs[0].class_names()
    examples: list[tuple[str, str]] = []
    logits = {}
    for run in runs:
        names, file = run.class_names(), run.predictions_file(split)
        if not file.is_file():
            raise RunError(f"{run.path}: has no {file.name}; `headstart evaluate {run.path} --split {split}` writes it")
        try:
            rows = sorted(read_csv(file, ("digest", "label"), _ANEW), key=_example)
            labels = np.array([names.index(row["label"]) for row in rows])  # equal in all runs: see the errors below
            found = _logits(rows, names)
        except RunError:
            raise
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise RunError(f"{file}: damaged ({error}); {_ANEW}") from error
        if names != class_names:
            raise RunError(f"{run.path}: has other classes than {runs[0].path}")
        examples = examples or [_example(row) for row in rows]
        if [_example(row) for row in rows] != examples:
            raise RunError(
                f"{run.path}: was evaluated on other examples of {split} than {runs[0].path}; `headstart evaluate` "
                "both on the same data"
            )
        logits.update({(run, model): require_finite(values, file) for model, values in found.items()})
    return labels, class_names, logits


def _example(row: Mapping[str, str]) -> tuple[str, str]:
    return row["digest"], row["label"]


def _logits(rows: Sequence[Mapping[str, str]], class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the logits, [N, 1 or classes], of each model that has columns in `rows`."""
    units = class_names[1:] if len(class_names) == 2 else class_names
    models = [model for model in _PHASES if f"{model}:{units[0]}" in rows[0]]
    return {model: np.array([[float(row[f"{model}:{unit}"]) for unit in units] for row in rows]) for model in models}


def _differing_settings(runs: Sequence[Run]) -> dict[Run, dict[str, Any]]:
    """Return for each run the settings that are not equal in all runs."""
    found = {run: _flat(run) for run in runs}
    names = sorted({name for settings in found.values() for name in settings})
    differing = [name for name in names if any(one.get(name) != found[runs[0]].get(name) for one in found.values())]
    return {run: {name: settings.get(name) for name in differing} for run, settings in found.items()}


def _flat(run: Run) -> dict[str, Any]:
    """Return the settings that may explain a difference between runs, under names such as `head.epochs`."""
    config = run.config()
    return {
        f"{part}.{name}": value
        for part in ("features", "head", "finetune")
        for name, value in config.get(part, {}).items()
        if name not in _UNINTERESTING
    } | {"seed": config["seed"], "examples of train": config["examples"].get("train", "")[:8]}
