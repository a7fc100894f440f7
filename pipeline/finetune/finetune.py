"""Phase 2: train the head of phase 1 together with the top layers of the backbone."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from headstart.features.backbones.cuts import chosen_backbones
from headstart.features.errors import OptionError, RunError
from headstart.features.files import require_space
from headstart.features.terminal import console, progress
from headstart.pipeline.classifier import save_for_inference
from headstart.pipeline.data.copies import tell_conflicts
from headstart.pipeline.data.examples import Example
from headstart.pipeline.featured import load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.model import FinetuneModel, build_finetune_model
from headstart.pipeline.finetune.state import FinetuneState
from headstart.pipeline.inputs import explained, require_unchanged_files
from headstart.pipeline.runs import Run, require_unchanged, versions
from headstart.pipeline.training import EpochCounter, EvalProgress, Progress

_WEIGHTS_FILES = 6  # at most: best and latest weights, each in `work/`, in the kept state and in the next kept state


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
        """The result as a JSON object."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The result as lines for the console."""
        yield (
            f"val accuracy {self.before['accuracy']:.4f} -> {self.after['accuracy']:.4f}, "
            f"loss {self.before['loss']:.4f} -> {self.after['loss']:.4f} "
            f"(best epoch {self.best_epoch} of {self.epochs}; {self.images_per_second:.1f} images/s after the start)"
        )
        if self.best_epoch == 0:
            yield "no epoch was better than the head alone: the classifier is backbone and head as they were"
        yield f"the classifier is {self.run}/classifier.keras"


def finetune(
    path: Path, config: FinetuneConfig, overwrite: bool = False, seed: int = 0, data: Path | None = None
) -> FinetuneResult:
    """Fine-tune the run at `path` and write `classifier.keras` into it.

    The frozen layers run in their fast form, in the run's precision (int8 is replaced by another). Only the layers
    above them have gradients. The classifier is saved in float32. Epoch 0, before fine-tuning, can be the best epoch.
    So the classifier's loss on val is never above the head's.

    The run keeps the state after each finished epoch. A repeated call with the same settings continues from this state.
    Raises RunError if there is no run, if the run has a classifier, if its data or weights changed, or if an unfinished
    fine-tuning has other settings. Raises OptionError if `config.from_layer` can't be used, or if the run has several
    backbones.

    Args:
        overwrite: start again, even if the run has a classifier or an unfinished fine-tuning.
        seed: decides the order of images, augmentation and dropout.
        data: the run's data folder, if it has moved.
    """
    run = Run.open(path)
    settings = {**asdict(config), "seed": seed}
    state = FinetuneState(run.unfinished)
    resumed = start_to_resume(run, state, settings, overwrite)
    backbones = chosen_backbones(run.configs()[0])
    if len(backbones) > 1:
        raise OptionError(
            f"{run.path}: has features of several backbones ({'+'.join(backbones)}), and fine-tuning is of one; train "
            "a head on one of them"
        )
    cached = load_examples(run, data)
    require_unchanged(run, cached.examples, cached.class_names, ("train", "val"))
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    built = build_finetune_model(run, cached, config, seed, resumed.get("precision", "auto"))
    if not resumed:
        state.drop()
    result = _fit(run, state, built, config, settings)
    _write(run, state, built, result, {**settings, "overwrite": overwrite})
    state.drop()
    return result


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


