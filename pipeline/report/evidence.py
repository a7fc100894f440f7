"""Collect what the report needs to know about a run.

The evidence is the run's predictions, its data if they are at hand, and a list of what is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from headstart.features.errors import DataError, HeadstartError
from headstart.features.terminal import console
from headstart.pipeline.data.examples import Example
from headstart.pipeline.evaluate.answers import calibrated, predicted_by
from headstart.pipeline.evaluate.config import AskedSplit
from headstart.pipeline.evaluate.evaluate import evaluate_cached
from headstart.pipeline.evaluate.predictions import Predictions, read_predictions
from headstart.pipeline.evaluate.simple_models import advised_folds
from headstart.pipeline.evaluate.taken import Taken, take
from headstart.pipeline.featured import FeaturedExamples, load_examples
from headstart.pipeline.places import Places
from headstart.pipeline.report.kept import Folds, Simple, kept_folds, kept_simple
from headstart.pipeline.runs import Run, read_calibration
from headstart.pipeline.runs.choice import choose_model
from headstart.pipeline.scoring.calibration import fit_temperature
from headstart.pipeline.scoring.metrics import score
from headstart.pipeline.scoring.thresholds import same_rule

_T = TypeVar("_T")
NAMES = {"head": "the head", "finetuned": "the fine-tuned classifier"}


@dataclass(frozen=True)
class Evidence:
    """A run, its predictions and its data. `missing` has a line for each part that is not available."""

    run: Run
    scored: str  # a phrase that names the examples, such as `test`
    key: str  # key of the metrics under `evaluate` in `metrics.json`
    stem: str  # part of the name of the predictions' file, `predictions-<stem>.csv`
    predictions: Predictions | None
    val: Predictions | None
    data: FeaturedExamples | None  # the data that were scored
    trained: FeaturedExamples | None  # the run's own data
    missing: list[str] = field(default_factory=list)
    advice: str = ""  # advice to cross-validate, if few images were scored

    @property
    def models(self) -> list[str]:
        """Return the names of the scored models: `head`, or both `head` and `finetuned`.

        If the run has no predictions, return [].
        """
        return list(self.predictions.logits) if self.predictions else []

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the metrics of each model; see `pipeline.scoring.metrics.score`."""
        found = self.predictions
        if found is None:
            return {}
        return {
            model: score(found.logits[model], found.labels, found.class_names, self.predicted(model))
            for model in self.models
        }

    @property
    def answering(self) -> str:
        """Return the name of the model that `predict` uses. `predict` chooses this model on val.

        If this model was not scored, return the name of the first scored model.
        """
        chosen = choose_model(self.run, "auto").model
        return chosen if chosen in self.models else self.models[0]

    @property
    def seen(self) -> dict[str, int | None]:
        """Return the numbers of scored images that have a copy or a near-duplicate in train.

        `evaluate` wrote these numbers into `metrics.json`. A number that is not in this file is left out.

        - `duplicates_in_train`: the number of images that are in train, too.
        - `near_duplicates_in_train`: the number of other images with a near-duplicate in train. The number is None if
          the training images were missing when `evaluate` ran.
        """
        kept = self.run.metrics().get("evaluate", {}).get(self.key, {})
        names = ("duplicates_in_train", "near_duplicates_in_train")
        return {name: kept[name] for name in names if isinstance(kept.get(name, 0.0), int | None)}

    @cached_property
    def folds(self) -> Folds | None:
        """Return the result of cross-validation. Return None if the run has no result, or a damaged one."""
        return or_missing(lambda: kept_folds(self.run), "cross-validation", self.missing)

    @cached_property
    def simple(self) -> Simple | None:
        """Return the figures of logistic regression on the scored images.

        Return None if the figures are missing or damaged.
        """
        if self.predictions is None:
            return None
        count = len(self.predictions.labels)
        return or_missing(lambda: kept_simple(self.run, self.key, count), "logistic regression", self.missing)

    @cached_property
    def temperatures(self) -> dict[str, float]:
        """Return the temperature of each scored model. A model whose temperature is unknown is left out.

        The temperature is read from the run's calibration. If a model has no calibration, its temperature is fitted to
        its predictions on val. Without these predictions, the temperature is unknown.
        """
        kept = {model: read_calibration(self.run, model) for model in self.models}
        known = {model: one.temperature for model, one in kept.items() if one}
        val = self.val
        if val is None:
            return known
        lacking = [model for model in val.logits if model in kept and model not in known]
        return known | {model: fit_temperature(val.logits[model], val.labels) for model in lacking}

    @property
    def comparable(self) -> bool:
        """Whether both models were scored, and both choose the label by the same rule; see `same_rule`."""
        return len(self.models) == 2 and same_rule(*map(self.run.threshold, self.models))

    def confidence(self, model: str) -> np.ndarray:
        """Return the probabilities (float64 [N]) of the labels that `model` predicts."""
        predicted, chances = self.predicted(model), self.chances(model)
        return np.take_along_axis(chances, predicted[:, np.newaxis], axis=1)[:, 0]

    def predicted(self, model: str) -> np.ndarray:
        """Return the labels (int64 [N]) that `model` predicts."""
        assert self.predictions
        return predicted_by(self.run, model, self.predictions.logits[model], self.run.threshold(model))

    def chances(self, model: str) -> np.ndarray:
        """Return the probabilities (float64 [N, C]) that `model` gives.

        The probabilities are calibrated if the run has a calibration of `model`.
        """
        assert self.predictions
        return calibrated(self.run, model, self.predictions.logits[model])

    @cached_property
    def examples(self) -> dict[str, Example]:
        """Return a dict from digest to example, for each scored image that is available."""
        return {one.image.digest: one for one in self.data.examples} if self.data else {}


