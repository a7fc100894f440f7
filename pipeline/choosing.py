"""Choose the best of several epochs or trials by a figure on val."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np

ChooseBy = Literal["loss", "log_loss", "accuracy", "balanced_accuracy", "f1", "auc"]
CHOICES: tuple[ChooseBy, ...] = get_args(ChooseBy)
_LOSSES = ("loss", "log_loss")  # two names of the mean cross-entropy


def val_figures(choose_by: ChooseBy, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return `loss` and `accuracy` of logits, [N, 1 or C], against labels, int [N], and the figure `choose_by`.

    An undefined figure is NaN.
    """
    from headstart.pipeline import metrics  # late: options name the figures, and NumPy takes time

    figures: dict[str, float | None] = {
        "loss": metrics.cross_entropy(logits, labels),
        "accuracy": metrics.accuracy(logits, labels),
    }
    if choose_by == "balanced_accuracy":
        figures[choose_by] = metrics.balanced_accuracy(logits, labels)
    elif choose_by == "f1":
        figures[choose_by] = metrics.macro_f1(logits, labels)
    elif choose_by == "auc":
        figures[choose_by] = metrics.mean_auc(metrics.probabilities(logits), labels)
    return {name: float("nan") if figure is None else figure for name, figure in figures.items()}


def rank(choose_by: ChooseBy, figures: Mapping[str, float]) -> tuple[float, float]:
    """Return a key by which the best of several `val_figures` comes first. Of equal figures, the lower loss is better.

    A figure that is not finite comes last.
    """
    figure = figures["loss"] if choose_by in _LOSSES else -figures[choose_by]
    return tuple(value if math.isfinite(value) else float("inf") for value in (figure, figures["loss"]))  # type: ignore[return-value]
