"""Two simple models to compare an accuracy with: one predicts the largest class, the other is logistic regression."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from headstart.pipeline.memory.on_disk import Features
from headstart.pipeline.scoring.baselines import fit_logistic, fitted_logistic, log_chances, logistic_chances
from headstart.pipeline.scoring.folds import are_trainable, draw_folds, rarest
from headstart.pipeline.scoring.metrics import interval_text, score

_MOST = 20_000_000  # images x features x logits of a fit that takes about a second
_MOST_IMAGES = 5_000
_FEWEST = 10  # with fewer images per class, logistic regression is left out
_FOLDS, _MANY = 5, 1000  # with more than `_MANY` images, one fold alone chooses the penalty
_SMALL = 10_000_000  # images x features; a smaller fit runs on one thread
_STRENGTH = 0.01  # the inverse penalty if a class has too few images for folds
_SHOWN = ("accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", "top5", "loss", "auc")


@dataclass(frozen=True)
class SimpleModels:
    """The scores of two simple models: always predicting the largest class, and logistic regression."""

    largest_class: str  # the largest class among these examples
    largest_class_share: float  # the accuracy of a model that always predicts the largest class
    logistic_regression: dict[str, Any] | None  # see `Logistic.scored`; None if it is left out
    note: str = ""  # why it is left out, or that it was fitted to a part of the training images

    @classmethod
    def of(
        cls, labels: np.ndarray, class_names: Sequence[str], logistic: dict[str, Any] | None, note: str = ""
    ) -> "SimpleModels":
        """Return the scores of the two simple models on N examples with the labels `labels`, int64 [N].

        The first model always predicts the largest class. The second model is logistic regression. `logistic` has the
        metrics of logistic regression, or is None if this model is left out.
        """
        counts = np.bincount(labels)
        return cls(class_names[int(counts.argmax())], float(counts.max() / len(labels)), logistic, note)

    def __str__(self) -> str:
        parts = [f"always `{self.largest_class}` {self.largest_class_share:.4f}"]
        if one := self.logistic_regression:
            parts.append(f"logistic regression {one['accuracy']:.4f} ({interval_text(one['accuracy_interval'])})")
        return ", ".join(parts) + (f"; {self.note}" if self.note else "")

    def fields(self) -> dict[str, Any]:
        """Return the scores as a JSON object."""
        return {
            "largest_class": self.largest_class,
            "largest_class_share": self.largest_class_share,
            "logistic_regression": self.logistic_regression,
        }

    def is_beaten_by(self, interval: Sequence[float]) -> bool:
        """Return whether a model is surely better than always predicting the largest class.

        `interval` is the confidence interval [low, high] of the model's accuracy. The model is surely better if
        `interval` lies wholly above the share of the largest class.
        """
        return interval[0] > self.largest_class_share

    def verdict(self, model: str, interval: Sequence[float]) -> list[str]:
        """Return a list with a warning if a model is not surely better than always predicting the largest class.

        If the model is surely better (see `is_beaten_by`), return []. `model` is the model's name, and `interval` is
        the confidence interval [low, high] of its accuracy.
        """
        if self.is_beaten_by(interval):
            return []
        under = "lies under" if interval[1] < self.largest_class_share else "holds"
        return [
            f"{model}: not better than always saying `{self.largest_class}`, for the interval of its accuracy {under} "
            f"{self.largest_class_share:.4f}"
        ]


def rows_to_fit(count: int, width: int, classes: int, seed: int = 0) -> np.ndarray:
    """Choose the training images for a fit of logistic regression. Return their rows, int64 [n], in ascending order.

    There are `count` training images with `width` features each, and `classes` classes. If a quick fit can't take so
    many images, a random sample is chosen, as large as a quick fit can take. If this sample would have fewer than ten
    images per class on average, no image is chosen.
    """
    logits = 1 if classes == 2 else classes
    most = min(_MOST_IMAGES, _MOST // (width * logits))
    if count <= most:
        return np.arange(count)
    rows = np.random.default_rng(seed).permutation(count)[: most if most >= _FEWEST * classes else 0]
    return np.sort(rows)


class Logistic:
    """Logistic regression, with a penalty from cross-validation if the images allow it.

    The cross-validation uses the images of the fit. The images of a group are in the same fold; see `draw_folds`. With
    over 1,000 images, only one of the folds is used.

    In two cases there is no cross-validation, and the inverse penalty is 0.01:

    - A class has only one group.
    - The folds are too small to train on; see `are_trainable`.
    """

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, groups: Sequence[Hashable], classes: int, seed: int = 0
    ) -> None:
        """Fit logistic regression to `features` (float32 [N, D]) and `labels` (int64 [N]).

        `groups` has the group of each image.
        """
        from threadpoolctl import threadpool_limits

        count = min(_FOLDS, rarest(labels, groups)[1])
        self.strength, self.images, self._classes = _STRENGTH, len(labels), classes
        import_module("sklearn.linear_model")  # before its libraries are limited
        with threadpool_limits(1 if features.size < _SMALL else None):  # threads that wait for one another take longer
            if count > 1:
                folds = draw_folds(labels, groups, count, seed)[: 1 if len(labels) > _MANY else None]
                if are_trainable(folds, labels):
                    self.strength = fit_logistic(features, labels, folds, classes).setting["C"]
            self._model = fitted_logistic(features, labels, self.strength)

    def logits(self, features: Features) -> np.ndarray:
        """Return the logarithms (float64 [N, classes]) of the class probabilities. `features` is float32 [N, D]."""
        return log_chances(logistic_chances(self._model, features, self._classes))

    def scored(self, features: Features, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the metrics of this model by name, for `features` (float32 [N, D]) and `labels` (int64 [N]).

        The result has two more entries: `strength` (the inverse penalty) and `images` (the number of images in the
        fit).
        """
        found = score(self.logits(features), labels, class_names)
        return {**{name: found[name] for name in _SHOWN}, "strength": self.strength, "images": self.images}


def score_simple_models(
    trained: tuple[np.ndarray, Sequence[Hashable]],
    read: Callable[[np.ndarray], np.ndarray],
    features: Features,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> SimpleModels:
    """Return the scores of two simple models on N examples.

    One model always predicts the largest class. The other model is logistic regression, fitted to the training images
    that `rows_to_fit` chooses. If no image is chosen, or if all chosen images have the same class, logistic regression
    is left out.

    Args:
        trained: the labels (int64 [M]) and the groups of the M training images.
        read: takes rows of training images, int64 [n], and returns their features, float32 [n, D].
        features: the features of the scored examples, float32 [N, D].
        labels: the labels of the scored examples, int64 [N].
    """
    count, classes = len(trained[0]), len(class_names)
    rows = rows_to_fit(count, features.shape[1], classes)
    some = trained[0][rows]
    if len(set(some.tolist())) < 2:
        size = f"{count} images x {features.shape[1]} features x {classes} classes"
        return SimpleModels.of(labels, class_names, None, f"logistic regression is left out: {size} would take long")
    fitted = Logistic(read(rows), some, [trained[1][row] for row in rows], classes)
    note = "" if len(rows) == count else f"logistic regression is fitted to {len(rows)} of {count} training images"
    return SimpleModels.of(labels, class_names, fitted.scored(features, labels, class_names), note)
