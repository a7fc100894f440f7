"""Metrics from logits and labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Turn logits, float [N, 1] (two classes) or [N, C], into probabilities, float64 [N, C]. Rows sum to 1."""
    from scipy.special import softmax

    return np.asarray(softmax(_for_each_class(logits), axis=1))


def _for_each_class(logits: np.ndarray) -> np.ndarray:
    """Logits [N, 1] or [N, C] as float64 [N, C]. The sigmoid of x is the softmax of (0, x)."""
    logits = logits.astype(np.float64)
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of logits, [N, 1] (two classes) or [N, C], that predict the label. A lone 0 predicts class 0."""
    predicted = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return float((predicted == labels).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean cross-entropy of logits, [N, 1] (two classes) or [N, C], and labels [N], in nats.

    It runs in every epoch of a head. SciPy's `logsumexp` takes two to five times as long.
    """
    logits = _for_each_class(logits)
    top = logits.max(axis=1)
    with np.errstate(invalid="ignore"):  # a network that diverged gets NaN and no warning
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        return float((log_sum - logits[np.arange(len(labels)), labels]).mean())


def score(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Score logits, float [N, 1] (two classes) or [N, C], against labels, int [N] in [0, C); N >= 1.

    Returns:
        `accuracy`; `accuracy_interval` [low, high], from `wilson_interval`; `loss`, the mean cross-entropy in nats;
        `auc`, from `roc_auc` (of several classes, the mean over each class against the rest); `confusion`, counts by
        [true][predicted]; `per_class`, by name: `precision`, `recall`, `f1` and `support`. An undefined value is None.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    chances = probabilities(logits)
    predicted = chances.argmax(axis=1)
    classes = np.arange(len(class_names))
    *shares, counts = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=np.nan)
    columns = np.array(shares, object)
    columns[np.isnan(shares)] = None
    correct = int((predicted == labels).sum())
    return {
        "accuracy": correct / len(labels),
        "accuracy_interval": list(wilson_interval(correct, len(labels))),
        "loss": cross_entropy(logits, labels),
        "auc": _mean_auc(chances, labels),
        "confusion": confusion_matrix(labels, predicted, labels=classes).tolist(),
        "per_class": {
            name: {"precision": precision, "recall": recall, "f1": f1, "support": int(count)}
            for name, (precision, recall, f1), count in zip(class_names, columns.T.tolist(), counts, strict=True)
        },
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a fraction (Wilson, 1927, doi:10.1080/01621459.1927.10502953)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve of scores, float [N], of examples that are `positive`, bool [N], or negative.

    It is the chance that a positive scores above a negative. A tie counts half. The result is None if positives or
    negatives are missing, or a score is NaN. It is computed by ranks (Mann and Whitney, 1947), because scikit-learn's
    `roc_auc_score` takes three times as long.
    """
    from scipy.stats import rankdata

    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives or np.isnan(scores).any():
        return None
    return float((rankdata(scores)[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _mean_auc(chances: np.ndarray, labels: np.ndarray) -> float | None:
    columns = [1] if chances.shape[1] == 2 else range(chances.shape[1])
    areas = [roc_auc(chances[:, label], labels == label) for label in columns]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None
