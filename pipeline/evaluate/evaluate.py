"""Score a run on a split. The head gets stored features, and a fine-tuned classifier gets raw images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.extraction import Cluster, cluster
from headstart.features.errors import DataError, OptionError
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.terminal import console, progress
from headstart.pipeline.data.examples import Examples
from headstart.pipeline.evaluate.answers import calibrated, predicted_by
from headstart.pipeline.evaluate.by_ray.logits import logits_by
from headstart.pipeline.evaluate.config import AskedSplit, Sort, ThresholdConfig
from headstart.pipeline.evaluate.files import ModelAnswers, write_confusions, write_predictions
from headstart.pipeline.evaluate.result import EvaluateResult
from headstart.pipeline.evaluate.seen import Seen, seen_in_training
from headstart.pipeline.evaluate.simple_models import advised_folds, simple_models_of
from headstart.pipeline.evaluate.taken import Taken, take
from headstart.pipeline.evaluate.threshold import (
    chosen_threshold,
    given_threshold,
    needs_val,
    positive_class,
    tell_positive,
    threshold_fields,
)
from headstart.pipeline.evaluate.trust import score_trust
from headstart.pipeline.featured import FeaturedExamples, load_examples
from headstart.pipeline.locating import run_data, run_store
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run, read_calibration, require_finite
from headstart.pipeline.runs.choice import choose_model
from headstart.pipeline.scoring.metrics import mcnemar, score
from headstart.pipeline.scoring.thresholds import Threshold, moved, same_rule

_TOGETHER = 16 * 1024  # images that the head scores at a time


def evaluate(
    path: Path,
    split: AskedSplit = "auto",
    places: Places = Places(),
    sort: Sort = "data",
    threshold: ThresholdConfig = ThresholdConfig(),
    by_ray: ClusterConfig = ClusterConfig(),
) -> EvaluateResult:
    """Score the run at `path`. Write the predictions and confusions into the run, and the metrics to `metrics.json`.

    The models run in the precision of the run's features. If this precision is int8, the fine-tuned classifier runs in
    float32.

    Args:
        split: `train`, `val`, `test`, or `all` for all three. `auto` means `all` if `places.data` names other data than
            the run's own, and if these other data have no splits. In all other cases, `auto` means `test`.
        places: where the run's store, weights and data are now. `places.data` may also name other data to score.
        sort: the order of the predictions; see `write_predictions`.
        threshold: how the threshold between two classes is set. A new threshold is kept in the run.
        by_ray: the settings of Ray. If they name a cluster, the cluster extracts features and runs the classifier.

    Raises:
        RunError: there is no run, a model's outputs are not finite, or the features can't be extracted as they were
            for training.
        DataError: the split has no usable images, an image can't be decoded, the data have a class that the run does
            not know, or no threshold can be chosen on val.
        OptionError: `threshold` does not fit the run's classes, or it asks to choose a threshold on val although
            `places.data` names other data than the run's own.
    """
    run = Run.open(path)
    positive_class(run, threshold)  # raises errors before anything is read
    with bytes_kept(run_store(run, places), run_data(run, places)), cluster(by_ray) as workers:
        return evaluate_cached(run, load_examples(run, places, workers), split, places, sort, threshold, workers)


def evaluate_cached(
    run: Run,
    cached: FeaturedExamples,
    split: AskedSplit = "auto",
    places: Places = Places(),
    sort: Sort = "data",
    threshold: ThresholdConfig = ThresholdConfig(),
    workers: Cluster | None = None,
) -> EvaluateResult:
    """Score `run` on the examples `cached`, which `load_examples` returned.

    If `workers` are given, they run the fine-tuned classifier. For the other arguments and the errors, see `evaluate`.
    """
    positive = positive_class(run, threshold)
    tell_positive(run, threshold, positive)
    taken = take(run, cached, split, places.data)
    seen = _told(run, cached, taken, places)
    models = _Models(run, cached, workers)
    thresholds = models.thresholds(taken, threshold, positive)
    outputs = models.outputs(taken.examples)
    predicted = {
        model: predicted_by(run, model, output.logits, thresholds.get(model)) for model, output in outputs.items()
    }
    result = _result(models, taken, outputs, predicted, thresholds, positive, seen)
    logits = {model: output.logits for model, output in outputs.items()}
    class_names, model = run.class_names(), result.answering.model
    answers = ModelAnswers(model, predicted[model], calibrated(run, model, logits[model]))
    write_predictions(result.predictions_file, taken.examples, class_names, logits, answers, sort)
    write_confusions(result.confusion_file, _labels(taken.examples), class_names, predicted)
    if threshold.flag:
        run.keep_thresholds(thresholds)
    kept = run.metrics().get("evaluate", {})
    run.update(run.metrics_file, evaluate={**kept, taken.key: result.kept_fields()})
    return result


def _told(run: Run, cached: FeaturedExamples, taken: Taken, places: Places) -> Seen | None:
    """Tell the user what is scored. Return the scored images that were seen in training; see `Seen`.

    If the user asked to score training images, return None.
    """
    if taken.whole:
        console.print(f"{places.data}: has no splits, so all of its {len(taken.examples)} images are scored")
    if cached.rejects:
        console.print(f"{len(cached.rejects)} images can't be used: {cached.extraction.store}/rejects.csv says why")
    by_choice = taken.elsewhere is None and taken.split in ("train", "all")
    seen = None if by_choice else seen_in_training(run, cached, taken.examples, taken.elsewhere is not None)
    for line in seen.lines(taken.scored) if seen else []:
        console.print(line, style="yellow")
    return seen


@dataclass(frozen=True)
class _Output:
    """The logits of a model, float32 [N, 1 or C], and the precision in which the backbone ran."""

    logits: np.ndarray
    precision: str


@dataclass(frozen=True)
class _Models:
    """The models of a run that are scored: the head and, if fine-tuning improved it, the fine-tuned classifier."""

    run: Run
    cached: FeaturedExamples
    workers: Cluster | None  # if given, they run the classifier

    @property
    def finetuned(self) -> bool:
        """Whether the fine-tuned classifier is scored, too."""
        return self.run.classifier_file.exists() and not self.run.finetuning_gained_nothing()

    def thresholds(self, taken: Taken, config: ThresholdConfig, positive: str | None) -> dict[str, Threshold]:
        """Return the threshold of each model that has one, by the model's name."""
        run = self.run
        if positive is None:
            return {}
        if not needs_val(config):
            found = {model: given_threshold(run, model, config, positive) for model in ("head", "finetuned")}
            return {model: one for model, one in found.items() if one and (self.finetuned or model == "head")}
        if taken.elsewhere:
            raise OptionError(
                f"{config.flag}: is chosen on val of the run's own data; leave --data out, and score it after"
            )
        if not self.cached.of("val"):
            raise DataError(
                f"{run.path}: {config.flag}: its data have no val to choose a threshold on; give --threshold"
            )
        val = take(run, self.cached, "val", None).examples
        return {
            model: chosen_threshold(
                config, positive, calibrated(run, model, output.logits), _labels(val), run.class_names()
            )
            for model, output in self.outputs(val).items()
        }

    def outputs(self, examples: Examples) -> dict[str, _Output]:
        """Return the output of each model on `examples`, by the model's name, `head` or `finetuned`."""
        outputs = {"head": self._of_head(examples)}
        if self.finetuned:
            outputs["finetuned"] = self._of_classifier(examples)
        return outputs

    def _of_head(self, examples: Examples) -> _Output:
        features = self.cached.labelled(examples).features
        model = self.run.load_model(self.run.head_file, features.shape[1:])
        starts = range(0, len(features), _TOGETHER)  # Keras copies what it gets
        parts = [model.predict(features[at : at + _TOGETHER], batch_size=1024, verbose=0) for at in starts]
        return _Output(require_finite(np.concatenate(parts), self.run.head_file), self.cached.config.precision)

    def _of_classifier(self, examples: Examples) -> _Output:
        """Run the fine-tuned classifier on the raw images of `examples`."""
        from headstart.features.images.batches import why_undecodable
        from headstart.pipeline.classifier import classifier_precision, freeze_in_parts

        images, network = examples.images, self.cached.network
        with progress("evaluating the classifier", len(images)) as advance:
            if self.workers:
                positions, logits = logits_by(self.workers.begun(), self.run, network, images, advance)
            else:
                positions, logits = freeze_in_parts(self.run, network).logits(images, advance)
        if len(positions) < len(images):
            lost = np.setdiff1d(np.arange(len(images)), positions)
            reject = why_undecodable(images[int(lost[0])])
            raise DataError(f"{reject.path}: {reject.reason}, {reject.detail} ({len(lost)} such files)")
        return _Output(require_finite(logits, self.run.classifier_file), classifier_precision(network.config))


