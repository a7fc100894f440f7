"""The epochs of phase 2. A training that is continued begins with the state of the last finished epoch."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import RunError
from headstart.features.files import require_space
from headstart.features.tensorflow import keras, tf
from headstart.features.terminal import console, progress
from headstart.pipeline.data.examples import Example
from headstart.pipeline.finetune.batches import Batches, MapBatches, make_batches
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.course import Course, as_text, cost_line
from headstart.pipeline.finetune.model import FinetuneModel
from headstart.pipeline.finetune.start import Start
from headstart.pipeline.finetune.state import FinetuneState, write_epochs
from headstart.pipeline.inputs import explained, require_unchanged_files
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.calibration import Calibration, calibrate
from headstart.pipeline.scoring.choosing import ChooseBy, as_json, val_figures
from headstart.pipeline.scoring.unlike import Reference, usual
from headstart.pipeline.training import EpochCounter, Progress, class_weights

_TIMED_STEPS = 2  # after the first step, which builds the graph


@dataclass(frozen=True)
class Trained:
    """The figures, the speed and the calibration of the model that `train_epochs` trained."""

    course: Course  # the figures on val after each epoch
    images_per_second: float  # see `Progress.examples_per_second`; 0 if no epoch was left
    calibrated: tuple[Calibration, Reference] | None  # None if no epoch was better than the head; see `_calibrated`


def train_epochs(
    run: Run,
    state: FinetuneState,
    built: FinetuneModel,
    config: FinetuneConfig,
    choose_by: ChooseBy,
    settings: dict[str, Any],
) -> Trained:
    """Train for the remaining epochs. Then set the model to the weights of the best epoch.

    Raises OSError if the disk has too little space for the state, and DataError if an image file is gone or changed.
    Raises RunError if the head's outputs are not finite, or if the state is damaged.
    """
    # The numbers of epochs continue the head's numbers, because the curves of both phases share an axis.
    offset = sum(row["phase"] == "head" for row in run.history())
    counter, raised = EpochCounter(), list[Exception]()
    train, val = built.cached.of("train"), built.cached.of("val")
    with explained([*train, *val], raised):
        batches = make_batches(built, config, settings["seed"], lambda: counter.number - offset, raised)
        val_seconds = None
        require_space(run.path, (1 if state.kept() else 2) * built.state_bytes)
        if state.kept() is None:
            val_seconds = _begin(run, state, built, batches.val, choose_by, settings)
        else:
            built.load_best(_kept(state))  # if the weights are damaged, the error comes before hours of training
        course = state.course(choose_by)
        speed = 0.0
        if course.done < config.epochs and not course.stops(config.patience):
            keeper = _Keeper(state, built, config, course, batches.val)
            speed = _fit(run, keeper, batches.train, counter, offset, val_seconds)
        built.load_best(_kept(state))
        calibrated = _calibrated(built, batches) if course.best else None
    return Trained(course, speed, calibrated)


def _calibrated(built: FinetuneModel, batches: Batches) -> tuple[Calibration, Reference] | None:
    """Return a pair: the model's calibration on val, and the model's `Reference`.

    If the model's features are not finite, return None in place of the pair.
    """
    kept, found = [], []
    with progress("calibrating", batches.reference_images + len(built.cached.of("val"))) as advance:
        for inputs, labels in batches.reference:
            kept.append(built.scored.predict_on_batch(inputs)[0])
            advance(len(labels))
        reference = Reference.of(np.concatenate(kept).astype(np.float32))
        for inputs, labels in batches.val:  # the features of all of val may be large
            features, logits = built.scored.predict_on_batch(inputs)
            found.append((reference.distances(features.astype(np.float32)), logits, np.asarray(labels)))
            advance(len(labels))
    distances, logits, labels = map(np.concatenate, zip(*found, strict=True))
    if not np.isfinite(distances).all():  # possible in a model that nearly diverged, even if logits are finite
        console.print("the features of the best epoch are not finite, so its probabilities are not calibrated")
        return None
    return calibrate(logits, labels, usual(distances)), reference


def _begin(
    run: Run,
    state: FinetuneState,
    built: FinetuneModel,
    val_batches: MapBatches,
    choose_by: ChooseBy,
    settings: dict[str, Any],
) -> float:
    """Evaluate the head alone, and keep it as epoch 0. Return the seconds that another evaluation will take."""
    shutil.rmtree(run.logs / "finetune", ignore_errors=True)
    since = time.perf_counter()
    with progress("evaluating the head", len(built.cached.of("val"))) as advance:
        before = _figures(built, val_batches, choose_by, advance)
    seconds = time.perf_counter() - since - val_batches.kept_seconds
    require_unchanged_files(_read_examples(built))
    if not np.isfinite(before["loss"]):
        raise RunError(f"{run.head_file}: its outputs on val are not finite; train the head again, with --overwrite")
    console.print(f"epoch 0, the head alone: val {as_text(before)}")
    precision = built.cached.network.backbone.precision
    assert precision != "int8"  # an int8 backbone has no gradients
    state.begin(Start(settings=settings, precision=precision, from_layer=built.from_layer, before=as_json(before)))
    with state.keep(0) as folder:
        built.save_best(folder)
        write_epochs(folder, [], 0.0)
    return seconds


def _figures(
    built: FinetuneModel, batches: MapBatches, choose_by: ChooseBy, advance: Callable[[int], None] = lambda _: None
) -> dict[str, float]:
    """Return the `val_figures` of the model. `advance` is called with the number of images in each finished batch."""
    found = []
    for inputs, labels in batches:
        found.append((built.scored.predict_on_batch(inputs)[1], np.asarray(labels)))
        advance(len(labels))
    logits, labels = map(np.concatenate, zip(*found, strict=True))
    return val_figures(choose_by, logits, labels)


def _kept(state: FinetuneState) -> Path:
    kept = state.kept()
    assert kept is not None  # `_begin` keeps a state
    return kept


class _Keeper:
    """Validates the model and writes the state to disk after each epoch. Ends a training that no longer improves."""

    def __init__(
        self,
        state: FinetuneState,
        built: FinetuneModel,
        config: FinetuneConfig,
        course: Course,
        val_batches: MapBatches,
    ) -> None:
        self.state, self.built, self.config, self.course = state, built, config, course
        self._val_batches = val_batches
        self._rows, self._seconds = state.history(), state.seconds()
        self._since = time.perf_counter()

    @property
    def seconds_an_epoch(self) -> float:
        """Return the mean duration of the finished epochs, validation included."""
        return self._seconds / max(self.course.done, 1)

    def validate(self, _: int, logs: dict[str, float]) -> None:
        """Add the figures on val to `logs`, for the callbacks that follow.

        If a weight of the model is not finite, all figures are NaN.
        """
        figures = _figures(self.built, self._val_batches, self.course.choose_by)
        # ReLU and batch normalisation may give finite outputs even if a weight is not finite.
        if not all(np.isfinite(weight).all() for weight in self.built.model.get_weights()):
            figures = dict.fromkeys(figures, math.nan)
        logs.update({f"val_{name}": value for name, value in figures.items()})

    def keep(self, _: int, logs: dict[str, float]) -> None:
        """Write the state after an epoch to disk, and stop the training if it no longer improves."""
        require_unchanged_files(_read_examples(self.built))
        course, previous = self.course, _kept(self.state)
        course.figures.append({name: logs[f"val_{name}"] for name in course.figures[0]})
        self._rows.append({"epoch": course.done, **{name: float(value) for name, value in logs.items()}})
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now
        with self.state.keep(course.done) as folder:
            write_epochs(folder, self._rows, self._seconds)
            self.built.save_latest(folder)
            if course.best == course.done:
                self.built.save_best(folder)
            else:
                self.built.copy_best(previous, folder)
        console.print(course.line(logs, self.config.epochs))
        self.built.model.stop_training = course.stops(self.config.patience)


def _read_examples(built: FinetuneModel) -> Sequence[Example]:
    """Return the examples of train and val, or [] if the model takes cached maps and reads no image files."""
    return [*built.cached.of("train"), *built.cached.of("val")] if built.map_cut is None else []


def _fit(
    run: Run,
    keeper: _Keeper,
    batches: tf.data.Dataset,
    counter: EpochCounter,
    offset: int,
    val_seconds: float | None,
) -> float:
    """Train the remaining epochs, and print their expected duration. Return the speed in images per second."""
    config, built, done = keeper.config, keeper.built, keeper.course.done
    train = built.cached.of("train")
    if done:
        built.load_latest(_kept(keeper.state))
        console.print(f"going on after epoch {done}; --overwrite begins anew")
        console.print(cost_line(config.epochs - done, keeper.seconds_an_epoch, config.patience))
    labels = np.array([example.label for example in train], np.int64)
    weights = class_weights(labels, len(built.cached.class_names), config.class_weight)
    told_at = min(_TIMED_STEPS, -(-len(train) // config.batch_size) - 1)
    with progress("fine-tuning", config.epochs * len(train), done=done * len(train)) as advance:
        speed = Progress(advance, len(train), config.batch_size)

        def tell_cost(step: int, logs: object) -> None:
            if step == told_at and keeper.course.done == 0 and speed.examples_per_second:
                seconds = len(train) / speed.examples_per_second + (val_seconds or 0.0)
                console.print(cost_line(config.epochs, seconds, config.patience))

        built.model.fit(
            batches,
            shuffle=False,  # the dataset shuffles, as a function of seed and epoch
            class_weight=None if weights is None else dict(enumerate(weights.tolist())),
            initial_epoch=offset + done,
            epochs=offset + config.epochs,
            # Keras's `EarlyStopping` and `ModelCheckpoint` forget the best epoch when a training is resumed.
            callbacks=[
                counter,
                speed,
                keras.callbacks.LambdaCallback(on_train_batch_end=tell_cost, on_epoch_end=keeper.validate),
                keras.callbacks.TensorBoard(run.logs / "finetune", write_graph=False),
                # This callback comes last, when all others have written.
                keras.callbacks.LambdaCallback(on_epoch_end=keeper.keep),
            ],
            verbose=0,
        )
    return speed.examples_per_second
