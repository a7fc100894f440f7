"""Baselines for heads: scikit-learn's logistic regression and nearest neighbours on the same features."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # values of C, the inverse of the penalty
_NEIGHBOURS = (1, 3, 10, 30)
_LOGISTIC = "logistic regression"

_Rows = slice | np.ndarray  # a slice of rows, or row indices int64 [n]
Fold = tuple[_Rows, _Rows]  # rows to train on, rows to validate on


@dataclass(frozen=True)
class Baseline:
    """The score of a method at one setting. `loss` and `accuracy` on the validation rows are means over the folds."""

    name: str
    setting: dict[str, Any]
    loss: float
    accuracy: float


def fit_baselines(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int) -> list[Baseline]:
    """Fit each method at several settings, and return the setting with the lowest loss for each method.

    `features` is float32 [N, D], and `labels` is int64 [N].
    """
    methods = (_logistic(features, labels, folds), _neighbours(features, labels, folds, classes))
    return [min(tried, key=lambda baseline: baseline.loss) for tried in methods]


def loss_to_beat(baselines: Sequence[Baseline]) -> float:
    """Return the loss of logistic regression, or infinity if `baselines` does not include it."""
    return min((one.loss for one in baselines if one.name == _LOGISTIC), default=float("inf"))


def logistic_regression(strength: float) -> Any:
    """Make a scikit-learn pipeline: logistic regression on standardised features. `strength` is 1 / penalty."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def _logistic(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold]) -> list[Baseline]:
    """Fit logistic regression at weaker and weaker penalties, until the loss rises. Weak penalties are slow."""
    from sklearn.exceptions import ConvergenceWarning

    tried: list[Baseline] = []
    for strength in _STRENGTHS:
        chances = []
        for train, val in folds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a model that has not converged is scored, too
                model = logistic_regression(strength).fit(features[train], labels[train])
            chances.append(model.predict_proba(features[val]))
        tried.append(_scored(_LOGISTIC, {"C": strength}, chances, labels, folds))
        if tried[-1].loss > min(one.loss for one in tried):
            break
    return tried


def _neighbours(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int) -> list[Baseline]:
    """Score nearest neighbours by cosine, at several numbers of neighbours.

    The probability of a class is its share of the neighbours, after one neighbour is added to each class.
    """
    from sklearn.neighbors import NearestNeighbors

    nearest = []
    for train, val in folds:
        most = min(_NEIGHBOURS[-1], len(labels[train]))
        model = NearestNeighbors(n_neighbors=most, metric="cosine", algorithm="brute")
        nearest.append(labels[train][model.fit(features[train]).kneighbors(features[val], return_distance=False)])
    tried = []
    for count in _NEIGHBOURS:
        votes = [np.eye(classes)[found[:, :count]].sum(axis=1) + 1 for found in nearest]
        chances = [rows / rows.sum(axis=1, keepdims=True) for rows in votes]
        tried.append(_scored("nearest neighbours", {"k": count}, chances, labels, folds))
    return tried


def _scored(
    name: str, setting: dict[str, Any], chances: Sequence[np.ndarray], labels: np.ndarray, folds: Sequence[Fold]
) -> Baseline:
    """Score one setting by mean cross-entropy and accuracy over the folds.

    `chances` has the class probabilities of each fold's validation rows, [n, classes].
    """
    losses, accuracies = [], []
    for rows, (_, val) in zip(chances, folds, strict=True):
        right = rows[np.arange(len(rows)), labels[val]]
        losses.append(-np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean())
        accuracies.append((rows.argmax(axis=1) == labels[val]).mean())
    return Baseline(name, setting, float(np.mean(losses)), float(np.mean(accuracies)))
