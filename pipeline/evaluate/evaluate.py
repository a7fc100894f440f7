"""Scoring a run on a split: its head on cached features and, where there is one, its classifier on raw images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.frozen import BATCH_SIZE
from headstart.features.errors import DataError
from headstart.features.terminal import console, progress
from headstart.pipeline.data.examples import Example
from headstart.pipeline.featured import CachedExamples, load_examples
from headstart.pipeline.inputs import changes_named, eval_dataset
from headstart.pipeline.metrics import score
from headstart.pipeline.runs import Run, write_csv
from headstart.pipeline.training import EvalProgress


@dataclass(frozen=True)
class EvaluateResult:
    """Metrics (see `pipeline.metrics.score`) of the head and of the fine-tuned classifier, if there is one."""

    split: str
    n: int
    head: dict[str, Any]
    finetuned: dict[str, Any] | None


def evaluate(path: Path, split: str = "test", data: Path | None = None) -> EvaluateResult:
    """Score the run at `path`, write `predictions-<split>.csv` into it and the metrics into its `metrics.json`.

    Args:
        split: `train`, `val`, `test`, or `all` of them.
        data: another folder than the run was trained on, with classes among the run's.

    Raises:
        RunError: no run, or its features can't be made again.
        DataError: no usable images in the split, or a class the run does not know.
    """
    run = Run.open(path)
    class_names: list[str] = run.config()["class_names"]
    cached = load_examples(run, data)
    examples = _labelled(cached, split, class_names, data or Path(run.config()["data"]))
    labels = np.array([example.label for example in examples])
    if cached.rejects:
        console.print(f"{len(cached.rejects)} images can't be used: {cached.config.store}/rejects.csv says why")
    _warn_of_leaks(run, examples, split)
    features = cached.labelled(examples).features
    logits = {"head": run.load_model(run.head_file).predict(features, batch_size=1024, verbose=0)}
    if run.classifier_file.exists():
        classifier = run.load_model(run.classifier_file)
        images = eval_dataset(examples, cached.network.images, cached.config.batch_size or BATCH_SIZE)
        with changes_named(examples), progress("evaluating the classifier", len(examples)) as advance:
            callback = EvalProgress(advance, len(examples))
            logits["finetuned"] = classifier.predict(images, verbose=0, callbacks=[callback])  # [N, 1 or C]
    metrics = {model: score(values, labels, class_names) for model, values in logits.items()}
    _write_predictions(run, split, examples, class_names, logits)
    key = split if data is None else f"{split} of {data}"
    evaluated = {**run.metrics().get("evaluate", {}), key: {"n": len(examples), **metrics}}
    run.update(run.metrics_file, evaluate=evaluated)
    return EvaluateResult(split, len(examples), metrics["head"], metrics.get("finetuned"))


def _labelled(cached: CachedExamples, split: str, class_names: list[str], data: Path) -> list[Example]:
    """The examples of `split`, their labels made to index the run's class names."""
    unknown = sorted(set(cached.class_names) - set(class_names))
    if unknown:
        raise DataError(
            f"{data}: the run knows no class {', '.join(map(repr, unknown))}; it has {', '.join(class_names)}"
        )
    examples = cached.of(split)
    if not examples:
        raise DataError(f"{data}: the {split} split has no usable images; choose another --split")
    return [
        Example(example.image, class_names.index(cached.class_names[example.label]), example.split)
        for example in examples
    ]


def _warn_of_leaks(run: Run, examples: list[Example], split: str) -> None:
    trained = run.digests("train")
    leaked = [example for example in examples if example.image.digest in trained]
    if leaked and split not in ("train", "all"):
        console.print(
            f"warning: {len(leaked)} images of {split} are in train too, {leaked[0].image.path} the first",
            style="yellow",
        )


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
