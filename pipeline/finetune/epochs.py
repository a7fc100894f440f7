"""The epochs of phase 2: training goes on from the state of the last finished epoch."""

import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from headstart.features.errors import RunError
from headstart.features.files import require_space
from headstart.features.tensorflow import keras, tf
from headstart.features.terminal import console, progress
from headstart.pipeline.data.examples import Example
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.model import FinetuneModel
from headstart.pipeline.finetune.state import FinetuneState
from headstart.pipeline.inputs import explained, require_unchanged_files
from headstart.pipeline.runs import Run
from headstart.pipeline.training import EpochCounter, EvalProgress, Progress

_WEIGHTS_FILES = 6  # the best and the latest weights, each in `work/`, in the kept state, and in the next kept state


def train_epochs(
    run: Run, state: FinetuneState, built: FinetuneModel, config: FinetuneConfig, settings: dict[str, Any]
) -> tuple[list[dict[str, float]], float]:
    """Train for the epochs that are left, and leave the model with the weights of the best epoch.

    Returns `accuracy` and `loss` on val after each epoch, from epoch 0 on, and the speed of training in images per
    second; see `Progress.examples_per_second`. Raises OSError if the disk has too little room for the state.
    """
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
    return _with_epoch_0(state), speed.examples_per_second


def _begin(
    run: Run, state: FinetuneState, built: FinetuneModel, val_batches: tf.data.Dataset, settings: dict[str, Any]
) -> None:
    """Evaluate epoch 0, the head alone, and keep its state. Raises OSError if the disk has too little room."""
    shutil.rmtree(run.logs / "finetune", ignore_errors=True)
    count = len(built.cached.of("val"))
    with progress("evaluating the head", count) as advance:
        callbacks = [EvalProgress(advance, count)]
        before = built.model.evaluate(val_batches, verbose=0, return_dict=True, callbacks=callbacks)
    if not np.isfinite(before["loss"]):
        raise RunError(f"{run.head_file}: its loss on val is {before['loss']}; train the head again")
    require_space(run.path, _WEIGHTS_FILES * built.state_bytes)
    precision = built.cached.network.backbone.precision
    state.begin({"settings": settings, "precision": precision, "from_layer": built.from_layer, "before": before})
    built.model.save_weights(state.best_weights)
    state.keep(0)


def _state_callbacks(state: FinetuneState, offset: int, examples: Sequence[Example]) -> list[keras.callbacks.Callback]:
    """Return callbacks that write history, best weights and latest weights into `state`, and then keep this state."""
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
    """Return `accuracy` and `loss` on val after each finished epoch, from epoch 0 on."""
    finished = [{"accuracy": row["val_accuracy"], "loss": row["val_loss"]} for row in state.history()]
    return [state.start()["before"], *finished]
