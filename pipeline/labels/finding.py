"""Find likely label errors: cleanlab compares labels with class probabilities from cross-validation.

The probabilities of an image come from logistic regression on the features of other images. A model that was fitted to
wrong labels predicts some of these wrong labels again. So there are several rounds. In each round, models are fitted
without the likely errors of the round before.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from headstart.features.errors import DataError, OptionError
from headstart.features.terminal import progress
from headstart.pipeline.data.copies import united
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.similar import near_duplicate_groups
from headstart.pipeline.memory.on_disk import Features, taken
from headstart.pipeline.neighbours import Neighbours
from headstart.pipeline.scoring.baselines import fitted_logistic, logistic_chances
from headstart.pipeline.scoring.folds import are_trainable, draw_folds, stratified
from headstart.pipeline.scoring.threads import single_threaded

STRENGTH = 0.1  # C of the logistic regression; docs/measurements.md has the values that were compared
FOLDS = 5
_ROUNDS = 3
AGREEING = 4  # neighbours that `nearest_agreeing` returns for each likely error


def require_cleanlab() -> None:
    """Raise an OptionError if cleanlab is not installed."""
    if find_spec("cleanlab") is None:
        raise OptionError("labels: needs the extra labels, `pip install 'headstart[labels]'`")


def alike(examples: Sequence[Example], features: Features) -> list[list[int]]:
    """Group copies and near-duplicates. Return a list for each group: its positions in `examples`.

    An image without copies and near-duplicates is a group by itself. `features` is float32 [N, D], with a row for each
    example.
    """
    keys: list[list[object]] = [[example.image.digest] for example in examples]
    for number, group in enumerate(near_duplicate_groups([example.image for example in examples], features)):
        for at in group:
            keys[at].append(number)
    return united(keys)


def likely_errors(
    features: Features,
    labels: np.ndarray,
    groups: np.ndarray,
    class_names: Sequence[str],
    seed: int,
    most: int = sys.maxsize,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows whose label is likely wrong.

    Args:
        features: float32 [N, D].
        labels: int64 [N], indices into `class_names`.
        groups: int64 [N]. Rows with the same number form a group. All rows of a group are held out in the same fold.
        seed: decides the folds.
        most: the largest number of rows to fit a model to. If there are more rows, the model is fitted to a sample with
            the same class proportions.

    Returns:
        bool [N], whether each label is likely wrong.
        float64 [N, classes], the class probabilities.

    Raises:
        DataError: a class has images in fewer than two groups, or the training rows of a fold have only one class.
    """
    folds = _folds(labels, groups, class_names, seed)
    wrong = np.zeros(len(labels), bool)
    with single_threaded(), progress("fitting logistic regression", _ROUNDS * len(folds), "fits") as advance:
        for _ in range(_ROUNDS):
            chances = np.zeros((len(labels), len(class_names)))
            for train, held_out in folds:
                trusted = train[~wrong[train]]
                if len(set(labels[trusted])) < len(set(labels[train])):
                    trusted = train
                trusted = trusted[stratified(labels[trusted], most, seed)]
                model = fitted_logistic(features[trusted], labels[trusted], STRENGTH)
                chances[held_out] = logistic_chances(model, taken(features, held_out), len(class_names))
                advance(1)
            wrong = _judged(labels, chances)
    return wrong, chances


def _judged(labels: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Return whether cleanlab judges each of `labels` to be an error, bool [N].

    `chances` has the class probabilities of each row, float64 [N, classes].
    """
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # One process: a fork of a process with TensorFlow in it may hang.
        found: np.ndarray = find_label_issues(labels, chances, filter_by="prune_by_noise_rate", n_jobs=1)
    return found


def _folds(
    labels: np.ndarray, groups: np.ndarray, class_names: Sequence[str], seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw folds: each fold is a pair of the training rows and the held-out rows.

    All rows of a group are held out in the same fold.
    """
    fewest, name = min((len(set(groups[labels == label])), name) for label, name in enumerate(class_names))
    if fewest < 2:
        raise DataError(
            f"class {name!r} has {fewest or 'no'} images apart from copies, without those of test; each class needs "
            "two for its labels to be compared"
        )
    rows, units = np.arange(len(labels)), groups.tolist()
    folds = draw_folds(labels, units, min(FOLDS, fewest), seed)
    if not are_trainable(folds, labels):
        raise DataError("too few groups of images have one class alone, so their labels can't be compared; add images")
    return [(rows[train], rows[held_out]) for train, held_out in folds]


def suggestions(chances: np.ndarray, labels: np.ndarray, conflicts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the suggested label of each row, int64 [N]. A value of -1 means no suggestion.

    A conflict is a group of copies or near-duplicates with different labels. There are two kinds of rows:

    - A row in no conflict: the suggested label is the most probable class other than the given label.
    - A row in a conflict: the suggested label is the class with the highest mean probability over all rows of the
      conflict. If this class is the row's given label, the value is -1.

    Args:
        chances: the probabilities of the classes, float64 [N, classes].
        labels: the given labels, int64 [N].
        conflicts: the rows of each conflict.
    """
    others = chances.copy()
    others[np.arange(len(labels)), labels] = -1
    found: np.ndarray = others.argmax(axis=1)
    for rows in map(list, conflicts):
        best = int(chances[rows].mean(axis=0).argmax())
        found[rows] = np.where(labels[rows] == best, -1, best)
    return found


def nearest_agreeing(
    features: Features, labels: np.ndarray, trusted: np.ndarray, rows: np.ndarray, suggested: np.ndarray
) -> list[list[int]]:
    """Return a list for each of `rows`: the row numbers of at most four neighbours, the nearest first.

    The neighbours of a row support its suggested label: each neighbour has this label, and is marked in `trusted`.

    Args:
        features: float32 [N, D].
        labels: int64 [N].
        trusted: bool [N], True for each row that may be a neighbour.
        rows: int64 [n], the numbers of the rows whose neighbours are wanted.
        suggested: int64 [n], the suggested label of each of `rows`.
    """
    found: list[list[int]] = [[] for _ in rows]
    for label in np.unique(suggested):
        asking, pool = np.flatnonzero(suggested == label), np.flatnonzero(trusted & (labels == label))
        if len(pool):
            near = Neighbours(taken(features, pool)).nearest(features[rows[asking]], AGREEING)
            for at, those in zip(asking, near.rows, strict=True):
                found[at] = pool[those].tolist()
    return found
