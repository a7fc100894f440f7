"""The result of `evaluate`: as JSON for `--json` and `metrics.json`, and as lines for the console."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.pipeline.evaluate.seen import Seen
from headstart.pipeline.evaluate.threshold import threshold_lines
from headstart.pipeline.evaluate.trust import trust_lines
from headstart.pipeline.runs.choice import Choice
from headstart.pipeline.scoring.metrics import McNemar, interval_text
from headstart.pipeline.scoring.simple_models import SimpleModels
from rich.table import Table
from rich.text import Text

_MOST_SHOWN = 30  # classes; the table of classes, and the confusion matrix in `metrics.json`, have no more


@dataclass(frozen=True)
class EvaluateResult:
    """Metrics of a run's head and fine-tuned classifier on `n` examples; see `pipeline.scoring.metrics.score`.

    In the dict of each model, the item `precision` is the number format in which the backbone ran, such as `float32`.
    """

    split: str
    scored: str  # a phrase that names the examples
    n: int
    simple: SimpleModels  # simple models on the same examples
    head: dict[str, Any]
    finetuned: dict[str, Any] | None  # None if nothing was fine-tuned, or if `unchanged`
    better: str  # the more accurate model on these examples: `head` or `finetuned`
    answering: Choice  # the model with which `predict` answers; details are of this model
    mcnemar: McNemar | None  # the test of the two models; None without a fine-tuned one, or if their thresholds differ
    unchanged: bool  # whether no epoch of fine-tuning was better than the head
    predictions_file: Path
    confusion_file: Path
    seen: Seen | None = None  # None if the user asked to score the run's training images
    positive: str | None = None  # the positive of two classes
    advice: str = ""  # to cross-validate, where few images were scored

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "split": self.split,
            "scored": self.scored,
            "n": self.n,
            **(self.seen.fields() if self.seen else {}),
            **self.simple.fields(),
            "positive": self.positive,
            **self._models(),
            "better": self.better,
            "answering": self.answering.model,
            "mcnemar": asdict(self.mcnemar) if self.mcnemar else None,
            "predictions_file": str(self.predictions_file),
            "confusion_file": str(self.confusion_file),
        }

    def kept_fields(self) -> dict[str, Any]:
        """Return the fields for `metrics.json`. Paths become file names. Large confusion matrices become None."""
        files = {"predictions_file": self.predictions_file.name, "confusion_file": self.confusion_file.name}
        models = {
            name: metrics | ({"confusion": None} if len(metrics["per_class"]) > _MOST_SHOWN else {})
            for name, metrics in self._models().items()
        }
        return self.fields() | models | files

    def lines(self) -> Iterator[Any]:
        """Yield the summary that is printed without `--json`."""
        yield self._table()
        yield str(self.simple)
        for model, metrics in self._models().items():
            yield from self.simple.verdict(model, metrics["accuracy_interval"])
            yield from threshold_lines(model, metrics, self.positive) if self.positive else ()
        detailed = self.answering.model
        shown = self._models()[detailed]
        if len(shown["per_class"]) <= _MOST_SHOWN:
            yield _class_table(shown["per_class"], detailed)
        if self.unchanged:
            yield "no epoch of fine-tuning was better on val than the head, so there is nothing else to score"
        if self.mcnemar and self.finetuned:
            yield self._verdict(self.mcnemar, self.finetuned)
        elif self.finetuned:
            yield "head and finetuned have different thresholds, so their accuracies are not compared"
        if self.finetuned and self.finetuned["precision"] != self.head["precision"]:
            yield f"the head ran in {self.head['precision']}, the classifier in {self.finetuned['precision']}"
        if detailed != self.better:
            yield f"details are of {detailed}, because `predict` answers with it: {self.answering.reason}"
        yield from trust_lines(self._models(), detailed, self.n)
        if self.advice:
            yield self.advice
        yield f"each image: {self.predictions_file}; each confusion: {self.confusion_file}"

    def _verdict(self, test: McNemar, finetuned: dict[str, Any]) -> str:
        if self.head["accuracy"] == finetuned["accuracy"]:
            return f"head and finetuned are equally accurate on {self.scored}: {test}"
        return f"{self.better} is better on {self.scored}: {test}"

    def _table(self) -> Table:
        top = "top5" if self.head["top5"] is not None else None
        columns = ["balanced_accuracy", "macro_f1", *([top] if top else []), "loss", "auc"]
        headers = {"balanced_accuracy": "balanced", "macro_f1": "macro F1", "top5": "top 5"}
        named = [headers.get(name, name) for name in columns]
        table = Table("", "accuracy", "95 % interval", *named, title=Text(f"{self.n} images of {self.scored}"))
        for name, metrics in self._models().items():
            interval = interval_text(metrics["accuracy_interval"])
            table.add_row(name, _figure(metrics["accuracy"]), interval, *(_figure(metrics[one]) for one in columns))
        return table

    def _models(self) -> dict[str, dict[str, Any]]:
        return {"head": self.head} | ({"finetuned": self.finetuned} if self.finetuned else {})


def _class_table(per_class: dict[str, Any], model: str) -> Table:
    table = Table("class", "images", "precision", "recall", "95 % interval", "F1", title=f"each class, by {model}")
    for name, one in per_class.items():
        recall = _figure(one["recall"]), interval_text(one["recall_interval"])
        table.add_row(Text(name), str(one["support"]), _figure(one["precision"]), *recall, _figure(one["f1"]))
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
