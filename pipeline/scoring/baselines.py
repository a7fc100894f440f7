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
    """The figures of a simple method, such as logistic regression, with one setting.

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
        """Return all figures, such as `loss` and `accuracy`, by name."""
        return {"loss": self.loss, "accuracy": self.accuracy, **self.other}

    def fields(self) -> dict[str, Any]:
        """Return the method, its setting and its figures as a JSON object."""
        sampled = {} if self.sample is None else {"sample": self.sample}
        return {"name": self.name, "setting": self.setting, **self.figures, **sampled}


def fit_baselines(
    features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int, choose_by: ChooseBy = "loss"
) -> list[Baseline]:
    """Fit logistic regression and nearest neighbours with several settings. Return the best baseline of each method.

    Each method is fitted to the training rows of each fold, and scored on the fold's validation rows. `choose_by` names
    the figure by which baselines are compared. `features` is float32 [N, D], and `labels` is int64 [N]. `classes` is
    the number of classes.
    """
    nearest = _neighbours(features, labels, folds, classes, choose_by)
    return [
        fit_logistic(features, labels, folds, classes, choose_by),
        min(nearest, key=lambda baseline: rank(choose_by, baseline.figures)),
    ]


def rank_to_beat(choose_by: ChooseBy, baselines: Sequence[Baseline]) -> tuple[float, float]:
    """Return the sort key that a head must beat: the result of `rank` for the logistic regression in `baselines`.

    A smaller key is better. If `baselines` has no logistic regression, return (inf, inf), the worst key.
    """
    ranks = (rank(choose_by, one.figures) for one in baselines if one.name == _LOGISTIC)
    return min(ranks, default=(float("inf"), float("inf")))


def logistic_regression(strength: float) -> Any:
    """Return an unfitted scikit-learn pipeline: logistic regression on standardised features.

    `strength` is scikit-learn's `C`, the inverse of the penalty. With a larger `strength`, the penalty is weaker.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def fitted_logistic(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    """Fit a logistic regression to `features` and `labels`, and return it.

    `features` is float32 [N, D], and `labels` is int64 [N]. `strength` is the inverse of the penalty. A fit that has
    not converged after 300 iterations is returned, too.
    """
    with quiet():
        return logistic_regression(strength).fit(features, labels)


def logistic_chances(model: Any, features: Features, classes: int) -> np.ndarray:
    """Return the class probabilities that `model` gives for `features`.

    `features` is float32 [N, D]. The result is float64 [N, classes]. If `model` was fitted without images of a class,
    the probability of this class is 0.
    """
    chances = np.zeros((len(features), classes))
    for block in blocks(features):
        chances[block, model.classes_] = model.predict_proba(features[block])
    return chances


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int, choose_by: ChooseBy = "loss"
) -> Baseline:
    """Return the baseline of logistic regression with the best of several penalties.

    The strongest penalty is tried first, and then weaker ones, until the loss rises. For the arguments, see
    `fit_baselines`.
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
    """Return a k-nearest-neighbours baseline for each of several k, by cosine. Each class begins with one vote."""
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
    """Return a baseline whose figures are means over the folds.

    For each fold, `chances` has an array of class probabilities, [n, classes], for the fold's validation rows.
    """
    found = [
        val_figures(choose_by, log_chances(rows), labels[val]) for rows, (_, val) in zip(chances, folds, strict=True)
    ]
    means = {figure: float(np.mean([one[figure] for one in found])) for figure in found[0]}
    return Baseline(name, setting, means.pop("loss"), means.pop("accuracy"), means)


def log_chances(chances: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities `chances`, float64 [N, C], for use as logits.

    A probability below 1.2e-38, the smallest normal float32, becomes 1.2e-38, so that each logarithm is finite.
    """
    return np.asarray(np.log(np.maximum(chances, np.finfo(np.float32).tiny)))
