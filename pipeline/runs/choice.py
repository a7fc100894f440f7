"""Choose which model of a run classifies images: the head, or the fine-tuned classifier."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from headstart.features.errors import HeadstartError, OptionError, RunError
from headstart.pipeline.runs.run import Run
from headstart.pipeline.scoring.choosing import CHOICES, ChooseBy, rank
from headstart.pipeline.scoring.thresholds import Threshold

Model = Literal["head", "finetuned"]


@dataclass(frozen=True)
class Choice:
    """The model that classifies images, and the reason why it was chosen."""

    model: Model
    reason: str
    alike: bool = False  # whether both models give the same answers, because no epoch of fine-tuning was the best
    threshold: Threshold | None = None  # of two classes; None predicts the likelier one

    def line(self) -> str:
        """Return a line that names the model and the reason, for a person."""
        who = "the head" if self.model == "head" else "the fine-tuned classifier"
        return f"{who} answers: {self.reason}{f'; {self.threshold}' if self.threshold else ''}"

    def fields(self) -> dict[str, Any]:
        """Return the model, the reason and the threshold, for JSON."""
        threshold = asdict(self.threshold) if self.threshold else None
        return {"model": self.model, "reason": self.reason, "threshold": threshold}


def choose_model(run: Run, asked: Model | Literal["auto"], threshold: float | None = None) -> Choice:
    """Choose which model of `run` classifies images.

    If `asked` is `head` or `finetuned`, this model is chosen. If `asked` is `auto`, the fine-tuned classifier is
    chosen, except in two cases. The head is chosen if the run has no fine-tuned classifier, or if the run's figures
    show that fine-tuning gained nothing on val.

    If `threshold` is given, it replaces the run's own threshold. Raises RunError if `asked` is `finetuned` and the run
    has no fine-tuned classifier. Raises OptionError if `threshold` is given and the run does not have two classes.
    """
    choice, names = _model(run, asked), run.class_names()
    kept = run.threshold(choice.model)
    if threshold is None:
        return replace(choice, threshold=kept)
    if len(names) != 2:
        raise OptionError(f"--threshold {threshold:g}: is for two classes; {run.path} has {len(names)}")
    positive = kept.positive if kept else names[1]
    return replace(choice, threshold=Threshold(positive, threshold, "given by --threshold"))


def _model(run: Run, asked: Model | Literal["auto"]) -> Choice:
    tuned = run.classifier_file.exists()
    if asked == "finetuned" and not tuned:
        raise RunError(f"{run.path}: --model finetuned: it has none; `headstart finetune {run.path}` makes one")
    if not tuned:
        return Choice("head", "nothing was fine-tuned")
    figures = _figures(run)
    if asked != "auto":
        return Choice(asked, f"--model asks for it{f' ({figures.text})' if figures else ''}")
    if figures is None and run.finetuning_gained_nothing():
        return Choice("head", "no epoch of fine-tuning was better on val", alike=True)
    if figures is None:
        return Choice("finetuned", "the run does not say how good it was before fine-tuning")
    if figures.gained:
        return Choice("finetuned", f"fine-tuning gained on val ({figures.text})")
    return Choice("head", f"fine-tuning gained nothing on val ({figures.text})", alike=run.finetuning_gained_nothing())


def without_network(choice: Choice, weights_named: bool, error: HeadstartError) -> Choice:
    """Choose the fine-tuned classifier in place of a head whose network can't be loaded.

    `choice` is the choice of the head, and `error` is the error that loading raised. `error` is raised again in two
    cases:

    - The fine-tuned classifier might give other answers than the head: `choice.alike` is false.
    - The user named weights: `weights_named` is true.
    """
    if not choice.alike or weights_named:
        raise error
    reason = f"it has the values of the head, whose network can't be loaded ({error})"
    return replace(choice, model="finetuned", reason=reason)


@dataclass(frozen=True)
class _Figures:
    gained: bool
    text: str  # the figure that decides, for both models


def _figures(run: Run) -> _Figures | None:
    """Compare the fine-tuned classifier with the head on val. Return None if the loss of either is missing."""
    found = run.metrics().get("finetune", {})
    before, after = found.get("before"), found.get("val")
    if not _has_loss(before) or not _has_loss(after):
        return None
    asked = run.config().get("finetune", {}).get("choose_by") or run.config().get("head", {}).get("choose_by")
    known = asked in CHOICES and all(asked in figures for figures in (before, after))
    by = cast(ChooseBy, asked if known else "loss")
    shown = by if by in before else "loss"
    text = f"{shown} {after[shown]:.4f} fine-tuned, {before[shown]:.4f} of the head"
    return _Figures(not run.finetuning_gained_nothing() and rank(by, after) < rank(by, before), text)


def _has_loss(figures: Any) -> bool:
    return isinstance(figures, Mapping) and isinstance(figures.get("loss"), int | float)
