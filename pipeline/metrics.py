"""Compute metrics from logits and labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Turn logits, float [N, 1] (two classes) or [N, C], into probabilities, float64 [N, C]. Rows sum to 1."""
    from scipy.special import softmax

    return np.asarray(softmax(_for_each_class(logits), axis=1))


def _for_each_class(logits: np.ndarray) -> np.ndarray:
    """Convert logits [N, 1] or [N, C] to float64 [N, C]. One logit x becomes (0, x), whose softmax gives sigmoid(x)."""
    logits = logits.astype(np.float64)
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of rows of `logits`, [N, 1] (two classes) or [N, C], that predict their label, int [N].

    A single logit predicts class 1 if it is over 0.
    """
    return float((_predicted(logits) == labels).mean())


def _predicted(logits: np.ndarray) -> np.ndarray:
    """Return the predicted labels, int64 [N], of logits [N, 1] or [N, C]."""
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats of logits, [N, 1] (two classes) or [N, C], and labels, int [N].

    This function runs in every epoch of training a head. SciPy's `logsumexp` would take two to five times as long.
    """
    logits = _for_each_class(logits)
    top = logits.max(axis=1)
    with np.errstate(invalid="ignore"):  # the logits of a diverged network give NaN without a warning
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        return float((log_sum - logits[np.arange(len(labels)), labels]).mean())


def balanced_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean recall of the classes that occur in `labels`, int [N], from logits [N, 1 or C]."""
    counts = np.bincount(labels)
    right = np.bincount(labels[_predicted(logits) == labels], minlength=len(counts))
    return float(np.mean(right[counts > 0] / counts[counts > 0]))


def macro_f1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur in `labels`, int [N], from logits [N, 1 or C].

    F1 of a class that is never predicted is 0.
    """
    predicted, classes = _predicted(logits), int(max(labels.max(), 1)) + 1
    counts = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[predicted == labels], minlength=classes)
    asserted = np.bincount(predicted, minlength=classes)[:classes]
    return float(np.mean((2 * right / np.maximum(counts + asserted, 1))[counts > 0]))


def score(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Score logits, float [N, 1] (two classes) or [N, C], against labels, int [N] in [0, C); N >= 1.

    Returns:
        `accuracy`; `accuracy_interval` [low, high], from `wilson_interval`; `loss`, the mean cross-entropy in nats;
        `auc`, from `roc_auc` (with three or more classes, the mean of each class against the rest); `confusion`, counts
        as [true class][predicted class]; `per_class`, a dict from class name to `precision`, `recall`, `f1` and
        `support`. An undefined value is None.
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
        "auc": mean_auc(chances, labels),
        "confusion": confusion_matrix(labels, predicted, labels=classes).tolist(),
        "per_class": {
            name: {"precision": precision, "recall": recall, "f1": f1, "support": int(count)}
            for name, (precision, recall, f1), count in zip(class_names, columns.T.tolist(), counts, strict=True)
        },
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of `successes / trials` (Wilson, 1927, doi:10.1080/01621459.1927.10502953)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the area under the ROC curve of `scores`, float [N]. `positive`, bool [N], marks the positive examples.

    This area is the probability that a positive example scores above a negative one. A tie counts half. The result is
    None if there are no positives or no negatives, or if a score is NaN. The area is computed from ranks (Mann and
    Whitney, 1947), because scikit-learn's `roc_auc_score` takes three times as long.
    """
    from scipy.stats import rankdata

    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives or np.isnan(scores).any():
        return None
    return float((rankdata(scores)[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def mean_auc(chances: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the mean `roc_auc` of each class against the rest, from probabilities [N, C] and labels, int [N].

    Classes without an area are left out; the result is None if all are. Two classes have one area.
    """
    columns = [1] if chances.shape[1] == 2 else range(chances.shape[1])
    areas = [roc_auc(chances[:, label], labels == label) for label in columns]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None
