"""Metrics from logits and labels: numpy only."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Logits [N, 1] (two classes) or [N, C] to probabilities float64 [N, C] that sum to one."""
    logits = logits.astype(np.float64)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)  # sigmoid is the softmax of (0, x)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return shares  # [N, C]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of logits [N, 1] (two classes) or [N, C] whose largest is that of the label; 0 is the first class's."""
    predicted = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return float((predicted == labels).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of logits [N, 1] (two classes) or [N, C] and labels [N], in nats."""
    logits = logits.astype(np.float64)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    top = logits.max(axis=1)
    with np.errstate(invalid="ignore"):  # of a network that diverged it is not a number, and no warning
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        return float((log_sum - logits[np.arange(len(labels)), labels]).mean())


def score(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Score a classifier.

    Args:
        logits: float [N, 1] for two classes, else [N, C]; N >= 1.
        labels: int [N] in [0, C).

    Returns:
        `accuracy`; `accuracy_interval` [low, high], Wilson's at 95 %; `loss`, the mean cross-entropy in nats; `auc`
        (see `roc_auc`; over several classes the mean of each against the rest, None where it is undefined);
        `confusion` [true][predicted] in counts; `per_class`, by name: `precision`, `recall`, `f1` and `support`.
    """
    chances = probabilities(logits)
    predicted = chances.argmax(axis=1)
    classes = len(class_names)
    correct = int((predicted == labels).sum())
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return {
        "accuracy": correct / len(labels),
        "accuracy_interval": list(wilson_interval(correct, len(labels))),
        "loss": cross_entropy(logits, labels),
        "auc": _auc(chances, labels),
        "confusion": confusion.tolist(),
        "per_class": {name: _class_metrics(confusion, label) for label, name in enumerate(class_names)},
    }


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a fraction (Wilson, 1927, doi:10.1080/01621459.1927.10502953); z of 95 % by default."""
    fraction = successes / trials
    centre = fraction + z * z / (2 * trials)
    half = z * math.sqrt(fraction * (1 - fraction) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low, high = (centre - half) / scale, (centre + half) / scale
    return (low if successes else 0.0), (high if successes < trials else 1.0)  # exact where rounding is not


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    By ranks (Mann and Whitney, 1947). None where either kind is missing.

    Args:
        scores: float [N].
        positive: bool [N].
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]  # tied scores share the mean of their ranks
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _auc(chances: np.ndarray, labels: np.ndarray) -> float | None:
    columns = [1] if chances.shape[1] == 2 else range(chances.shape[1])
    areas = [roc_auc(chances[:, label], labels == label) for label in columns]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None


def _class_metrics(confusion: np.ndarray, label: int) -> dict[str, Any]:
    hits = int(confusion[label, label])
    support, predicted = int(confusion[label].sum()), int(confusion[:, label].sum())
    return {
        "precision": hits / predicted if predicted else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (support + predicted) if support + predicted else None,
        "support": support,
    }
