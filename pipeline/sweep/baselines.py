"""Baselines that a head has to beat: scikit-learn's logistic regression and nearest neighbours on the same features."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of C
_NEIGHBOURS = (1, 3, 10, 30)

Rows = slice | np.ndarray  # of features; int64 [n]
Fold = tuple[Rows, Rows]  # to train on, and to validate on
_Grid = list[tuple[dict[str, Any], list[np.ndarray]]]  # settings, and their probabilities of each fold


@dataclass(frozen=True)
class Baseline:
    """A method at its best setting by the loss on val; `loss` and `accuracy` are means over the folds."""

    name: str
    setting: dict[str, Any]
    loss: float
    accuracy: float


def fit_baselines(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int) -> list[Baseline]:
    """Fit each method at several settings to features float32 [N, D] with labels int64 [N]; return the best of each."""
    logistic, neighbours = _logistic(features, labels, folds), _neighbours(features, labels, folds, classes)
    found = []
    for name, grid in (("logistic regression", logistic), ("nearest neighbours", neighbours)):
        scored = [Baseline(name, setting, *_score(chances, labels, folds)) for setting, chances in grid]
        found.append(min(scored, key=lambda baseline: baseline.loss))
    return found


def logistic_regression(strength: float) -> Any:
    """Logistic regression on standardised features, its inverse penalty `strength`."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def _logistic(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold]) -> _Grid:
    """Probabilities at ever weaker penalties, until one does worse than the one before: weak penalties are slow."""
    grid: _Grid = []
    best = float("inf")
    for strength in _STRENGTHS:
        chances = []
        for train, val in folds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the model after 300 steps is scored
                model = logistic_regression(strength).fit(features[train], labels[train])
            chances.append(model.predict_proba(features[val]))
        grid.append(({"C": strength}, chances))
        loss, _ = _score(chances, labels, folds)
        if loss > best:
            break
        best = loss
    return grid


def _neighbours(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int) -> _Grid:
    """Probabilities by cosine neighbours: each class's share of them, one added to each class (Laplace)."""
    nearest = []
    for train, val in folds:
        most = min(_NEIGHBOURS[-1], len(labels[train]))
        model = NearestNeighbors(n_neighbors=most, metric="cosine", algorithm="brute")
        nearest.append(labels[train][model.fit(features[train]).kneighbors(features[val], return_distance=False)])
    grid = []
    for count in _NEIGHBOURS:
        votes = [np.eye(classes)[found[:, :count]].sum(axis=1) + 1 for found in nearest]
        grid.append(({"k": count}, [rows / rows.sum(axis=1, keepdims=True) for rows in votes]))
    return grid


def _score(chances: Sequence[np.ndarray], labels: np.ndarray, folds: Sequence[Fold]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over the folds."""
    losses, accuracies = [], []
    for rows, (_, val) in zip(chances, folds, strict=True):
        right = rows[np.arange(len(rows)), labels[val]]
        losses.append(-np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean())
        accuracies.append((rows.argmax(axis=1) == labels[val]).mean())
    return float(np.mean(losses)), float(np.mean(accuracies))
