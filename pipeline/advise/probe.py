"""Judge features by a linear probe and nearest neighbours on held-out images, and by LogME."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.errors import DataError
from headstart.pipeline.data.copies import unit_names
from headstart.pipeline.data.examples import Example
from headstart.pipeline.neighbours import Neighbours
from headstart.pipeline.scoring.baselines import fitted_logistic, logistic_chances
from headstart.pipeline.scoring.folds import Fold, are_trainable, draw_folds, rarest
from headstart.pipeline.scoring.threads import single_threaded

_STRENGTHS = (1e-3, 1e-2, 1e-1)  # values of C, the inverse of the penalty
_NEIGHBOURS, _FOLDS = 5, 5
_ROUNDS, _TOLERANCE = 50, 1e-3  # of LogME's fixed-point iteration


@dataclass(frozen=True)
class Judged:
    """How well features tell the classes apart. Each image is judged by models that were not fitted to it."""

    probe: np.ndarray  # bool [N]: the images that logistic regression gets right
    loss: float  # cross-entropy of the logistic regression, in nats
    knn: np.ndarray  # bool [N]: the images that nearest neighbours get right
    logme: float  # see `logme`


@dataclass(frozen=True)
class Gain:
    """The gain in accuracy from twice as many training images, with its 95 % interval."""

    value: float
    low: float
    high: float


def make_folds(examples: Sequence[Example], data: Path, seed: int = 0) -> list[Fold]:
    """Divide `examples` into folds, stratified by class. `data` is used only in error messages.

    All copies of an image are in one fold, and all images of a group are in one fold. There are five folds. If a class
    has only three different images or groups, for example, there are three folds. There are always at least two folds.
    Raises DataError if a fold is empty, or if all images outside a fold are of one class.
    """
    labels, groups = np.array([one.label for one in examples]), unit_names(examples)
    count = max(min(_FOLDS, rarest(labels, groups)[1]), 2)
    folds = list[Fold]()
    if len(set(groups)) >= count and np.bincount(labels).max() >= count:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a class with a single group
            folds = draw_folds(labels, groups, count, seed)
    if not folds or not are_trainable(folds, labels):
        raise DataError(f"{data}: too few different images, or groups of images, to judge features on; add some")
    return folds


def judge(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int) -> Judged:
    """Judge how well features separate the classes.

    A linear probe is fitted with weaker and weaker penalties, until its loss on held-out images no longer falls. The
    result describes the probe with the lowest loss.

    Args:
        features: float32 [N, D], a row for each image.
        labels: int64 [N], the class of each image.
    """
    loss, chances = np.inf, np.empty(0)
    with single_threaded():
        for strength in _STRENGTHS:  # weak penalties are slow
            tried = held_out(features, labels, folds, classes, strength)
            if (next_loss := _loss(tried, labels)) >= loss:
                break
            loss, chances = next_loss, tried
        return Judged(
            probe=chances.argmax(axis=1) == labels,
            loss=loss,
            knn=_nearest(features, labels, folds, classes) == labels,
            logme=logme(features, labels, classes),
        )


def held_out(
    features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int, strength: float
) -> np.ndarray:
    """Return the class probabilities of all images, float64 [N, classes].

    The probabilities of a fold's images come from logistic regression that is fitted to the other folds. `strength` is
    the inverse of the penalty.
    """
    chances = np.zeros((len(labels), classes))
    for train, held in folds:
        model = fitted_logistic(features[train], labels[train], strength)
        chances[held] = logistic_chances(model, features[held], classes)
    return chances


def gain_of_doubling(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int) -> Gain:
    """Return how much the accuracy of a linear probe grows if the number of training images doubles.

    In each fold, a probe that is fitted to all training images is compared with a probe that is fitted to half of them.
    If any of these halves has only one class, the gain is 0, with an interval from -1 to 1.
    """
    halves = list[Fold]()
    for number, (train, held) in enumerate(folds):
        rows = np.random.default_rng(number).permutation(np.arange(len(labels))[train])
        halves.append((rows[: len(rows) // 2], held))
    if any(len(np.unique(labels[rows])) < 2 for rows, _ in halves):
        return Gain(0.0, -1.0, 1.0)
    with single_threaded():
        whole, half = (
            held_out(features, labels, part, classes, _STRENGTHS[1]).argmax(axis=1) for part in (folds, halves)
        )
    gained = (whole == labels).astype(np.float64) - (half == labels)
    return _with_interval(gained, [gained[held].mean() for _, held in folds])


def _with_interval(gained: np.ndarray, of_folds: Sequence[float]) -> Gain:
    """Return the mean gain with the wider of two 95 % intervals: one over images, and one over folds."""
    from scipy.stats import t

    images, folds = len(gained), len(of_folds)
    by_images = t.ppf(0.975, images - 1) * np.sqrt(gained.var(ddof=1) / images)
    # Only this interval includes the noise from the choice of training images.
    by_folds = t.ppf(0.975, folds - 1) * np.sqrt((1 / folds + 1 / (folds - 1)) * np.var(of_folds, ddof=1))
    value, off = float(gained.mean()), float(max(by_images, by_folds))
    return Gain(value, max(value - off, -1.0), min(value + off, 1.0))


def _loss(chances: np.ndarray, labels: np.ndarray) -> float:
    own = chances[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())


def _nearest(features: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], classes: int) -> np.ndarray:
    """Return the most frequent class among each image's five nearest images in other folds, int64 [N]."""
    predicted = np.empty_like(labels)
    weights = 1 + 1e-3 * np.arange(_NEIGHBOURS, 0, -1)  # decides ties
    for train, held in folds:
        near = labels[train][Neighbours(features[train]).nearest(features[held], _NEIGHBOURS).rows]
        votes = (np.eye(classes)[near] * weights[: near.shape[1], np.newaxis]).sum(axis=1)
        predicted[held] = votes.argmax(axis=1)
    return predicted


def logme(features: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Return the LogME of features for labels (You et al. 2021, arXiv:2102.11005).

    For each class, a Bayesian linear model tells the class from the rest. LogME is the log evidence of this model per
    image, averaged over the classes. Higher is better. Only values for the same images can be compared.

    Args:
        features: float [N, D], a row for each image.
        labels: int [N], the class of each image.
    """
    left, values, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    squares = values**2
    found = [_evidence(left, squares, (labels == label).astype(np.float64), features.shape) for label in range(classes)]
    return float(np.mean(found))


def _evidence(left: np.ndarray, squares: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return a linear model's maximal log evidence per image. `left` and `squares` come from the features' SVD."""
    count, width = shape
    along = (left.T @ target) ** 2
    beside = max(float(target @ target - along.sum()), 0.0)  # the part of the target that no weights explain
    alpha, beta = 1.0, 1.0
    for _ in range(_ROUNDS):
        ratio = alpha / beta
        effective = float((squares / (squares + ratio)).sum())
        size = float((squares * along / (squares + ratio) ** 2).sum())
        error = float((along / (1 + squares / ratio) ** 2).sum()) + beside
        alpha, beta = effective / (size + 1e-10), (count - effective) / (error + 1e-10)
        if abs(alpha / beta - ratio) <= _TOLERANCE * ratio:
            break
    ratio = alpha / beta
    size = float((squares * along / (squares + ratio) ** 2).sum())
    error = float((along / (1 + squares / ratio) ** 2).sum()) + beside
    spread = float(np.log(alpha + beta * squares).sum()) + (width - len(squares)) * np.log(alpha)
    evidence = width * np.log(alpha) + count * np.log(beta) - spread - beta * error - alpha * size
    return float((evidence - count * np.log(2 * np.pi)) / 2 / count)
