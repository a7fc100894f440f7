"""Choose the best of several epochs or trials by a figure on val.

The command line imports this module for the names of figures, and must start fast. So this module imports NumPy only
when it computes a figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np

ChooseBy = Literal["loss", "log_loss", "accuracy", "balanced_accuracy", "f1", "auc"]
CHOICES: tuple[ChooseBy, ...] = get_args(ChooseBy)
FIGURES = tuple(choice for choice in CHOICES if choice != "log_loss")
_WORST = (math.inf, math.inf)


def canonical(choose_by: ChooseBy) -> ChooseBy:
    """Return `loss` for `log_loss`, because both name the mean cross-entropy. Return any other name unchanged."""
    return "loss" if choose_by == "log_loss" else choose_by


class ValFigures:
    """Computes figures on val from batches of logits: the loss, the accuracy, and the figure that `choose_by` names.

    For the loss and the accuracy, only sums are kept in memory. For `auc`, all logits and true labels are kept. For the
    other figures, all predicted and true labels are kept.
    """

    def __init__(self, choose_by: ChooseBy) -> None:
        self._choose_by = canonical(choose_by)
        self._examples, self._loss, self._right = 0, 0.0, 0.0
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []  # logits or predicted labels, and true labels

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch of logits and true labels.

        `logits` is float [N, 1] (two classes) or [N, C], and `labels` is int [N].
        """
        from headstart.pipeline.scoring.metrics import accuracy, cross_entropy, predicted_labels

        self._examples += len(labels)
        self._loss += cross_entropy(logits, labels) * len(labels)
        self._right += accuracy(logits, labels) * len(labels)
        if self._choose_by not in ("loss", "accuracy"):
            self._kept.append((logits if self._choose_by == "auc" else predicted_labels(logits), labels))

    def figures(self) -> dict[str, float]:
        """Return the figures of all batches together, as a dict by name. An undefined figure is NaN.

        The figures are `loss`, `accuracy`, and the figure that the constructor's argument `choose_by` names.
        """
        found = {"loss": self._loss / self._examples, "accuracy": self._right / self._examples}
        if self._kept:
            found[self._choose_by] = self._other_figure()
        return found

    def _other_figure(self) -> float:
        import numpy as np
        from headstart.pipeline.scoring.metrics import balanced_accuracy, macro_f1, mean_auc, probabilities

        kept, labels = map(np.concatenate, zip(*self._kept, strict=True))
        if self._choose_by == "auc":
            area = mean_auc(probabilities(kept), labels)
            return math.nan if area is None else area
        return (balanced_accuracy if self._choose_by == "balanced_accuracy" else macro_f1)(kept, labels)


def val_figures(choose_by: ChooseBy, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return a dict of figures on val: `loss`, `accuracy`, and the figure that `choose_by` names.

    `logits` is float [N, 1] (two classes) or [N, C], and `labels` is int [N]. An undefined figure is NaN.
    """
    found = ValFigures(choose_by)
    found.add(logits, labels)
    return found.figures()


def as_json(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return `figures` for JSON, which has no NaN: a figure that is not finite becomes None."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def to_minimise(choose_by: ChooseBy, figures: Mapping[str, float]) -> float:
    """Return the figure that `choose_by` names. If the figure is not the loss, negate it, so that lower is better."""
    choose_by = canonical(choose_by)
    return figures["loss"] if choose_by == "loss" else -figures[choose_by]


def rank(choose_by: ChooseBy, figures: Mapping[str, float | None]) -> tuple[float, float]:
    """Return a sort key for the result of `val_figures`: the smaller the key, the better.

    The first number of the key is the result of `to_minimise`, and the second number is the loss. A figure that is None
    or not finite counts as the worst possible figure. If the loss is None or not finite, the model has diverged, and
    the key is (inf, inf).
    """
    known = {name: math.nan if figure is None else figure for name, figure in figures.items()}
    if not math.isfinite(known["loss"]):
        return _WORST
    figure = to_minimise(choose_by, known)
    return figure if math.isfinite(figure) else math.inf, known["loss"]


def titled(choose_by: ChooseBy) -> str:
    """Return the title of a figure, such as `balanced accuracy`."""
    names = {"f1": "macro F1", "auc": "AUC"}
    choose_by = canonical(choose_by)
    return names.get(choose_by, choose_by.replace("_", " "))
