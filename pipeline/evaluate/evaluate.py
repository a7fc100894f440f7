"""Score a run on a split: the head on cached features and, after fine-tuning, the classifier on raw images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.errors import DataError
from headstart.features.terminal import console, progress
from headstart.pipeline.data.examples import Example
from headstart.pipeline.evaluate.config import AskedSplit, Sort
from headstart.pipeline.evaluate.files import write_confusions, write_predictions
from headstart.pipeline.evaluate.result import EvaluateResult
from headstart.pipeline.evaluate.seen import Seen, seen_in_training
from headstart.pipeline.evaluate.taken import Taken, take
from headstart.pipeline.evaluate.trust import score_trust
from headstart.pipeline.featured import FeaturedExamples, load_examples
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run, read_calibration, require_finite
from headstart.pipeline.scoring.metrics import mcnemar, predicted_labels, score


def evaluate(path: Path, split: AskedSplit = "auto", places: Places = Places(), sort: Sort = "data") -> EvaluateResult:
    """Score the run at `path`. Write the predictions and confusions into the run, and the metrics to `metrics.json`.

    The head and the fine-tuned classifier run in the precision of the run's features. If that is int8, the classifier
    runs in float32. Raises RunError if there is no run, if a model's outputs are not finite, or if the features of the
    head can't be made again. Raises DataError if the split has no usable images, if an image can't be decoded, or if
    the data have a class that the run does not know.

    Args:
        split: `train`, `val`, `test`, or `all` for all three. `auto` means `test`, or `all` if `places` name other data
            without splits.
        places: where the run's store, weights and data are now. Its `data` may also be other data to score.
        sort: the order of the predictions; see `write_predictions`.
    """
    run = Run.open(path)
    cached = load_examples(run, places)
    taken = take(run, cached, split, places.data)
    if taken.whole:
        console.print(f"{places.data}: has no splits, so all of its {len(taken.examples)} images are scored")
    if cached.rejects:
        console.print(f"{len(cached.rejects)} images can't be used: {cached.extraction.store}/rejects.csv says why")
    by_choice = taken.elsewhere is None and taken.split in ("train", "all")
    seen = None if by_choice else seen_in_training(run, cached, taken.examples, taken.elsewhere is not None)
    for line in seen.lines(taken.scored) if seen else []:
        console.print(line, style="yellow")
    unchanged = run.metrics().get("finetune", {}).get("best_epoch") == 0
    outputs = _outputs(run, cached, taken.examples, finetuned=run.classifier_file.exists() and not unchanged)
    result = _result(run, taken, outputs, seen, unchanged)
    logits = {model: output.logits for model, output in outputs.items()}
    class_names = run.class_names()
    temperature = result.temperature or 1.0
    write_predictions(result.predictions_file, taken.examples, class_names, logits, result.better, sort, temperature)
    write_confusions(result.confusion_file, _labels(taken.examples), class_names, logits)
    kept = run.metrics().get("evaluate", {})
    run.update(run.metrics_file, evaluate={**kept, taken.key: result.kept_fields()})
    return result


@dataclass(frozen=True)
class _Output:
    """The logits of a model, float32 [N, 1 or C], and the precision in which the backbone ran."""

    logits: np.ndarray
    precision: str


def _outputs(run: Run, cached: FeaturedExamples, examples: Sequence[Example], finetuned: bool) -> dict[str, _Output]:
    """Return the outputs of the head and, with `finetuned`, of the classifier.

    Raises RunError if an output is not finite.
    """
    features = cached.labelled(examples).features
    head = run.load_model(run.head_file, features.shape[1:]).predict(features, batch_size=1024, verbose=0)
    outputs = {"head": _Output(require_finite(head, run.head_file), cached.config.precision)}
    if finetuned:
        outputs["finetuned"] = _output_of_classifier(run, cached, examples)
    return outputs


def _output_of_classifier(run: Run, cached: FeaturedExamples, examples: Sequence[Example]) -> _Output:
    """Return the output of the fine-tuned classifier on raw images. The backbone runs in its fast form."""
    from headstart.features.images.batches import decoded_batches, why_undecodable
    from headstart.pipeline.classifier import split_classifier

    side = cached.network.images.size
    network, head = split_classifier(run.load_model(run.classifier_file, (side, side, 3)), cached.network)
    backbone, images = network.freeze(), [example.image for example in examples]
    rows: dict[int, np.ndarray] = {}
    with progress("evaluating the classifier", len(examples)) as advance:
        batches = decoded_batches(images, network.images, backbone.images_per_pass)
        for positions, found in backbone.stream(batches):
            features = np.concatenate([found[cut] for cut in network.cuts], axis=1)
            rows.update(zip(positions.tolist(), head.predict_on_batch(features), strict=True))
            advance(len(positions))
    if lost := [image for position, image in enumerate(images) if position not in rows]:
        reject = why_undecodable(lost[0])
        raise DataError(f"{reject.path}: {reject.reason}, {reject.detail} ({len(lost)} such files)")
    logits = np.stack([rows[position] for position in range(len(images))])
    return _Output(require_finite(logits, run.classifier_file), network.backbone.precision)


def _result(
    run: Run, taken: Taken, outputs: Mapping[str, _Output], seen: Seen | None, unchanged: bool
) -> EvaluateResult:
    """Score the outputs of each model, and compare the models."""
    labels, class_names = _labels(taken.examples), run.class_names()
    metrics = {
        model: {
            **score(output.logits, labels, class_names),
            **score_trust(output.logits, labels, read_calibration(run, model)),
            "precision": output.precision,
        }
        for model, output in outputs.items()
    }
    better, *others = sorted(metrics, key=lambda model: (-metrics[model]["accuracy"], metrics[model]["loss"]))
    right = {model: predicted_labels(output.logits) == labels for model, output in outputs.items()}
    counts = np.bincount(labels)
    return EvaluateResult(
        split=taken.split,
        scored=taken.scored,
        n=len(labels),
        largest_class=class_names[int(counts.argmax())],
        largest_class_share=float(counts.max() / len(labels)),
        head=metrics["head"],
        finetuned=metrics.get("finetuned"),
        better=better,
        mcnemar=mcnemar(better, others[0], right[better], right[others[0]]) if others else None,
        unchanged=unchanged,
        predictions_file=run.predictions_file(taken.stem),
        confusion_file=run.confusion_file(taken.stem),
        seen=seen,
    )


def _labels(examples: Sequence[Example]) -> np.ndarray:
    return np.array([example.label for example in examples])
