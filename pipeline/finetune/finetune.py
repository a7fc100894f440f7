"""Phase 2: raw images are streamed, and the top of the backbone is trained on from the head of phase 1."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.errors import OptionError, RunError
from headstart.features.files import require_space
from headstart.features.terminal import console, progress
from headstart.pipeline.check.duplicates import tell_conflicts
from headstart.pipeline.featured import load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.state import FinetuneState
from headstart.pipeline.runs import Run, require_unchanged, versions

_STATE_COPIES = 6  # best weights, weights and momentum; each in work, kept, and being copied

if TYPE_CHECKING:  # Keras takes seconds to import, and what finds an error earlier need not wait
    import keras
    import tensorflow as tf
    from headstart.pipeline.finetune.task import Task


@dataclass(frozen=True)
class FinetuneResult:
    """`before` and `after` have `accuracy` and `loss` on val; `best_epoch` 0 is the head it began with.

    `seconds` are those of the epochs, of earlier starts, too.
    """

    run: str
    before: dict[str, float]
    after: dict[str, float]
    best_epoch: int
    epochs: int
    images_per_second: float
    seconds: float


def finetune(
    path: Path, config: FinetuneConfig, overwrite: bool = False, seed: int = 0, data: Path | None = None
) -> FinetuneResult:
    """Fine-tune the run at `path` and write `classifier.keras` into it.

    What is frozen runs in its fast form, in the run's precision; only the layers above have gradients. The
    classifier that is written is float32.

    The state after each finished epoch is kept in the run, and the same call goes on from there. Epoch 0 counts: the
    result is never worse on val than the head.

    Args:
        overwrite: begin anew where the run is fine-tuned already, or half.
        seed: of order, augmentation and dropout.
        data: where the run's data folder is now, if it was moved.

    Raises:
        RunError: no run, one that is fine-tuned already, or one whose data or weights changed.
        OptionError: no such layer or optimizer.
    """
    from headstart.pipeline.classifier import save_for_inference
    from headstart.pipeline.finetune.task import build_task, classifier_of

    run = Run.open(path)
    settings = {**asdict(config), "seed": seed, "overwrite": overwrite}
    _check_state(run, settings)
    backbone = run.config()["features"]["backbone"]
    if "+" in backbone:
        raise OptionError(
            f"{run.path}: has features of several backbones ({backbone}), and fine-tuning is of one; train a head on "
            "one of them"
        )
    cached = load_examples(run, data)
    require_unchanged(run, cached.examples, cached.class_names, ("train", "val"))
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    state = FinetuneState(run.unfinished)
    if state.start().get("settings") != settings:
        state.drop()
    task = build_task(run, cached, config, seed, state.start().get("precision", "auto"))
    result = _fit(run, state, task, config, settings)
    save_for_inference(classifier_of(task), run.classifier_file)
    head_rows = [row for row in run.history() if row["phase"] == "head"]
    run.write_history([*head_rows, *({"phase": "finetune", **row} for row in state.history())])
    run.forget_evaluations()
    run.update(
        run.metrics_file,
        finetune={
            "best_epoch": result.best_epoch,
            "before": result.before,
            "val": result.after,
            "images_per_second": result.images_per_second,
            "seconds": result.seconds,
        },
    )
    run.update(run.config_file, finetune={**settings, "from_layer_index": task.from_layer, "versions": versions()})
    state.drop()
    return result


def _check_state(run: Run, settings: dict[str, Any]) -> None:
    """Refuse what would redo finished work, or go on with other settings, unless that was asked for."""
    if settings["overwrite"]:
        return
    then = FinetuneState(run.unfinished).start().get("settings")
    if then is None and run.classifier_file.exists():
        raise RunError(f"{run.path}: is fine-tuned already; --overwrite to do it anew")
    changed = [f"{name} {then.get(name)!r}" for name in settings if then and then.get(name) != settings[name]]
    if changed:
        raise RunError(
            f"{run.path}: its fine-tuning was cut off with other settings ({', '.join(changed)}); repeat those to go "
            "on, or --overwrite to begin anew"
        )


def _begin_or_resume(
    state: FinetuneState, model: keras.Model, val: tf.data.Dataset, count: int, start: dict[str, Any], logs: Path
) -> int:
    """Put the last state kept back into work, or evaluate epoch 0 and keep that; the number of epochs done."""
    from headstart.pipeline.training import EvalProgress

    done = state.resume()
    if done is not None:
        console.print(f"going on after epoch {done}")
        return done
    shutil.rmtree(logs, ignore_errors=True)
    with progress("evaluating the head", count) as advance:
        before = model.evaluate(val, verbose=0, return_dict=True, callbacks=[EvalProgress(advance, count)])
    require_space(state.folder.parent, _STATE_COPIES * sum(weight.numpy().nbytes for weight in model.weights))
    state.begin({**start, "before": before})
    model.save_weights(state.best_weights)
    state.keep(0)
    return 0


def _fit(
    run: Run,
    state: FinetuneState,
    task: Task,
    config: FinetuneConfig,
    settings: dict[str, Any],
) -> FinetuneResult:
    """Train the model of `task` for the epochs that are left, and leave it with the weights of the best one."""
    from headstart.pipeline.finetune.task import datasets_of
    from headstart.pipeline.inputs import changes_named, check_files
    from headstart.pipeline.training import EpochCounter, Progress, curves

    model, train, val = task.model, task.cached.of("train"), task.cached.of("val")
    # Curves of both phases lie on one axis, so the epochs of this one count on from the head's.
    offset = sum(row["phase"] == "head" for row in run.history())
    epoch = EpochCounter()
    with changes_named([*train, *val]):
        train_batches, val_batches = datasets_of(task, config, settings["seed"], lambda: epoch.number - offset)
        start = {"settings": settings, "precision": task.cached.network.backbone.precision}
        done = _begin_or_resume(state, model, val_batches, len(val), start, run.logs / "finetune")

        since = time.perf_counter()

        def keep(number: int) -> None:
            nonlocal since
            if task.map_cut is None:
                check_files([*train, *val])
            now = time.perf_counter()
            state.spend(now - since)
            since = now
            state.keep(number - offset + 1)

        with progress("fine-tuning", config.epochs * len(train), done=done * len(train)) as advance:
            speed = Progress(advance, len(train), config.batch_size)
            model.fit(
                train_batches,
                shuffle=False,  # done by the dataset, as a function of seed and epoch
                validation_data=val_batches,
                initial_epoch=offset,
                epochs=offset + config.epochs,
                callbacks=[epoch, speed, curves(run.logs, "finetune"), *_state_callbacks(state, keep)],
                verbose=0,
            )
    model.load_weights(state.best_weights)
    rows = _with_epoch_0(state)
    best_epoch = min(range(len(rows)), key=lambda number: rows[number]["loss"])
    return FinetuneResult(
        str(run.path), rows[0], rows[best_epoch], best_epoch, config.epochs, speed.examples_per_second, state.seconds()
    )


def _with_epoch_0(state: FinetuneState) -> list[dict[str, float]]:
    """Accuracy and loss on val after each epoch, from epoch 0 on."""
    finished = [{"accuracy": row["val_accuracy"], "loss": row["val_loss"]} for row in state.history()]
    return [state.start()["before"], *finished]


def _state_callbacks(state: FinetuneState, keep: Callable[[int], None]) -> list[keras.callbacks.Callback]:
    """Write what the next epoch needs, and what is best so far; then `keep` it as one."""
    import keras
    from headstart.pipeline.training import KeepState

    best_so_far = min(row["loss"] for row in _with_epoch_0(state))
    return [
        keras.callbacks.CSVLogger(state.csv, append=True),
        keras.callbacks.ModelCheckpoint(
            state.best_weights, save_best_only=True, save_weights_only=True, initial_value_threshold=best_so_far
        ),
        keras.callbacks.BackupAndRestore(state.backup, delete_checkpoint=False),
        KeepState(keep),
    ]
