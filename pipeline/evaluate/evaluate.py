"""Score a run on a split: the head on cached features and, after fine-tuning, the classifier on raw images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import DataError
from headstart.features.terminal import console, progress
from headstart.pipeline.data.examples import Example
from headstart.pipeline.evaluate.seen import Seen, seen_in_training
from headstart.pipeline.featured import FeaturedExamples, load_examples
from headstart.pipeline.metrics import score
from headstart.pipeline.places import Places, run_data
from headstart.pipeline.runs import Run, require_finite, write_csv
from rich.table import Table


@dataclass(frozen=True)
class EvaluateResult:
    """Metrics (see `pipeline.metrics.score`) of a run's head and fine-tuned classifier on `n` examples of a split."""

    split: str
    n: int
    head: dict[str, Any]
    finetuned: dict[str, Any] | None
    seen: Seen | None = None  # None for `train` and `all`, which contain training images

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"split": self.split, "n": self.n, **(self.seen.fields() if self.seen else {}), **self._models()}

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        table = Table("", "accuracy", "95 % interval", "loss", "auc", title=f"{self.n} images of {self.split}")
        for name, metrics in self._models().items():
            low, high = metrics["accuracy_interval"]
            auc = "-" if metrics["auc"] is None else f"{metrics['auc']:.4f}"
            table.add_row(name, f"{metrics['accuracy']:.4f}", f"{low:.4f} - {high:.4f}", f"{metrics['loss']:.4f}", auc)
        return [table]

    def _models(self) -> dict[str, dict[str, Any]]:
        return {"head": self.head} | ({"finetuned": self.finetuned} if self.finetuned else {})


def evaluate(path: Path, split: str = "test", places: Places = Places()) -> EvaluateResult:
    """Score the run at `path`. Write `predictions-<split>.csv` into the run, and the metrics into its `metrics.json`.

    Raises RunError if there is no run, or if the features of its head can't be made again. Raises DataError if the
    split has no usable images, or if the data folder has a class that the run does not know.

    Args:
        split: `train`, `val`, `test`, or `all` for all three.
        places: where the run's store, weights and data are now; another `data` may be named to score that.
    """
    run = Run.open(path)
    class_names = run.class_names()
    cached = load_examples(run, places)
    data = places.data
    examples = _labelled(cached, split, class_names, run_data(run, places))
    labels = np.array([example.label for example in examples])
    if cached.rejects:
        console.print(f"{len(cached.rejects)} images can't be used: {cached.extraction.store}/rejects.csv says why")
    seen = seen_in_training(run, cached, examples, data is not None) if split not in ("train", "all") else None
    for line in seen.lines(split) if seen else []:
        console.print(line, style="yellow")
    features = cached.labelled(examples).features
    head = run.load_model(run.head_file, features.shape[1:])
    logits = {"head": head.predict(features, batch_size=1024, verbose=0)}  # [N, 1 or C]
    if run.classifier_file.exists():
        logits["finetuned"] = _logits_of_classifier(run, cached, examples)
    files = {"head": run.head_file, "finetuned": run.classifier_file}
    logits = {model: require_finite(values, files[model]) for model, values in logits.items()}
    metrics = {model: score(values, labels, class_names) for model, values in logits.items()}
    _write_predictions(run, split, examples, class_names, logits)
    key = split if data is None else f"{split} of {data}"
    result = EvaluateResult(split, len(examples), metrics["head"], metrics.get("finetuned"), seen)
    run.update(run.metrics_file, evaluate={**run.metrics().get("evaluate", {}), key: result.fields()})
    return result


def _logits_of_classifier(run: Run, cached: FeaturedExamples, examples: list[Example]) -> np.ndarray:
    """Return the logits of the fine-tuned classifier on raw images, float32 [N, 1 or C]."""
    from headstart.features.frozen.frozen import default_batch_size
    from headstart.pipeline.inputs import eval_dataset, explained
    from headstart.pipeline.training import EvalProgress

    side = cached.network.images.size
    classifier = run.load_model(run.classifier_file, (side, side, 3))
    images = eval_dataset(examples, cached.network.images, cached.extraction.batch_size or default_batch_size())
    with explained(examples), progress("evaluating the classifier", len(examples)) as advance:
        callback = EvalProgress(advance, len(examples))
        logits: np.ndarray = classifier.predict(images, verbose=0, callbacks=[callback])
    return logits


def _labelled(cached: FeaturedExamples, split: str, class_names: list[str], data: Path) -> list[Example]:
    """Return the examples of `split`, with labels that are indices into `class_names`, the run's class names.

    Raises DataError if there are no such examples, or if the data have a class that the run does not know.
    """
    if unknown := sorted(set(cached.class_names) - set(class_names)):
        names = ", ".join(map(repr, unknown))
        raise DataError(f"{data}: the run knows no class {names}; it has {', '.join(class_names)}")
    examples = cached.of(split)
    if not examples:
        raise DataError(f"{data}: the {split} split has no usable images; choose another --split")
    return [replace(one, label=class_names.index(cached.class_names[one.label])) for one in examples]


def _write_predictions(
    run: Run, split: str, examples: list[Example], class_names: list[str], logits: dict[str, np.ndarray]
) -> None:
    units = class_names[1:] if len(class_names) == 2 else class_names
    write_csv(
        run.predictions_file(split),
        ["path", "digest", "label", *(f"{model}:{name}" for model in logits for name in units)],
        (
            [example.image.path, example.image.digest, class_names[example.label], *map(float, row)]
            for example, row in zip(examples, np.concatenate(list(logits.values()), axis=1), strict=True)
        ),
    )
