"""Phase 2: train the head of phase 1 together with the top layers of the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.backbones.cuts import chosen_backbones
from headstart.features.errors import OptionError
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.options import flags
from headstart.features.terminal import console
from headstart.pipeline.data.copies import tell_conflicts
from headstart.pipeline.featured import load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.forgetting import forget_classifier
from headstart.pipeline.finetune.result import FinetuneResult
from headstart.pipeline.finetune.resuming import Plan, as_begun, make_plan
from headstart.pipeline.finetune.state import FinetuneState
from headstart.pipeline.locating import run_data, run_store
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run, forget_calibration, require_unchanged, versions, write_calibration

if TYPE_CHECKING:
    from headstart.pipeline.finetune.epochs import Trained
    from headstart.pipeline.finetune.model import FinetuneModel


def finetune(
    path: Path, config: FinetuneConfig, overwrite: bool = False, seed: int = 0, places: Places = Places()
) -> FinetuneResult:
    """Fine-tune the run at `path` and write `classifier.keras` into it.

    The frozen layers run in the precision of the run's features. If this precision is int8, the frozen layers run in
    bfloat16 or float32 instead. The classifier is saved in float32.

    A figure on val decides the best epoch. Epoch 0 is the model before fine-tuning. Because epoch 0 can be the best
    epoch, the figure of the classifier is never worse than the figure of the head.

    The run keeps the state after the last finished epoch. A repeated call goes on from this state, and gives the same
    result as one call with all epochs. The repeated call must have the same settings, except for these two:
    - the patience
    - the number of epochs, if the schedule is not `cosine`

    Args:
        overwrite: whether to begin anew, even if the run has a classifier or an unfinished fine-tuning.
        seed: decides the order of images, augmentation and dropout.
        places: where the run's store, weights and data are now.

    Raises:
        RunError: there is no run, no epoch is left, the run's data or weights changed, or the state has other settings.
        OptionError: `config.from_layer` or `config.warmup` can't be used, or the run has several backbones.
    """
    run = Run.open(path)
    plan = make_plan(run, config, seed, overwrite)
    _require_one_backbone(run)
    with bytes_kept(run_store(run, places), run_data(run, places)):
        return _finetune(run, config, plan, seed, places, overwrite)


def _finetune(
    run: Run, config: FinetuneConfig, plan: Plan, seed: int, places: Places, overwrite: bool
) -> FinetuneResult:
    """Fine-tune `run` as `plan` says, write the classifier into the run, and return the result; see `finetune`."""
    cached = load_examples(run, places)
    require_unchanged(run, cached.examples, cached.class_names, ("train", "val"))
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    from headstart.pipeline.finetune.epochs import train_epochs
    from headstart.pipeline.finetune.model import build_finetune_model

    begun, state = as_begun(run, plan.config, plan.start), plan.state
    built = build_finetune_model(run, cached, begun, seed, plan.start.precision if plan.start else "auto")
    if plan.start:
        state.move(run.unfinished)
    else:
        state.drop()
    trained = train_epochs(run, state, built, begun, plan.choose_by, plan.settings)
    result = FinetuneResult(
        run=str(run.path),
        course=trained.course,
        epochs=config.epochs,
        images_per_second=trained.images_per_second,
        seconds=state.seconds(),
        learning_rate=config.learning_rate,
        repeat=[*flags(config), *([f"--seed={seed}"] if seed else []), *flags(places)],
    )
    _write(run, state, built, result, trained, {**plan.settings, "overwrite": overwrite})
    state.move(run.finished)
    _tell_threshold(run, result)
    return result


def _tell_threshold(run: Run, result: FinetuneResult) -> None:
    """Tell the user that the new classifier has no threshold.

    The message is printed only if the head has a threshold, and fine-tuning improved the head.
    """
    if result.best_epoch and run.threshold("head"):
        console.print(
            f"the threshold of the head is not that of the classifier, which has none; `headstart evaluate {run.path}` "
            "chooses one, as by --sensitivity"
        )


def _require_one_backbone(run: Run) -> None:
    backbones = chosen_backbones(run.feature_config())
    if len(backbones) > 1:
        raise OptionError(
            f"{run.path}: has features of several backbones ({'+'.join(backbones)}), and fine-tuning is of one; train "
            "a head on one of them"
        )


def _write(
    run: Run,
    state: FinetuneState,
    built: FinetuneModel,
    result: FinetuneResult,
    trained: Trained,
    settings: dict[str, Any],
) -> None:
    """Write the classifier into the run, with its history, metrics, calibration and settings."""
    from headstart.pipeline.classifier import save_for_inference

    forget_calibration(run, "finetuned")  # if a kill follows, a missing calibration is better than a wrong one
    save_for_inference(built.classifier(), run.classifier_file)
    head_rows = [row for row in run.history() if row["phase"] == "head"]
    run.write_history([*head_rows, *({"phase": "finetune", **row} for row in state.history())])
    forget_classifier(run)
    fields = result.fields()
    kept = ("best_epoch", "epochs_done", "stopped_early", "choose_by", "before", "images_per_second", "seconds")
    run.update(run.metrics_file, finetune={"val": fields["after"], **{name: fields[name] for name in kept}})
    run.update(run.config_file, finetune={**settings, "from_layer_index": built.from_layer, "versions": versions()})
    if trained.calibrated:
        write_calibration(run, "finetuned", *trained.calibrated)
