"""Baselines for heads: scikit-learn's logistic regression and nearest neighbours on the same features."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from headstart.pipeline.memory.on_disk import Features, blocks
from headstart.pipeline.neighbours import Neighbours
from headstart.pipeline.scoring.choosing import ChooseBy, rank, val_figures
from headstart.pipeline.scoring.folds import Fold
from headstart.pipeline.scoring.threads import quiet

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # values of C, the inverse of the penalty
_NEIGHBOURS = (1, 3, 10, 30)
_LOGISTIC = "logistic regression"


@dataclass(frozen=True)
class Baseline:
    """A method with one setting, and its figures by cross-validation.

    Each figure is computed on the validation rows of each fold, and then averaged over the folds.
    """

    name: str
    setting: dict[str, Any]
    loss: float
    accuracy: float
    other: dict[str, float] = field(default_factory=dict)  # the figure that `choose_by` names, if not loss or accuracy
    sample: int | None = None  # number of images in the fit, if memory does not hold all images

    @property
    def figures(self) -> dict[str, float]:
        """Return all figures by name."""
        return {"loss": self.loss, "accuracy": self.accuracy, **self.other}

    def fields(self) -> dict[str, Any]:
        """Return the JSON object of a baseline."""
        sampled = {} if self.sample is None else {"sample": self.sample}
        return {"name": self.name, "setting": self.setting, **self.figures, **sampled}


def fit_baselines(
    features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int, choose_by: ChooseBy = "loss"
) -> list[Baseline]:
    """Fit logistic regression and nearest neighbours with several settings. Return the best baseline of each method.

    `choose_by` names the figure by which baselines are compared. `features` is float32 [N, D], and `labels` is int64
    [N].
    """
    nearest = _neighbours(features, labels, folds, classes, choose_by)
    return [
        fit_logistic(features, labels, folds, classes, choose_by),
        min(nearest, key=lambda baseline: rank(choose_by, baseline.figures)),
    ]


def rank_to_beat(choose_by: ChooseBy, baselines: Sequence[Baseline]) -> tuple[float, float]:
    """Return the rank that a head must beat: the result of `rank` for logistic regression.

    If `baselines` has no logistic regression, return (inf, inf).
    """
    ranks = (rank(choose_by, one.figures) for one in baselines if one.name == _LOGISTIC)
    return min(ranks, default=(float("inf"), float("inf")))


def logistic_regression(strength: float) -> Any:
    """Make a scikit-learn pipeline: logistic regression on standardised features. `strength` is 1 / penalty."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def fitted_logistic(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    """Return a `logistic_regression` that is fitted to `features`, float32 [N, D], and `labels`, int64 [N].

    A fit that has not converged after the last iteration is returned, too.
    """
    with quiet():
        return logistic_regression(strength).fit(features, labels)


def logistic_chances(model: Any, features: Features, classes: int) -> np.ndarray:
    """Return the class probabilities, float64 [N, classes], that `model` gives for `features`, float32 [N, D].

    If `model` was fitted without images of a class, the probability of this class is 0.
    """
    chances = np.zeros((len(features), classes))
    for block in blocks(features):
        chances[block, model.classes_] = model.predict_proba(features[block])
    return chances


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int, choose_by: ChooseBy = "loss"
) -> Baseline:
    """Fit logistic regression with weaker and weaker penalties, until the loss rises. Return the best baseline.

    The search starts with strong penalties, because weak ones are slow. For the arguments see `fit_baselines`.
    """
    tried: list[Baseline] = []
    for strength in _STRENGTHS:
        models = [fitted_logistic(features[train], labels[train], strength) for train, _ in folds]
        chances = [
            logistic_chances(model, features[val], classes) for model, (_, val) in zip(models, folds, strict=True)
        ]
        tried.append(_scored(_LOGISTIC, {"C": strength}, chances, labels, folds, choose_by))
        if tried[-1].loss > min(one.loss for one in tried):
            break
    return min(tried, key=lambda baseline: rank(choose_by, baseline.figures))


def _neighbours(
    features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int, choose_by: ChooseBy
) -> list[Baseline]:
    """Score a classifier by nearest neighbours in cosine distance, with several numbers of neighbours.

    Each neighbour votes for its own class. Each class gets one extra vote, so that no probability is 0. The probability
    of a class is its share of all votes.
    """
    nearest = [
        labels[train][Neighbours(features[train]).nearest(features[val], _NEIGHBOURS[-1]).rows] for train, val in folds
    ]
    tried = []
    for count in _NEIGHBOURS:
        votes = [np.eye(classes)[found[:, :count]].sum(axis=1) + 1 for found in nearest]
        chances = [rows / rows.sum(axis=1, keepdims=True) for rows in votes]
        tried.append(_scored("nearest neighbours", {"k": count}, chances, labels, folds, choose_by))
    return tried


def _scored(
    name: str,
    setting: dict[str, Any],
    chances: Sequence[np.ndarray],
    labels: np.ndarray,
    folds: Sequence[Fold],
    choose_by: ChooseBy,
) -> Baseline:
    """Return the baseline of one setting. Its figures are the `val_figures` of each fold, averaged over the folds.

    `chances` has an array for each fold: the class probabilities of the validation rows, float64 [n, classes].
    """
    found = [
        val_figures(choose_by, log_chances(rows), labels[val]) for rows, (_, val) in zip(chances, folds, strict=True)
    ]
    means = {figure: float(np.mean([one[figure] for one in found])) for figure in found[0]}
    return Baseline(name, setting, means.pop("loss"), means.pop("accuracy"), means)


def log_chances(chances: np.ndarray) -> np.ndarray:
    """Return the logarithms of probabilities, float64 [N, C], for use as logits.

    A probability below the smallest normal float32 is replaced by that number, so each logarithm is finite.
    """
    return np.asarray(np.log(np.maximum(chances, np.finfo(np.float32).tiny)))
