"""The result of `evaluate --folds`, as JSON and as lines for the console."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from headstart.pipeline.scoring.metrics import (
    MOST_CONFUSED,
    balanced_accuracy,
    confusions,
    interval_text,
    resampled_interval,
)
from headstart.pipeline.scoring.simple_models import SimpleModels
from rich.table import Column, Table
from rich.text import Text

_MOST_SHOWN = 30  # with more classes, no table of them is shown


@dataclass(frozen=True)
class Repeat:
    """The predictions of one round of cross-validation."""

    parts: list[np.ndarray]  # the rows that were held out in each fold
    predicted: np.ndarray  # labels of the heads, int64 [N]
    logistic: np.ndarray | None  # labels of logistic regression, int64 [N]; None if it would take too long


@dataclass(frozen=True)
class CrossValidated:
    """The result of cross-validating heads with a run's settings."""

    run: str
    folds: int
    groups: int  # different images: copies, near-duplicates and images of one group count once
    trained_folds: int  # folds on which each head was trained
    labels: np.ndarray  # int64 [N]
    class_names: list[str]
    repeats: list[Repeat]
    views: int  # views on which the run's head was trained; the heads here are trained without views
    finetuned: bool  # whether the run has a fine-tuned classifier; it is not cross-validated

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        heads = self._scored([repeat.predicted for repeat in self.repeats])
        return {
            "run": self.run,
            "folds": self.folds,
            "repeats": len(self.repeats),
            "n": len(self.labels),
            "groups": self.groups,
            **heads,
            "better_than_largest_class": self._simple_models().is_beaten_by(heads["accuracy_interval"]),
            **self._simple_models().fields(),
            "confusion": self._confusion(),
            "per_class": self._per_class(),
        }

    def lines(self) -> Iterator[Any]:
        """Yield the summary that is printed without `--json`."""
        found, simple = self.fields(), self._simple_models()
        n, times = len(self.labels), f"{self.folds} folds" + f" x {len(self.repeats)}" * (len(self.repeats) > 1)
        same = "" if self.groups == n else f" ({self.groups} that differ)"
        table = Table("", "accuracy", "95 % interval", "balanced", title=f"{n} images{same}, {times}")
        interval = interval_text(found["accuracy_interval"])
        table.add_row("head", f"{found['accuracy']:.4f}", interval, f"{found['balanced_accuracy']:.4f}")
        yield table
        yield str(simple)
        yield from simple.verdict("head", found["accuracy_interval"])
        if len(self.class_names) <= _MOST_SHOWN:
            yield self._confusion_table(found)
        others = " or its fine-tuned classifier" if self.finetuned else ""
        yield (
            f"this estimates heads with the settings of {self.run}, each trained on {self.trained_folds} of "
            f"{self.folds} folds; it does not score the run's own weights{others}"
        )
        if self.views:
            yield f"the run's head was trained on {self.views} augmented views; these heads were trained without"
        yield (
            "interval: corrected for overlapping training sets (Nadeau & Bengio 2003), and no narrower than Wilson's "
            f"for {self.groups} images"
        )

    def _scored(self, predicted: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return the accuracy over all repeats, its interval, the accuracy of each fold, and the balanced accuracy."""
        right = [found == self.labels for found in predicted]
        of_folds = [
            float(one[part].mean()) for one, repeat in zip(right, self.repeats, strict=True) for part in repeat.parts
        ]
        accuracy = float(np.mean(right))
        return {
            "accuracy": accuracy,
            "accuracy_interval": list(resampled_interval(accuracy, of_folds, self.folds, self.groups)),
            "balanced_accuracy": float(np.mean([balanced_accuracy(found, self.labels) for found in predicted])),
            "accuracies": of_folds,
        }

    def _simple_models(self) -> SimpleModels:
        logistic = [repeat.logistic for repeat in self.repeats if repeat.logistic is not None]
        scored = self._scored(logistic) if len(logistic) == len(self.repeats) else None
        return SimpleModels.of(self.labels, self.class_names, scored)

    def _pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return two arrays: the predicted labels and the true labels of all repeats, each int64 [repeats x N]."""
        return np.concatenate([one.predicted for one in self.repeats]), np.tile(self.labels, len(self.repeats))

    def _confusion(self) -> list[list[int]] | None:
        """Return the confusion counts of all repeats, as [true class][predicted class].

        Return None if there are over 100 classes.
        """
        count = len(self.class_names)
        if count > MOST_CONFUSED:
            return None
        matrix = np.zeros((count, count), int)
        for true, other, number in confusions(*self._pooled()):
            matrix[true, other] = number
        return [[int(number) for number in row] for row in matrix]

    def _per_class(self) -> dict[str, Any]:
        predicted, labels = self._pooled()
        count, repeats = len(self.class_names), len(self.repeats)
        rows = (labels, predicted, labels[predicted == labels])
        supports, claims, rights = (np.bincount(one, minlength=count).tolist() for one in rows)
        return {
            name: {
                "precision": right / claimed if claimed else None,
                "recall": right / support if support else None,
                "support": support // repeats,
            }
            for name, support, claimed, right in zip(self.class_names, supports, claims, rights, strict=True)
        }

    def _confusion_table(self, found: dict[str, Any]) -> Table:
        columns = [Column(Text(f"as {name}")) for name in self.class_names]
        title = f"answers for each class, {len(self.repeats)} for each image"
        table = Table("class", "answers", *columns, "precision", "recall", title=title)
        for name, row in zip(self.class_names, found["confusion"], strict=True):
            one = found["per_class"][name]
            figures = ("-" if one[key] is None else f"{one[key]:.4f}" for key in ("precision", "recall"))
            table.add_row(Text(name), str(sum(row)), *map(str, row), *figures)
        return table
