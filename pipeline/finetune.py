"""Phase 2: raw images are streamed, and the top of the backbone is trained on from the head of phase 1."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from features.errors import OptionError, RunError, check_options
from features.files import require_space
from features.progress import console, progress
from pipeline.cached import CachedExamples, load_backbone, load_examples
from pipeline.duplicates import tell_conflicts
from pipeline.resume import FinetuneState
from pipeline.runs import Run, check_unchanged, versions

_STATE_COPIES = 6  # best weights, weights and momentum; each in work, kept, and being copied

if TYPE_CHECKING:  # Keras takes seconds to import, and `--help` needs no more than the settings below
    import keras
    import tensorflow as tf


@dataclass(frozen=True)
class FinetuneConfig:
    """What is trained, and how. `help` is the command line's."""

    from_layer: str = field(
        default="", metadata={"help": "First layer trained: index or name. Default: the backbone's boundary."}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Step size."})
    momentum: float = field(default=0.9, metadata={"help": "Of sgd and rmsprop."})
    optimizer: str = field(default="sgd", metadata={"help": "sgd, adam, adamw, rmsprop, nadam, adagrad or lion."})
    epochs: int = field(default=10, metadata={"help": "Passes over the training images."})
    batch_size: int = field(default=16, metadata={"help": "Images a step."})
    augment: Literal["none", "flip", "standard"] = field(
        default="standard", metadata={"help": "Random changes: mirror; or mirror, crop, brightness and contrast."}
    )
    thaw_batchnorm: bool = field(default=False, metadata={"help": "Train batch normalisation too."})

    def __post_init__(self) -> None:
        check_options(
            ("--learning-rate", self.learning_rate, self.learning_rate > 0, "over 0"),
            ("--momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and under 1"),
            ("--epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("--batch-size", self.batch_size, self.batch_size >= 1, "at least 1"),
        )


@dataclass(frozen=True)
class FinetuneResult:
    """`before` and `after` have `accuracy` and `loss` on val; `best_epoch` 0 is the head it began with."""

    run: str
    before: dict[str, float]
    after: dict[str, float]
    best_epoch: int
    epochs: int
    images_per_second: float


def finetune(
    path: Path, config: FinetuneConfig, overwrite: bool = False, seed: int = 0, data: Path | None = None
) -> FinetuneResult:
    """Fine-tune the run at `path` and write `classifier.keras` into it.

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
    from pipeline.classifier import save_for_inference

    run = Run.open(path)
    settings = {**asdict(config), "seed": seed, "overwrite": overwrite}
    _check_state(run, settings)
    cached = load_examples(run, data)
    check_unchanged(run, cached.examples, cached.class_names, ("train", "val"))
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    model, from_layer = _build(run, cached, config, seed)
    state = FinetuneState(run.unfinished)
    if state.start().get("settings") != settings:
        state.drop()
    result = _fit(run, state, model, cached, config, settings)
    save_for_inference(model, run.classifier_file)
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
        },
    )
    run.update(run.config_file, finetune={**settings, "from_layer_index": from_layer, "versions": versions()})
    state.drop()
    return result


def _check_state(run: Run, settings: dict[str, Any]) -> None:
    """Refuse what would redo finished work, or go on with other settings, unless that was asked for."""
    if settings["overwrite"]:
        return
    then = FinetuneState(run.unfinished).start().get("settings")
    if then is None and run.classifier_file.exists():
        raise RunError(f"{run.path}: is fine-tuned already; --overwrite to do it anew")
    changed = [f"{name} {then[name]!r}" for name in settings if then and then[name] != settings[name]]
    if changed:
        raise RunError(
            f"{run.path}: its fine-tuning was cut off with other settings ({', '.join(changed)}); repeat those to go "
            "on, or --overwrite to begin anew"
        )


def _build(run: Run, cached: CachedExamples, config: FinetuneConfig, seed: int) -> tuple[keras.Model, int]:
    import keras

    from features.frozen import make_deterministic
    from pipeline.classifier import build_classifier, unfreeze
    from pipeline.training import compile_model, make_optimizer

    keras.utils.set_random_seed(seed)
    backbone = cached.backbone
    if backbone.precision != "float32":  # small steps are lost in bfloat16
        backbone, _, _ = load_backbone(replace(cached.config, precision="float32"))
    from_layer = backbone.layer_index(config.from_layer) if config.from_layer else backbone.boundary(cached.cuts)
    top = max(backbone.layer_index(cut) for cut in cached.cuts)
    if from_layer > top:
        raise OptionError(f"--from-layer {config.from_layer}: above the cut, layer {top}; nothing would be trained")
    unfreeze(backbone, from_layer, config.thaw_batchnorm)
    make_deterministic(backbone.model.layers[from_layer:])
    head = run.load_model(run.head_file)
    model = build_classifier(backbone, cached.cuts, head, training=None if config.thaw_batchnorm else False)
    momentum = {"momentum": config.momentum} if config.optimizer in ("sgd", "rmsprop") else {}
    optimizer = make_optimizer(config.optimizer, config.learning_rate, **momentum)
    compile_model(model, len(cached.class_names), optimizer)
    optimizer.build(model.trainable_variables)
    return model, from_layer


def _begin_or_resume(
    state: FinetuneState, model: keras.Model, val: tf.data.Dataset, count: int, start: dict[str, Any], logs: Path
) -> int:
    """Put the last state kept back into work, or evaluate epoch 0 and keep that; the number of epochs done."""
    from pipeline.training import EvalProgress

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
    model: keras.Model,
    cached: CachedExamples,
    config: FinetuneConfig,
    settings: dict[str, Any],
) -> FinetuneResult:
    """Train `model` for the epochs that are left, and leave it with the weights of the best one."""
    from pipeline.inputs import changes_named, check_files, eval_dataset, train_dataset
    from pipeline.training import EpochCounter, Progress, curves

    train, val = cached.of("train"), cached.of("val")
    val_images = eval_dataset(val, cached.image_config, config.batch_size)
    with changes_named([*train, *val]):
        done = _begin_or_resume(state, model, val_images, len(val), {"settings": settings}, run.logs / "finetune")
        # Curves of both phases lie on one axis, so the epochs of this one count on from the head's.
        offset = sum(row["phase"] == "head" for row in run.history())
        epoch = EpochCounter()
        images = train_dataset(
            train,
            cached.image_config,
            config.batch_size,
            config.augment,
            settings["seed"],
            lambda: epoch.number - offset,
        )

        def keep(number: int) -> None:
            check_files([*train, *val])
            state.keep(number - offset + 1)

        with progress("fine-tuning", config.epochs * len(train), done=done * len(train)) as advance:
            speed = Progress(advance, len(train), config.batch_size)
            model.fit(
                images,
                shuffle=False,  # done by the dataset, as a function of seed and epoch
                validation_data=val_images,
                initial_epoch=offset,
                epochs=offset + config.epochs,
                callbacks=[epoch, speed, curves(run.logs, "finetune"), *_state_callbacks(state, keep)],
                verbose=0,
            )
    model.load_weights(state.best_weights)
    rows = _with_epoch_0(state)
    best_epoch = min(range(len(rows)), key=lambda number: rows[number]["loss"])
    return FinetuneResult(
        str(run.path), rows[0], rows[best_epoch], best_epoch, config.epochs, speed.examples_per_second
    )


def _with_epoch_0(state: FinetuneState) -> list[dict[str, float]]:
    """Accuracy and loss on val after each epoch, from epoch 0 on."""
    finished = [{"accuracy": row["val_accuracy"], "loss": row["val_loss"]} for row in state.history()]
    return [state.start()["before"], *finished]


def _state_callbacks(state: FinetuneState, keep: Callable[[int], None]) -> list[keras.callbacks.Callback]:
    """Write what the next epoch needs, and what is best so far; then `keep` it as one."""
    import keras

    from pipeline.training import KeepState

    best_so_far = min(row["loss"] for row in _with_epoch_0(state))
    return [
        keras.callbacks.CSVLogger(state.csv, append=True),
        keras.callbacks.ModelCheckpoint(
            state.best_weights, save_best_only=True, save_weights_only=True, initial_value_threshold=best_so_far
        ),
        keras.callbacks.BackupAndRestore(state.backup, delete_checkpoint=False),
        KeepState(keep),
    ]
