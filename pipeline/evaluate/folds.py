"""`headstart evaluate --folds`: cross-validate heads with the settings of a run, on all usable images of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.errors import DataError, OptionError, RunError
from headstart.features.terminal import progress
from headstart.pipeline.data.copies import unit_names, united
from headstart.pipeline.data.examples import Example, Scan
from headstart.pipeline.data.similar import near_duplicate_groups
from headstart.pipeline.evaluate.config import FoldsConfig
from headstart.pipeline.evaluate.cross_validated import CrossValidated, Repeat
from headstart.pipeline.evaluate.taken import is_own, take
from headstart.pipeline.featured import load_examples
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.own import OWN_LAYERS, Build, OwnHead
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.memory.on_disk import Features, taken
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.config import converted
from headstart.pipeline.runs.files import REMEDY
from headstart.pipeline.scoring.folds import draw_folds, rarest, require_trainable_folds
from headstart.pipeline.scoring.metrics import predicted_labels
from headstart.pipeline.scoring.simple_models import Logistic, rows_to_fit

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class _Method:
    """The settings of the heads to cross-validate, and the examples to train and score the heads on."""

    head: HeadConfig
    seed: int
    validates: bool  # whether the run has val images, so that they choose the best epoch
    labelled: LabelledFeatures
    groups: list[str]


def cross_validate(path: Path, config: FoldsConfig, places: Places = Places(), seed: int = 0) -> CrossValidated:
    """Estimate the accuracy of heads with the settings of the run at `path`, by cross-validation on all usable images.

    In each repeat, the images are divided into folds. The images of each fold are scored by a head that is trained on
    the other folds. If the run has a val split, one of these other folds is left out of training. The fold that is
    left out chooses the best epoch. Copies, near-duplicates and images of one group are always in the same fold.

    The result is stored in `metrics.json`, as `cross_validation`. Raises DataError if a class has too few images, and
    OptionError if `places` names other data than the run's own. For other errors, see `evaluate`.

    Args:
        config: the numbers of folds and of repeats.
        places: where the run's store, weights and data are now.
        seed: decides how the images are divided into folds. The heads are trained with the run's own seed plus the
            number of the repeat, counted from 0.
    """
    run = Run.open(path)
    cached = load_examples(run, places, check=partial(_require_own, run, places))
    examples = take(run, cached, "all", places.data).examples
    settings = run.config()
    labelled = replace(cached.labelled(examples), classes=len(run.class_names()))
    groups = _groups(examples, labelled.features)
    _require_enough(labelled.labels, groups, config.folds, run)
    head = _head_config(run)
    method = _Method(head, settings["seed"], "val" in settings["examples"], labelled, groups)
    repeats = list(_repeats(method, config, seed))
    result = CrossValidated(
        run=str(path),
        folds=config.folds,
        groups=len(set(groups)),
        trained_folds=config.folds - 1 - method.validates,
        labels=labelled.labels,
        class_names=run.class_names(),
        repeats=repeats,
        views=run.feature_config().views,
        finetuned=run.classifier_file.exists(),
    )
    run.update(run.metrics_file, cross_validation=result.fields())
    return result


def _require_own(run: Run, places: Places, scanned: Scan) -> None:
    """Raise an OptionError if `places` names data that the run was not trained on."""
    if places.data and not is_own(run, scanned.examples.of_split("train")):
        raise OptionError(
            f"--folds: {run.path} was trained on other images than those in {places.data}; leave --data out, or "
            "train a run on these images"
        )


def _head_config(run: Run) -> HeadConfig:
    """Return the settings of the run's head. Raises RunError if they are invalid or do not fit the saved head."""
    again = "run `headstart head` again, with --overwrite"
    try:
        config = converted(run.config()["head"], HeadConfig, "head")
    except ValueError as error:
        raise RunError(f"{run.config_file}: {error}; {again}") from error
    model = run.load_model(run.head_file)
    units = tuple(layer.units for layer in model.layers if hasattr(layer, "units"))[:-1]
    if units != config.units:
        raise RunError(f"{run.config_file}: head.units is {list(config.units)}, the head has {list(units)}; {again}")
    if config.own is None:
        return config
    own = config.own  # a run's `source` is not to be trusted
    return replace(config, own=OwnHead(own.file, own.function, own.digest, given=_anew(model, run)))


