"""Read the predictions that `evaluate` wrote into a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from headstart.features.errors import RunError
from headstart.pipeline.runs import Run, read_csv, require_finite

MODELS = ("head", "finetuned")
_ANEW = "`headstart evaluate` writes it anew"


@dataclass(frozen=True)
class Predictions:
    """The outputs of a run's models on the same N examples."""

    paths: list[str]
    digests: list[str]
    labels: np.ndarray  # int64 [N], indices into `class_names`
    class_names: list[str]
    logits: dict[str, np.ndarray]  # by model, `head` or `finetuned`: float64 [N, 1 or classes]

    def in_order(self) -> "Predictions":
        """Return the predictions sorted by digest and class name."""
        keys = [(digest, self.class_names[label]) for digest, label in zip(self.digests, self.labels, strict=True)]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return Predictions(
            [self.paths[at] for at in order],
            [self.digests[at] for at in order],
            self.labels[order],
            self.class_names,
            {model: values[order] for model, values in self.logits.items()},
        )


def read_predictions(run: Run, stem: str) -> Predictions:
    """Read the file `predictions-<stem>.csv` of `run`.

    Raises RunError if the file is missing or damaged, or if its classes are not the classes of `run`.
    """
    names, file = run.class_names(), run.predictions_file(stem)
    if not file.is_file():
        raise RunError(f"{run.path}: has no {file.name}; `headstart evaluate {run.path} --split {stem}` writes it")
    try:
        rows = read_csv(file, ("path", "digest", "label"), _ANEW)
        number = {name: label for label, name in enumerate(names)}
        labels = np.array([number[row["label"]] for row in rows], np.int64)
        logits = {model: require_finite(values, file, _ANEW) for model, values in _logits(rows, names).items()}
    except RunError:
        raise
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise RunError(f"{file}: damaged ({error}); {_ANEW}") from error
    if "head" not in logits:
        raise RunError(f"{file}: has no logits of the head; {_ANEW}")
    return Predictions([row["path"] for row in rows], [row["digest"] for row in rows], labels, names, logits)


def _logits(rows: Sequence[Mapping[str, str]], class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the logits (float64 [N, 1 or classes]) of each model that has columns in `rows`."""
    units = class_names[1:] if len(class_names) == 2 else class_names
    models = [model for model in MODELS if f"{model}:{units[0]}" in rows[0]]
    return {model: np.array([[float(row[f"{model}:{unit}"]) for unit in units] for row in rows]) for model in models}
