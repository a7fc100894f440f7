"""Runs side by side on the same examples, and whether the best two really differ."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import OptionError, RunError
from headstart.pipeline.metrics import probabilities, score
from headstart.pipeline.runs import Run
from scipy.stats import binomtest

_PHASES = {"head": "head", "finetuned": "finetune"}  # which trained a model
_UNINTERESTING = {"data", "seed", "versions", "store", "rehash", "max_rejects", "overwrite"}


@dataclass(frozen=True)
class Compared:
    """One classifier of a run: its head, or what was fine-tuned.

    Args:
        settings: those in which the runs differ.
        seconds: of training the head, or of fine-tuning; None where it is not known.
    """

    run: str
    model: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    loss: float
    seconds: float | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class McNemar:
    """The exact test of McNemar (1947, doi:10.1007/BF02295996) between two classifiers on the same `n` examples.

    Args:
        only_first, only_second: examples that one got right and the other wrong.
        p: the chance of a difference as large, were both as good.
    """

    first: str
    second: str
    n: int
    only_first: int
    only_second: int
    p: float


def compare(paths: Sequence[Path], split: str = "test") -> tuple[list[Compared], McNemar]:
    """Compare what `evaluate` wrote of each run on `split`; the most accurate first.

    Raises:
        OptionError: fewer than two classifiers, or a run that is named twice.
        RunError: no run, one that was not evaluated on `split`, or runs evaluated on other examples or classes.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise OptionError(f"RUN: names a run twice. Received: {' '.join(map(str, paths))}")
    runs = [Run.open(path) for path in paths]
    labels, class_names, logits = _same_examples(runs, split)
    if len(logits) < 2:
        raise OptionError(f"RUN: one classifier has nothing to be compared with. Received: {paths[0]}")
    rows = []
    for (run, model), values in logits.items():
        scored = score(values, labels, class_names)
        seconds = run.metrics().get(_PHASES[model], {}).get("seconds")
        interval = (scored["accuracy_interval"][0], scored["accuracy_interval"][1])
        settings = {name: found[run] for name, found in _differing(runs).items()}
        rows.append(Compared(str(run.path), model, scored["accuracy"], interval, scored["loss"], seconds, settings))
    right = {key: probabilities(values).argmax(axis=1) == labels for key, values in logits.items()}
    order = sorted(range(len(rows)), key=lambda index: (-rows[index].accuracy, rows[index].loss))
    keys = list(logits)
    return [rows[index] for index in order], _mcnemar(*((keys[index], right[keys[index]]) for index in order[:2]))


def _mcnemar(first: tuple[tuple[Run, str], np.ndarray], second: tuple[tuple[Run, str], np.ndarray]) -> McNemar:
    names = [f"{run.path} ({model})" for (run, model), _ in (first, second)]
    only_first = int((first[1] & ~second[1]).sum())
    only_second = int((second[1] & ~first[1]).sum())
    differ = only_first + only_second
    p = float(binomtest(only_first, differ).pvalue) if differ else 1.0
    return McNemar(names[0], names[1], len(first[1]), only_first, only_second, p)


def _same_examples(runs: Sequence[Run], split: str) -> tuple[np.ndarray, list[str], dict[tuple[Run, str], np.ndarray]]:
    """Labels int64 [N], class names, and of each run and model the logits [N, 1 or classes] in one order."""
    first: tuple[list[str], dict[tuple[str, str, int], int]] | None = None
    labels = np.empty(0, np.int64)
    logits = {}
    for run in runs:
        class_names: list[str] = run.config()["class_names"]
        rows = _read_predictions(run, split)
        try:
            keys = _keys(rows)
            numbers = np.array([class_names.index(label) for _, label, _ in keys])
            found = _logits(rows, class_names)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise RunError(
                f"{run.predictions_file(split)}: damaged ({error}); `headstart evaluate` writes it anew"
            ) from error
        if first is None:
            first, labels = (class_names, {key: place for place, key in enumerate(keys)}), numbers
        if class_names != first[0]:
            raise RunError(f"{run.path}: has other classes than {runs[0].path}")
        if set(keys) != set(first[1]):
            raise RunError(
                f"{run.path}: was evaluated on other examples of {split} than {runs[0].path}; `headstart evaluate` "
                "both on the same data"
            )
        places = [first[1][key] for key in keys]
        for model, values in found.items():
            logits[run, model] = np.empty_like(values)
            logits[run, model][places] = values
    return labels, first[0] if first else [], logits


def _read_predictions(run: Run, split: str) -> list[dict[str, str]]:
    file = run.predictions_file(split)
    if not file.is_file():
        raise RunError(f"{run.path}: has no {file.name}; `headstart evaluate {run.path} --split {split}` writes it")
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        return list(csv.DictReader(lines))


def _keys(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str, int]]:
    """Digest, label, and how many copies came before: what tells one example from another, wherever it lies."""
    seen: dict[tuple[str, str], int] = {}
    keys = []
    for row in rows:
        example = row["digest"], row["label"]
        keys.append((*example, seen.get(example, 0)))
        seen[example] = seen.get(example, 0) + 1
    return keys


def _logits(rows: Sequence[Mapping[str, str]], class_names: Sequence[str]) -> dict[str, np.ndarray]:
    units = class_names[1:] if len(class_names) == 2 else class_names
    models = [model for model in _PHASES if f"{model}:{units[0]}" in rows[0]]
    return {model: np.array([[float(row[f"{model}:{unit}"]) for unit in units] for row in rows]) for model in models}


def _differing(runs: Sequence[Run]) -> dict[str, dict[Run, Any]]:
    """The settings that are not the same in all runs."""
    found = [_flat(run) for run in runs]
    names = sorted({name for settings in found for name in settings})
    return {
        name: {run: settings.get(name) for run, settings in zip(runs, found, strict=True)}
        for name in names
        if any(settings.get(name) != found[0].get(name) for settings in found)
    }


def _flat(run: Run) -> dict[str, Any]:
    config = run.config()
    flat = {
        f"{part}.{name}": value
        for part in ("features", "head", "finetune")
        for name, value in config.get(part, {}).items()
        if name not in _UNINTERESTING
    }
    return {**flat, "seed": config["seed"], "examples of train": config["examples"].get("train", "")[:8]}
