"""Choose the best of several epochs or trials by a figure on val."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
from headstart.pipeline.metrics import accuracy, balanced_accuracy, cross_entropy, macro_f1, mean_auc, probabilities

ChooseBy = Literal["loss", "log_loss", "accuracy", "balanced_accuracy", "f1", "auc"]
CHOICES: tuple[ChooseBy, ...] = get_args(ChooseBy)
_LOSSES = ("loss", "log_loss")  # two names of the mean cross-entropy
_OTHERS: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "balanced_accuracy": balanced_accuracy,
    "f1": macro_f1,
    "auc": lambda logits, labels: mean_auc(probabilities(logits), labels),
}


def val_figures(choose_by: ChooseBy, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return `loss` and `accuracy` of logits, [N, 1 or C], against labels, int [N], and the figure `choose_by`.

    An undefined figure is NaN.
    """
    figures = {"loss": cross_entropy(logits, labels), "accuracy": accuracy(logits, labels)}
    if choose_by in _OTHERS:
        figure = _OTHERS[choose_by](logits, labels)
        figures[choose_by] = float("nan") if figure is None else figure
    return figures


def rank(choose_by: ChooseBy, figures: Mapping[str, float]) -> tuple[float, float]:
    """Return a key by which the best of several `val_figures` comes first. Of equal figures, the lower loss is better.

    A figure that is not finite comes last.
    """
    figure = figures["loss"] if choose_by in _LOSSES else -figures[choose_by]
    return tuple(value if np.isfinite(value) else float("inf") for value in (figure, figures["loss"]))  # type: ignore[return-value]