def _fit(
    run: Run, state: FinetuneState, built: FinetuneModel, config: FinetuneConfig, settings: dict[str, Any]
) -> FinetuneResult:
    """Train for the remaining epochs, and then load the weights of the best epoch into the model."""
    model, train, val = built.model, built.cached.of("train"), built.cached.of("val")
    # Epochs count on from the head's epochs, because the curves of both phases share an axis.
    offset = sum(row["phase"] == "head" for row in run.history())
    epoch = EpochCounter()
    raised: list[Exception] = []
    with explained([*train, *val], raised):
        train_batches, val_batches = built.batches(config, settings["seed"], lambda: epoch.number - offset, raised)
        done = state.resume()
        if done is None:
            _begin(run, state, built, val_batches, settings)
        else:
            console.print(f"going on after epoch {done}; --overwrite begins anew")
        state_callbacks = _state_callbacks(state, offset, [*train, *val] if built.map_cut is None else [])
        with progress("fine-tuning", config.epochs * len(train), done=(done or 0) * len(train)) as advance:
            speed = Progress(advance, len(train), config.batch_size)
            curves = keras.callbacks.TensorBoard(run.logs / "finetune", write_graph=False)
            model.fit(
                train_batches,
                shuffle=False,  # the dataset shuffles, as a function of seed and epoch
                validation_data=val_batches,
                initial_epoch=offset,
                epochs=offset + config.epochs,
                callbacks=[epoch, speed, curves, *state_callbacks],
                verbose=0,
            )
    model.load_weights(state.best_weights)
    rows = _with_epoch_0(state)
    best = min(range(len(rows)), key=lambda number: rows[number]["loss"])
    return FinetuneResult(
        run=str(run.path),
        before=rows[0],
        after=rows[best],
        best_epoch=best,
        epochs=config.epochs,
        images_per_second=speed.examples_per_second,
        seconds=state.seconds(),
    )


def _begin(
    run: Run, state: FinetuneState, built: FinetuneModel, val_batches: tf.data.Dataset, settings: dict[str, Any]
) -> None:
    """Evaluate the model before training, as epoch 0, and keep its state. Raises OSError if the disk lacks space."""
    shutil.rmtree(run.logs / "finetune", ignore_errors=True)
    count = len(built.cached.of("val"))
    with progress("evaluating the head", count) as advance:
        callbacks = [EvalProgress(advance, count)]
        before = built.model.evaluate(val_batches, verbose=0, return_dict=True, callbacks=callbacks)
    require_space(run.path, _WEIGHTS_FILES * built.state_bytes)
    state.begin({"settings": settings, "precision": built.cached.network.backbone.precision, "before": before})
    built.model.save_weights(state.best_weights)
    state.keep(0)


def _state_callbacks(state: FinetuneState, offset: int, examples: Sequence[Example]) -> list[keras.callbacks.Callback]:
    """Callbacks that write history, best weights and latest weights into `work/`, and then call `state.keep`.

    During training, they raise DataError if a file of `examples` is gone or has changed.
    """
    best_so_far = min(row["loss"] for row in _with_epoch_0(state))
    since = time.perf_counter()

    def keep(number: int, logs: dict[str, float]) -> None:
        nonlocal since
        require_unchanged_files(examples)
        now = time.perf_counter()
        state.spend(now - since)
        since = now
        state.keep(number - offset + 1)  # Keras's `number` counts on from the head's epochs

    return [
        keras.callbacks.CSVLogger(state.csv, append=True),
        keras.callbacks.ModelCheckpoint(
            state.best_weights, save_best_only=True, save_weights_only=True, initial_value_threshold=best_so_far
        ),
        keras.callbacks.BackupAndRestore(state.backup, delete_checkpoint=False),
        # This callback comes last, when all others have written.
        keras.callbacks.LambdaCallback(on_epoch_end=keep),
    ]


def _with_epoch_0(state: FinetuneState) -> list[dict[str, float]]:
    """Accuracy and loss on val, one row per finished epoch. The first row is epoch 0, before training."""
    finished = [{"accuracy": row["val_accuracy"], "loss": row["val_loss"]} for row in state.history()]
    return [state.start()["before"], *finished]


def _write(
    run: Run, state: FinetuneState, built: FinetuneModel, result: FinetuneResult, settings: dict[str, Any]
) -> None:
    """Write the classifier, its history, metrics and `settings` into the run."""
    save_for_inference(built.classifier(), run.classifier_file)
    head_rows = [row for row in run.history() if row["phase"] == "head"]
    run.write_history([*head_rows, *({"phase": "finetune", **row} for row in state.history())])
    run.forget_evaluations()
    kept = ("best_epoch", "before", "images_per_second", "seconds")
    run.update(run.metrics_file, finetune={"val": result.after, **{name: getattr(result, name) for name in kept}})
    run.update(run.config_file, finetune={**settings, "from_layer_index": built.from_layer, "versions": versions()})