def _result(
    models: _Models,
    taken: Taken,
    outputs: Mapping[str, _Output],
    predicted: Mapping[str, np.ndarray],
    thresholds: Mapping[str, Threshold],
    positive: str | None,
    seen: Seen | None,
) -> EvaluateResult:
    """Score the outputs of each model, compare the models, and return the result.

    `predicted` holds the predicted labels of each model, int64 [N].
    """
    run, labels, class_names = models.run, _labels(taken.examples), models.run.class_names()
    simple = simple_models_of(run, models.cached, taken.examples)
    metrics = {}
    for model, output in outputs.items():
        found = score(output.logits, labels, class_names, predicted[model])
        better = {"better_than_largest_class": simple.is_beaten_by(found["accuracy_interval"])}
        of_two = threshold_fields(found, positive, class_names, thresholds.get(model)) if positive else {}
        trust = score_trust(output.logits, labels, read_calibration(run, model), moved(thresholds.get(model)))
        metrics[model] = {**found, **better, **of_two, **trust, "precision": output.precision}
    best, *others = sorted(metrics, key=lambda model: (-metrics[model]["accuracy"], metrics[model]["loss"]))
    right = {model: found == labels for model, found in predicted.items()}
    alike = same_rule(thresholds.get("head"), thresholds.get("finetuned"))
    return EvaluateResult(
        split=taken.split,
        scored=taken.scored,
        n=len(labels),
        simple=simple,
        head=metrics["head"],
        finetuned=metrics.get("finetuned"),
        better=best,
        answering=choose_model(run, "auto"),
        mcnemar=mcnemar(best, others[0], right[best], right[others[0]]) if others and alike else None,
        unchanged=run.finetuning_gained_nothing(),
        predictions_file=run.predictions_file(taken.stem),
        confusion_file=run.confusion_file(taken.stem),
        seen=seen,
        positive=positive,
        advice=advised_folds(run, models.cached, taken),
    )


def _labels(examples: Examples) -> np.ndarray:
    return examples.labels.astype(np.int64)
