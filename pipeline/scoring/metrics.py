"""Compute metrics from logits and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_CONFUSED = 100  # with more classes, `confusion` is None, because the matrix grows with their square
_TOP, _CLASSES_FOR_TOP = 5, 10  # top-5 accuracy is of interest with more than ten classes


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (float64 [N, C]) of `logits`. Each row sums to 1.

    `logits` is float [N, 1] (two classes) or [N, C].
    """
    from scipy.special import softmax

    return np.asarray(softmax(_for_each_class(logits), axis=1))


def _for_each_class(logits: np.ndarray) -> np.ndarray:
    """Convert `logits`, [N, 1] (two classes) or [N, C], to float64 [N, C]. A single logit x becomes (0, x)."""
    logits = logits.astype(np.float64)
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of examples whose predicted label is the true one.

    `logits` is float [N, 1] (two classes) or [N, C], and `labels` is int [N]. A single logit over 0 predicts class 1.
    """
    return float((predicted_labels(logits) == labels).mean())


def predicted_labels(logits: np.ndarray) -> np.ndarray:
    """Return the predicted labels (int64 [N]). `logits` is float [N, 1] (two classes) or [N, C]."""
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats. `logits` is [N, 1] (two classes) or [N, C], and `labels` is int [N]."""
    logits = _for_each_class(logits)
    top = logits.max(axis=1)
    with np.errstate(invalid="ignore"):  # the logits of a diverged network give NaN without a warning
        # SciPy's `logsumexp` would take two to five times as long, in every epoch of training a head.
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        return float((log_sum - logits[np.arange(len(labels)), labels]).mean())


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean recall of the classes that occur in `labels`. Both arguments are labels, int [N]."""
    counts = np.bincount(labels)
    right = np.bincount(labels[predicted == labels], minlength=len(counts))
    return float(np.mean(right[counts > 0] / counts[counts > 0]))


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur in `labels`. `predicted` and `labels` are int [N].

    The F1 of a class that is never predicted is 0. Classes that occur only in `predicted` are left out. By default,
    scikit-learn includes them with an F1 of 0.
    """
    counts = np.bincount(labels)
    right = np.bincount(labels[predicted == labels], minlength=len(counts))
    asserted = np.bincount(predicted, minlength=len(counts))[: len(counts)]
    return float(np.mean(2 * right[counts > 0] / (counts + asserted)[counts > 0]))


def top_accuracy(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the fraction of rows whose label has one of the five highest logits.

    With ten classes or fewer, return None. `logits` is float [N, C], and `labels` is int [N].
    """
    if logits.shape[1] <= _CLASSES_FOR_TOP:
        return None
    own = logits[np.arange(len(labels)), labels]
    return float(((logits > own[:, np.newaxis]).sum(axis=1) < _TOP).mean())


def score(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str], predicted: np.ndarray | None = None
) -> dict[str, Any]:
    """Return a dict of the metrics of N >= 1 examples. An undefined metric is None.

    Args:
        logits: float [N, 1] (two classes) or [N, C].
        labels: the true labels, int [N], in [0, C).
        predicted: the predicted labels, int [N]. They must be given if a threshold decides labels. By default, they are
            the result of `predicted_labels`.

    Returns:
        `accuracy`, `balanced_accuracy` and `macro_f1`.
        `accuracy_interval`: [low, high], by `wilson_interval`.
        `top5`: see `top_accuracy`.
        `loss`: the mean cross-entropy in nats.
        `auc`: see `mean_auc`.
        `confusion`: the numbers of examples, at [true class][predicted class]. None with over 100 classes.
        `per_class`: for each class name, `precision`, `recall`, `recall_interval`, `f1` and `support`.
    """
    from sklearn.metrics import confusion_matrix

    chances = probabilities(logits)
    predicted = predicted_labels(logits) if predicted is None else predicted
    correct, count = int((predicted == labels).sum()), len(class_names)
    matrix = confusion_matrix(labels, predicted, labels=range(count)).tolist() if count <= MOST_CONFUSED else None
    return {
        "accuracy": correct / len(labels),
        "accuracy_interval": list(wilson_interval(correct, len(labels))),
        "balanced_accuracy": balanced_accuracy(predicted, labels),
        "macro_f1": macro_f1(predicted, labels),
        "top5": top_accuracy(logits, labels),
        "loss": cross_entropy(logits, labels),
        "auc": mean_auc(chances, labels),
        "confusion": matrix,
        "per_class": _per_class(predicted, labels, class_names),
    }


def _per_class(predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Return `precision`, `recall`, `recall_interval`, `f1` and `support` of each class; see `score`."""
    counts, asserted, right = (
        np.bincount(rows, minlength=len(class_names)).tolist()
        for rows in (labels, predicted, labels[predicted == labels])
    )
    return {
        name: {
            "precision": correct / claimed if claimed else None,
            "recall": correct / support if support else None,
            "recall_interval": list(wilson_interval(correct, support)) if support else None,
            "f1": 2 * correct / (claimed + support) if claimed + support else None,
            "support": support,
        }
        for name, support, claimed, correct in zip(class_names, counts, asserted, right, strict=True)
    }


def confusions(predicted: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, int]]:
    """Return a tuple (label, predicted label, number of examples) for each pair of labels that occurs.

    Both arguments are int [N].
    """
    pairs, counts = np.unique(np.stack([labels, predicted], axis=1), axis=0, return_counts=True)
    return [(int(true), int(other), int(count)) for (true, other), count in zip(pairs, counts, strict=True)]


