"""Find likely label errors by cached features: cleanlab judges probabilities from cross-validation.

The probabilities of an image come from logistic regression on other images. A model that was fitted to wrong labels
repeats some of them, so the models are fitted again without the likely errors that the last round found.
"""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from headstart.features.errors import DataError, OptionError
from headstart.features.terminal import progress
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.similar import near_duplicate_groups
from headstart.pipeline.data.splits import united
from headstart.pipeline.neighbours import Neighbours
from headstart.pipeline.scoring.baselines import logistic_regression

STRENGTH = 0.1  # C of the logistic regression; docs/measurements.md has the choices that were compared
FOLDS = 5
_ROUNDS = 3
AGREEING = 4  # neighbours of each likely error


def require_cleanlab() -> None:
    """Raise an OptionError if cleanlab is not installed."""
    if find_spec("cleanlab") is None:
        raise OptionError("labels: needs the extra labels, `pip install 'headstart[labels]'`")


def alike(examples: Sequence[Example], features: np.ndarray) -> list[list[int]]:
    """Group copies and near-duplicates. Returns positions in `examples`; an image without either is a group of one.

    `features` is float32 [N, D], a row for each example.
    """
    keys: list[list[object]] = [[example.image.digest] for example in examples]
    for number, group in enumerate(near_duplicate_groups([example.image for example in examples], features)):
        for at in group:
            keys[at].append(number)
    return united(keys)


def likely_errors(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, class_names: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows whose label is likely wrong.

    Args:
        features: float32 [N, D].
        labels: int64 [N], indices into `class_names`.
        groups: int64 [N]. Rows of one group are never on both sides of a fold.
        seed: decides the folds.

    Returns:
        Whether each label is likely wrong, bool [N], and the probabilities of the classes, float64 [N, classes].

    Raises:
        DataError: a class has images in fewer than two groups.
    """
    folds = _folds(labels, groups, class_names, seed)
    wrong = np.zeros(len(labels), bool)
    with progress("fitting logistic regression", _ROUNDS * len(folds), "fits") as advance:
        for _ in range(_ROUNDS):
            chances = np.zeros((len(labels), len(class_names)))
            for train, held_out in folds:
                trusted = train[~wrong[train]]
                if len(set(labels[trusted])) < len(set(labels[train])):
                    trusted = train
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a model that has not converged serves, too
                    model = logistic_regression(STRENGTH).fit(features[trusted], labels[trusted])
                chances[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
                advance(1)
            wrong = _judged(labels, chances)
    return wrong, chances


def _judged(labels: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Return whether cleanlab takes each label for an error, bool [N]."""
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # One process: a fork of a process with TensorFlow in it may hang.
        found: np.ndarray = find_label_issues(labels, chances, filter_by="prune_by_noise_rate", n_jobs=1)
    return found


def _folds(
    labels: np.ndarray, groups: np.ndarray, class_names: Sequence[str], seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw folds with similar class proportions, as pairs of rows to train on and rows held out."""
    fewest, name = min((len(set(groups[labels == label])), name) for label, name in enumerate(class_names))
    if fewest < 2:
        raise DataError(
            f"class {name!r} has {fewest or 'no'} images apart from copies, without those of test; each class needs "
            "two for its labels to be compared"
        )
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups))


def nearest_agreeing(
    features: np.ndarray, labels: np.ndarray, trusted: np.ndarray, rows: np.ndarray, suggested: np.ndarray
) -> list[list[int]]:
    """Return, for each of `rows`, the nearest rows with the label that is suggested for it, the nearest first.

    Args:
        features: float32 [N, D].
        labels: int64 [N].
        trusted: bool [N], the rows among which neighbours are searched.
        rows: int64 [n].
        suggested: int64 [n], a label for each of `rows`.
    """
    found: list[list[int]] = [[] for _ in rows]
    for label in np.unique(suggested):
        asking, pool = np.flatnonzero(suggested == label), np.flatnonzero(trusted & (labels == label))
        if len(pool):
            near = Neighbours(features[pool]).nearest(features[rows[asking]], AGREEING)
            for at, those in zip(asking, near.rows, strict=True):
                found[at] = pool[those].tolist()
    return found