def gather(path: Path, split: AskedSplit, places: Places) -> Evidence:
    """Collect the evidence for the run at `path`. If `split` has no predictions yet, `split` is evaluated first.

    `places` may name data, a store or weights to use instead of the run's. If there is no run at `path`, a RunError is
    raised.

    If the data, the store or the weights can't be used, there are two cases:

    - `places` is empty: the evidence comes from the run alone. The field `missing` lists what the evidence lacks.
    - `places` names something: an error is raised, as in `evaluate`.
    """
    run, missing = Run.open(path), list[str]()
    try:
        data = load_examples(run, places)
        taken = take(run, data, split, places.data)
    except HeadstartError as error:
        if places != Places():
            raise
        missing.append(f"images, their neighbours and maps, what was rejected: {error}")
        kept = "test" if split == "auto" else split
        predictions = or_missing(lambda: read_predictions(run, kept), f"all figures on {kept}", missing)
        val = or_missing(lambda: read_predictions(run, "val"), "temperature scaling", missing)
        return Evidence(run, kept, kept, kept, predictions, val, None, None, missing)
    predictions = _predictions(run, data, taken, split, places)
    home = places if taken.elsewhere is None else replace(places, data=None)
    trained = data if home is places else or_missing(lambda: load_examples(run, home), "training images", missing)
    val = or_missing(lambda: _on_val(run, trained, home), "temperature scaling", missing)
    advice = advised_folds(run, data, taken)
    return Evidence(run, taken.scored, taken.key, taken.stem, predictions, val, data, trained, missing, advice)


def or_missing(load: Callable[[], _T], what: str, missing: list[str]) -> _T | None:
    """Return the result of `load`. If `load` raises a HeadstartError, return None.

    In this case, a line is added to `missing`. The line holds the text `what` and the message of the error.
    """
    try:
        return load()
    except HeadstartError as error:
        missing.append(f"{what}: {error}")
        return None


def _on_val(run: Run, trained: FeaturedExamples | None, places: Places) -> Predictions:
    """Return the predictions on the val split of the run's own data.

    The argument `trained` holds the run's own data, or is None if these data are missing.
    """
    if trained is None:
        return read_predictions(run, "val")
    if not trained.of("val"):
        raise DataError(f"{run.path}: its data have no val split")
    return _predictions(run, trained, Taken("val", trained.of("val")), "val", places)


def _predictions(run: Run, cached: FeaturedExamples, taken: Taken, split: AskedSplit, places: Places) -> Predictions:
    """Return the run's predictions on the examples in `taken`.

    The run is evaluated first, unless its file has the predictions of all models on exactly these examples.
    """
    tuned = run.classifier_file.exists() and not run.finetuning_gained_nothing()
    found = or_missing(lambda: read_predictions(run, taken.stem), "", [])
    names = run.class_names()
    same = found and set(zip(found.digests, (names[label] for label in found.labels), strict=True)) == {
        (one.image.digest, names[one.label]) for one in taken.examples
    }
    if found and same and ("finetuned" in found.logits or not tuned):
        return found
    console.print(f"evaluating {taken.scored} first")
    evaluate_cached(run, cached, split, places)
    return read_predictions(run, taken.stem)