@dataclass(frozen=True)
class McNemar:
    """The result of McNemar's exact test (1947, doi:10.1007/BF02295996).

    The test compares two models on the same `n` examples.
    """

    first: str
    second: str
    n: int
    only_first: int  # examples that the first model alone got right
    only_second: int  # examples that the second model alone got right
    p: float  # the probability of at least this difference if both models are equally good

    def __str__(self) -> str:
        verdict = "they differ by more than chance" if self.p < 0.05 else "that may be chance"
        return (
            f"of {self.n} images only {self.first} is right on {self.only_first}, only {self.second} on "
            f"{self.only_second}: p = {self.p:.3g} (McNemar), {verdict}"
        )


def mcnemar(first: str, second: str, right: np.ndarray, other: np.ndarray) -> McNemar:
    """Test whether the models named `first` and `second` differ by more than chance, by McNemar's exact test.

    `right`, bool [N], marks the examples that the first model predicts correctly. `other`, bool [N], marks the examples
    that the second model predicts correctly.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    differ = only_first + only_second
    p = float(binomtest(only_first, differ).pvalue) if differ else 1.0
    return McNemar(first, second, len(right), only_first, only_second, p)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of the fraction `successes / trials`.

    This is Wilson's score interval (1927, doi:10.1080/01621459.1927.10502953).
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def resampled_interval(accuracy: float, of_folds: Sequence[float], folds: int, images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval [low, high] of `accuracy`, which was measured by cross-validation.

    The interval follows from the variance of the folds' accuracies. The training sets of the folds overlap, so the
    variance is corrected (Nadeau & Bengio 2003, doi:10.1023/A:1024068626366). The two ends are computed as in Wilson's
    interval, so they lie in [0, 1]. The result is never narrower than Wilson's interval for `images` images.

    Args:
        of_folds: the accuracy of each fold of each repeat, at least two numbers.
        folds: the number of folds in one repeat.
        images: the number of different images.
    """
    from scipy.stats import norm, t

    count, spread = len(of_folds), accuracy * (1 - accuracy)
    # Student's t, of the variance corrected by the ratio of scored to training images; 0 if all folds are equal
    half = t.ppf(0.975, count - 1) * np.sqrt((1 / count + 1 / (folds - 1)) * np.var(of_folds, ddof=1))
    ratio = norm.ppf(0.975) ** 2 / images  # in Wilson's interval: the squared quantile by the number of images
    if spread:
        ratio = max(ratio, half**2 / spread)
    middle, width = accuracy + ratio / 2, np.sqrt(ratio * spread + ratio**2 / 4)
    return max(0.0, float((middle - width) / (1 + ratio))), min(1.0, float((middle + width) / (1 + ratio)))


def interval_text(ends: Sequence[float] | None) -> str:
    """Return an interval as text, such as `0.812 - 0.956`, or `-` for None."""
    return "-" if ends is None else f"{ends[0]:.3f} - {ends[1]:.3f}"


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the area under the ROC curve of `scores`, float [N]. `positive`, bool [N], marks the positive examples.

    The area is the probability that a positive example scores above a negative one (Mann and Whitney, 1947). A tie
    counts half. The result is None if there are no positives or no negatives, or if a score is NaN.
    """
    from scipy.stats import rankdata

    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives or np.isnan(scores).any():
        return None
    # scikit-learn's `roc_auc_score` takes three times as long as these ranks.
    return float((rankdata(scores)[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def mean_auc(chances: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the mean AUC of the classes, each of them against all others; see `roc_auc`.

    `chances`, float [N, C], has the probabilities, and `labels` is int [N]. A class whose AUC is None is left out. If
    no class is left, the result is None. With two classes, the result is the AUC of the second class, because the first
    class has the same AUC.
    """
    columns = [1] if chances.shape[1] == 2 else range(chances.shape[1])
    areas = [roc_auc(chances[:, label], labels == label) for label in columns]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None
