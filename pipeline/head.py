"""Phase 1: a dense head on cached features."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from features.errors import DataError, check_options
from features.progress import progress

if TYPE_CHECKING:  # Keras takes seconds to import, and `--help` needs no more than the settings below
    import keras

# A feature that hardly varies over the training set would be blown up by its standard deviation; relative to the mean
# variance of all features.
_VARIANCE_FLOOR = 1e-6
# In standard deviations. What comes out of a relu has a long tail, and a few outliers would outweigh the rest: with the
# limit, heads were right on 0.8 points more of 400 held-out photographs, over five splits.
_CLIP = 3.0
# Evaluated and kept is a running average of the weights, over about 1,300 examples (Polyak & Juditsky 1992,
# doi:10.1137/0330046): 0.1 to 0.3 points more of the held-out photographs, over forty splits. A step of 64.
_AVERAGING = 0.95
# Adam's traffic is per step, not per example: at 64 an epoch takes twice as long as at 256. But in ten epochs of a few
# hundred examples, batches of 256 would be too few steps.
_SMALLEST_BATCH, _LARGEST_BATCH, _STEPS_AN_EPOCH = 64, 256, 8
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "nadam", "adagrad", "lion")
_STEPS = 50  # in one execution: beyond that nothing is gained


def parse_units(text: str) -> int:
    """Units of a hidden layer from the command line; `none` is 0, which alone stands for no hidden layer."""
    try:
        return 0 if text == "none" else int(text)
    except ValueError:
        raise ValueError(f"must be a number, or none. Received: {text}") from None


@dataclass(frozen=True)
class HeadConfig:
    """Layers and training of a head. `help` is the command line's."""

    units: tuple[int, ...] = field(
        default=(1024,),
        metadata={"help": "Units of a hidden layer; repeatable. none gives a linear head.", "parser": parse_units},
    )
    dropout: float = field(default=0.3, metadata={"help": "After each hidden layer."})
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled, as in AdamW."})
    optimizer: str = field(default="adam", metadata={"help": "adam, adamw, sgd, rmsprop, nadam, adagrad or lion."})
    learning_rate: float = field(
        default=0.0, metadata={"help": "Step size; 0 is 3e-4 for batches of 64, and twice that for 256."}
    )
    epochs: int = field(default=10, metadata={"help": "Passes over the training examples."})
    batch_size: int = field(
        default=0,
        metadata={"help": "Examples a step; 0 is 64 to 256, the more there are.", "flag": "--head-batch-size"},
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Share of an even distribution in what is trained towards."}
    )
    class_weight: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced weighs classes by their rarity."}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", () if tuple(self.units) == (0,) else tuple(self.units))
        check_options(
            (
                "--units",
                ", ".join(map(str, self.units)),
                all(units >= 1 for units in self.units),
                "at least 1, or none alone",
            ),
            ("--dropout", self.dropout, 0 <= self.dropout < 1, "at least 0 and under 1"),
            ("--weight-decay", self.weight_decay, self.weight_decay >= 0, "at least 0"),
            ("--label-smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "at least 0 and under 1"),
            ("--learning-rate", self.learning_rate, self.learning_rate >= 0, "over 0, or 0 to choose"),
            ("--epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("--head-batch-size", self.batch_size, self.batch_size >= 0, "at least 1, or 0 to choose"),
        )

    def for_examples(self, count: int) -> HeadConfig:
        """These settings with what was left open chosen for `count` training examples.

        The step grows with the root of the batch, as the noise of the gradient falls (Krizhevsky 2014,
        arXiv:1404.5997).
        """
        fitting = 1 << max(count // _STEPS_AN_EPOCH, 1).bit_length() - 1  # the next power of two below
        batch_size = self.batch_size or min(max(fitting, _SMALLEST_BATCH), _LARGEST_BATCH)
        return replace(
            self,
            batch_size=batch_size,
            learning_rate=self.learning_rate or 3e-4 * math.sqrt(batch_size / _SMALLEST_BATCH),
        )


@dataclass(frozen=True)
class TrainedHead:
    """A head at its best epoch on val. `history` has a row an epoch; epochs count from 1."""

    model: keras.Model
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float

    @property
    def val(self) -> dict[str, float]:
        """Accuracy and loss on val at the best epoch."""
        best = self.history[self.best_epoch - 1]
        return {"accuracy": best["val_accuracy"], "loss": best["val_loss"]}


def build_head(features: np.ndarray, classes: int, config: HeadConfig) -> keras.Model:
    """Build a head that standardises its input by the mean and variance of `features`, within 3 deviations.

    Args:
        features: float [N, D], of the training examples.
        classes: how many; two give one logit, more give one a class.

    Returns:
        A model from float32 [B, D] to logits float32 [B, 1 or classes].
    """
    import keras

    from pipeline.training import logit_units

    mean = features.mean(axis=0, dtype=np.float64)
    variance = features.var(axis=0, dtype=np.float64)
    variance = np.maximum(variance, _VARIANCE_FLOOR * variance.mean())
    variance[variance == 0] = 1.0
    inputs = x = keras.Input((features.shape[1],), name="features")
    x = keras.layers.Normalization(mean=mean, variance=variance, name="standardise")(x)
    x = keras.ops.clip(x, -_CLIP, _CLIP)
    for units in config.units:
        x = keras.layers.Dense(units, activation="relu")(x)
        x = keras.layers.Dropout(config.dropout)(x)
    logits = keras.layers.Dense(logit_units(classes), name="logits")(x)
    return keras.Model(inputs, logits, name="head")


def train_head(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    classes: int,
    config: HeadConfig,
    seed: int = 0,
    logs: Path | None = None,
    views: Sequence[np.ndarray] = (),
) -> TrainedHead:
    """Train a head and keep its best epoch by loss on val, showing how far it is.

    Args:
        train, val, classes, config, seed, views: as of `fit_head`.
        logs: folder for TensorBoard's curves, or None.

    Raises:
        OptionError, DataError: as `fit_head`.
    """
    from pipeline.training import Progress, curves

    count = len(train[1])
    config = config.for_examples(count)
    with progress("training the head", config.epochs * count, "examples") as advance:
        callbacks = [Progress(advance, count, config.batch_size), *([curves(logs, "head")] if logs else [])]
        return fit_head(train, val, classes, config, seed, views, callbacks)


def fit_head(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    classes: int,
    config: HeadConfig,
    seed: int = 0,
    views: Sequence[np.ndarray] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainedHead:
    """Train a head and keep its best epoch by loss on val.

    Args:
        train: features float32 [N, D] and labels int64 [N] in [0, classes).
        val: the same, of the validation examples.
        views: other features [N, D] of the training examples; each epoch takes one of them in place of `train`.
        callbacks: told of each epoch's `val_loss`; one of them may end the training.

    Raises:
        OptionError: an unknown optimizer.
        DataError: the loss is not finite in any epoch.
    """
    import keras

    from features.frozen import make_deterministic
    from pipeline.inputs import array_dataset
    from pipeline.training import EpochCounter, HardLoss, class_weights, compile_model, make_optimizer

    count = len(train[1])
    config = config.for_examples(count)
    keras.utils.set_random_seed(seed)
    make_deterministic()
    model = build_head(train[0], classes, config)
    settings: dict[str, Any] = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    settings["ema_momentum"] = _AVERAGING ** (config.batch_size / _SMALLEST_BATCH)
    optimizer = make_optimizer(config.optimizer, config.learning_rate, use_ema=True, **settings)
    steps = min(-(-count // config.batch_size), _STEPS)
    compile_model(model, classes, optimizer, config.label_smoothing, steps_per_execution=steps)
    optimizer.build(model.trainable_variables)  # within the first step, it would have TensorFlow trace that twice
    epoch = EpochCounter()

    def order() -> np.ndarray:
        rows = np.random.default_rng([seed, epoch.number]).permutation(count)
        return rows + count * (epoch.number % len(views)) if views else rows

    average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)  # before `best`, which keeps what it finds
    best = keras.callbacks.EarlyStopping(monitor="val_loss", patience=config.epochs, restore_best_weights=True)
    start = time.perf_counter()
    fitted = model.fit(
        array_dataset(np.concatenate(views) if views else train[0], train[1], config.batch_size, order),
        shuffle=False,  # done by the dataset
        epochs=config.epochs,
        validation_data=array_dataset(*val, 1024),
        class_weight=class_weights(train[1], classes, config.class_weight),
        callbacks=[epoch, average, HardLoss(), best, *callbacks],
        verbose=0,
    )
    history = [dict(zip(fitted.history, values, strict=True)) for values in zip(*fitted.history.values(), strict=True)]
    if not np.isfinite([row["val_loss"] for row in history]).any():
        raise DataError(f"training diverged: no finite loss on val; lower --learning-rate {config.learning_rate}")
    return TrainedHead(model, history, best.best_epoch + 1, time.perf_counter() - start)