def _anew(model: keras.Model, run: Run) -> Build:
    """Return a function that rebuilds the user's own layers of the saved head. The rebuilt layers have new weights."""
    from headstart.features.tensorflow import keras

    own = next((layer for layer in model.layers if layer.name == OWN_LAYERS and hasattr(layer, "layers")), None)
    if own is None:
        raise RunError(f"{run.config_file}: head.own names code, but the head has no layers of it; {REMEDY}")
    return lambda features, classes: keras.models.clone_model(own)


def _groups(examples: Sequence[Example], features: Features) -> list[str]:
    """Return the name of each example's group. Copies, near-duplicates and images of one `--group` share a group."""
    alike: dict[int, int] = {}
    for number, group in enumerate(near_duplicate_groups([one.image for one in examples], features)):
        alike |= dict.fromkeys(group, number)
    keys = (
        [("unit", unit), *([("alike", alike[at])] if at in alike else [])]
        for at, unit in enumerate(unit_names(examples))
    )
    found = [""] * len(examples)
    for number, group in enumerate(united(keys)):
        for at in group:
            found[at] = str(number)
    return found


def _require_enough(labels: np.ndarray, groups: list[str], folds: int, run: Run) -> None:
    label, count = rarest(labels, groups)
    if count >= folds:
        return
    advice = f"give --folds {count}" if count >= 3 else "add images"
    raise DataError(
        f"{run.path}: --folds {folds}: class {run.class_names()[label]!r} has {count} images that differ (copies, "
        f"near-duplicates and images of a group count once); {advice}"
    )


def _repeats(method: _Method, config: FoldsConfig, seed: int) -> Iterator[Repeat]:
    """Yield the predictions of each repeat. A repeat predicts the label of every example once."""
    labels = method.labelled.labels
    repeats = []
    for number in range(config.rounds):  # all are drawn before hours of training, because some may not be trainable
        parts = [np.asarray(part) for _, part in draw_folds(labels, method.groups, config.folds, seed + number)]
        rows = [_training_rows(parts, fold, method.validates) for fold in range(len(parts))]
        require_trainable_folds(list(zip(rows, parts, strict=True)), labels, config.folds)
        repeats.append((parts, rows))
    with progress("training heads", config.folds * config.rounds, "heads") as advance:
        for number, (parts, rows) in enumerate(repeats):
            predicted, logistic = np.empty_like(labels), np.full_like(labels, -1)
            for fold, (train, part) in enumerate(zip(rows, parts, strict=True)):
                after = parts[(fold + 1) % len(parts)]
                predicted[part] = _by_head(method, train, after if method.validates else train, part, number)
                logistic[part] = _by_logistic(method, train, part)
                advance(1)
            yield Repeat(parts, predicted, logistic if (logistic >= 0).all() else None)


def _training_rows(parts: Sequence[np.ndarray], fold: int, validates: bool) -> np.ndarray:
    """Return the rows outside `parts[fold]`. If `validates` is true, the rows of the next part are left out, too."""
    without = {fold, (fold + 1) % len(parts)} if validates else {fold}
    return np.sort(np.concatenate([part for number, part in enumerate(parts) if number not in without]))


def _by_head(method: _Method, train: np.ndarray, val: np.ndarray, part: np.ndarray, repeat: int) -> np.ndarray:
    """Train a head on the examples at `train`. Return the predicted labels of the examples at `part`, int64 [n]."""
    from headstart.pipeline.head.head import fit_head
    from headstart.pipeline.head.loop import logits_of
    from headstart.pipeline.optimizers import release

    of = method.labelled.take
    model = fit_head(of(train), of(val), method.head, method.seed + repeat).model
    found = predicted_labels(logits_of(model, of(part)))
    release(model.variables)
    return found


def _by_logistic(method: _Method, train: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Fit logistic regression to the examples at `train`. Return the predicted labels of the examples at `part`.

    If a fit would take too long, or if the examples for the fit have only one class, each predicted label is -1.
    """
    features, labels = method.labelled.features, method.labelled.labels
    rows = train[rows_to_fit(len(train), features.shape[1], method.labelled.classes)]
    if len(np.unique(labels[rows])) < 2:  # also without rows, if a fit would take too long
        return np.full(len(part), -1)
    groups = [method.groups[row] for row in rows]
    return predicted_labels(
        Logistic(features[rows], labels[rows], groups, method.labelled.classes).logits(taken(features, part))
    )
