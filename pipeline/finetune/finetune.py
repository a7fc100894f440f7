"""Phase 2: train the head of phase 1 together with the top layers of the backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.backbones.cuts import chosen_backbones
from headstart.features.errors import OptionError, RunError
from headstart.pipeline.data.copies import tell_conflicts
from headstart.pipeline.featured import load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.state import FinetuneState
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run, require_unchanged, versions

if TYPE_CHECKING:
    from headstart.pipeline.finetune.model import FinetuneModel


@dataclass(frozen=True)
class FinetuneResult:
    """The metrics of a fine-tuned classifier."""

    run: str
    before: dict[str, float]  # `accuracy` and `loss` of the head on val
    after: dict[str, float]  # `accuracy` and `loss` of the classifier on val, at the best epoch
    best_epoch: int  # counts from 1; 0 means before fine-tuning
    epochs: int
    images_per_second: float  # see `Progress.examples_per_second`
    seconds: float  # spent on the epochs, summed over all starts

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        yield (
            f"val accuracy {self.before['accuracy']:.4f} -> {self.after['accuracy']:.4f}, "
            f"loss {self.before['loss']:.4f} -> {self.after['loss']:.4f} "
            f"(best epoch {self.best_epoch} of {self.epochs}; {self.images_per_second:.1f} images/s after the start)"
        )
        if self.best_epoch == 0:
            yield "no epoch was better than the head alone: the classifier is backbone and head as they were"
        yield f"the classifier is {self.run}/classifier.keras"


def finetune(
    path: Path, config: FinetuneConfig, overwrite: bool = False, seed: int = 0, places: Places = Places()
) -> FinetuneResult:
    """Fine-tune the run at `path` and write `classifier.keras` into it.

    The frozen layers run in their fast form, in the run's precision; int8 is replaced by another precision. Only the
    layers above have gradients. The classifier is saved in float32. Epoch 0, before fine-tuning, can be the best epoch.
    So the classifier's loss on val is never above the head's.

    The run keeps the state after each finished epoch. A repeated call with the same settings continues from this state.
    Raises RunError if there is no run, if the run has a classifier, if its data or weights changed, or if an unfinished
    fine-tuning has other settings. Raises OptionError if `config.from_layer` can't be used, or if the run has several
    backbones.

    Args:
        overwrite: start again, even if the run has a classifier or an unfinished fine-tuning.
        seed: decides the order of images, augmentation and dropout.
        places: where the run's store, weights and data are now.
    """
    run = Run.open(path)
    settings = {**asdict(config), "seed": seed}
    state = FinetuneState(run.unfinished)
    resumed = start_to_resume(run, state, settings, overwrite)
    _require_one_backbone(run)
    cached = load_examples(run, places)
    require_unchanged(run, cached.examples, cached.class_names, ("train", "val"))
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    from headstart.pipeline.finetune.epochs import train_epochs
    from headstart.pipeline.finetune.model import build_finetune_model

    config = _as_begun(run, config, resumed)
    built = build_finetune_model(run, cached, config, seed, resumed.get("precision", "auto"))
    if not resumed:
        state.drop()
    rows, images_per_second = train_epochs(run, state, built, config, settings)
    best = min(range(len(rows)), key=lambda number: rows[number]["loss"])
    result = FinetuneResult(
        run=str(run.path),
        before=rows[0],
        after=rows[best],
        best_epoch=best,
        epochs=config.epochs,
        images_per_second=images_per_second,
        seconds=state.seconds(),
    )
    _write(run, state, built, result, {**settings, "overwrite": overwrite})
    state.drop()
    return result


def _require_one_backbone(run: Run) -> None:
    backbones = chosen_backbones(run.configs()[0])
    if len(backbones) > 1:
        raise OptionError(
            f"{run.path}: has features of several backbones ({'+'.join(backbones)}), and fine-tuning is of one; train "
            "a head on one of them"
        )


def start_to_resume(run: Run, state: FinetuneState, settings: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Return `state.start()` to continue fine-tuning from `state`, or an empty dict to start from epoch 0.

    Without `overwrite`, raises RunError if `state` has other settings, or if the run has a classifier and no state.
    """
    if overwrite:  # the old state is not read, because it may be damaged
        return {}
    start = state.start()
    then = start.get("settings", settings)
    changed = [f"{name} {then.get(name)!r}" for name in settings if then.get(name) != settings[name]]
    if changed:
        raise RunError(
            f"{run.path}: its fine-tuning was cut off with other settings ({', '.join(changed)}); repeat those to go "
            "on, or --overwrite to begin anew"
        )
    if not start and run.classifier_file.exists():
        raise RunError(f"{run.path}: is fine-tuned already; --overwrite to do it anew")
    return start


def _as_begun(run: Run, config: FinetuneConfig, start: dict[str, Any]) -> FinetuneConfig:
    """Return `config` with the first trained layer in `start`, because the default layer may have changed since.

    `start` is the `start.json` of the fine-tuning to resume, or {}. Raises RunError if an earlier version wrote `start`
    and its default layer is unknown.
    """
    if "from_layer" in start:
        return replace(config, from_layer=str(start["from_layer"]))
    if start and not config.from_layer and run.configs()[0].backbone != "inception_v3":
        raise RunError(f"{run.path}: its fine-tuning was begun by an earlier version; begin anew with --overwrite")
    return config


def _write(
    run: Run, state: FinetuneState, built: FinetuneModel, result: FinetuneResult, settings: dict[str, Any]
) -> None:
    """Write the classifier, its history, metrics and `settings` into the run."""
    from headstart.pipeline.classifier import save_for_inference

    save_for_inference(built.classifier(), run.classifier_file)
    head_rows = [row for row in run.history() if row["phase"] == "head"]
    run.write_history([*head_rows, *({"phase": "finetune", **row} for row in state.history())])
    run.forget_evaluations()
    kept = ("best_epoch", "before", "images_per_second", "seconds")
    run.update(run.metrics_file, finetune={"val": result.after, **{name: getattr(result, name) for name in kept}})
    run.update(run.config_file, finetune={**settings, "from_layer_index": built.from_layer, "versions": versions()})
