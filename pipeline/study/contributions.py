"""The contribution of each val image to a figure. With contributions, a bootstrap over the images needs no logits."""

import numpy as np
from headstart.pipeline.scoring.choosing import ChooseBy
from headstart.pipeline.scoring.metrics import predicted_labels, probabilities


def contributions(metric: ChooseBy, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the contribution of each image to the figure that `metric` names, float64 [N].

    `logits`, float [N, C] with C >= 2, has a row for each image. `labels` is int [N]. Each class must occur in
    `labels`.

    The mean of all contributions is the figure. The mean of the contributions in a sample of the images estimates the
    figure of the sample:

    - For accuracy and loss, the estimate is exact.
    - For the other metrics, the contributions are the values of the infinitesimal jackknife, and the estimate is a
      first-order approximation. For the AUC, see DeLong et al. 1988, doi:10.2307/2531595.
    """
    right = predicted_labels(logits) == labels
    match metric:
        case "accuracy":
            return np.asarray(right, np.float64)
        case "balanced_accuracy":
            counts = np.bincount(labels)
            recall = np.bincount(labels[right], minlength=len(counts)) / counts
            return np.asarray(recall.mean() + (right - recall[labels]) * (len(labels) / len(counts)) / counts[labels])
        case "f1":
            return _f1(logits, labels, right)
        case "auc":
            chances = probabilities(logits)
            columns = [1] if chances.shape[1] == 2 else range(chances.shape[1])
            return np.asarray(np.mean([_auc(chances[:, label], labels == label) for label in columns], axis=0))
        case _:
            from scipy.special import log_softmax

            return np.asarray(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels])


def _f1(logits: np.ndarray, labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    predicted, classes = predicted_labels(logits), logits.shape[1]
    sums = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    f1 = 2 * np.bincount(labels[right], minlength=classes) / sums
    own = (2 * right - f1[labels]) / sums[labels] - f1[predicted] / sums[predicted]
    return np.asarray(f1.mean() + own * len(labels) / classes)


def _auc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the contribution of each row to the area under the ROC curve: float64 [N].

    `scores` is float [N], and `positive` is bool [N].
    """
    from scipy.stats import rankdata

    above = rankdata(scores)
    within = np.empty(len(scores))
    for group in (positive, ~positive):
        within[group] = rankdata(scores[group])
    beaten = above - within  # for each row: how many rows of the other group score lower; a tie counts half
    positives, negatives = int(positive.sum()), int((~positive).sum())
    placed = np.where(positive, beaten / negatives, 1 - beaten / positives)
    area = placed[positive].mean()
    return np.asarray(area + (placed - area) * len(scores) / np.where(positive, positives, negatives))
