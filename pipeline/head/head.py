"""Phase 1: a dense head on cached features."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.errors import DataError
from headstart.features.terminal import progress
from headstart.pipeline.head.config import SMALLEST_BATCH, HeadConfig

if TYPE_CHECKING:  # Keras takes seconds to import, and what finds an error earlier need not wait
    import keras

# Evaluated and kept is a running average of the weights, over about 1,300 examples (Polyak & Juditsky 1992,
# doi:10.1137/0330046): 0.1 to 0.3 points more of the held-out photographs, over forty splits. A step of 64.
_AVERAGING = 0.95
_STEPS = 50  # in one execution: beyond that nothing is gained
_BLOCK = 256  # rows
HEAD_VERSION = 2  # raised when the same settings give another head: no study goes on with it


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


def build_head(features: np.ndarray, classes: int, config: HeadConfig, widths: Sequence[int] = ()) -> keras.Model:
    """Build a head that standardises its input by the mean of each of `features` and the variance of its cut.

    One scale for all that a cut yields keeps their proportions, by which the backbone says what matters. Each divided
    by its own deviation, heads were right on 2.2 points fewer of 400 held-out photographs at `mixed10`, over twenty
    splits, and on as many at `mixed8`.

    Args:
        features: float [N, D], of the training examples.
        classes: how many; two give one logit, more give one a class.
        widths: how many of the D features are of each cut, in their order; () where all are of one.

    Returns:
        A model from float32 [B, D] to logits float32 [B, 1 or classes].
    """
    import keras
    from headstart.pipeline.training import logit_units

    mean, variances = _moments(features)
    cuts = np.split(variances, np.cumsum(widths)[:-1])
    variance = np.concatenate([np.full_like(cut, cut.mean() or 1.0) for cut in cuts])
    inputs = x = keras.Input((features.shape[1],), name="features")
    x = keras.layers.Normalization(mean=mean, variance=variance, name="standardise")(x)
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
    reduced: bool = False,
    widths: Sequence[int] = (),
) -> TrainedHead:
    """Train a head and keep its best epoch by loss on val, showing how far it is.

    Args:
        train, val, classes, config, seed, views, reduced, widths: as of `fit_head`.
        logs: folder for TensorBoard's curves, or None.

    Raises:
        OptionError, DataError: as `fit_head`.
    """
    from headstart.pipeline.training import Progress, curves

    count = len(train[1])
    config = config.for_examples(count)
    with progress("training the head", config.epochs * count, "examples") as advance:
        callbacks = [Progress(advance, count, config.batch_size), *([curves(logs, "head")] if logs else [])]
        return fit_head(train, val, classes, config, seed, views, callbacks, reduced, widths)


def fit_head(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    classes: int,
    config: HeadConfig,
    seed: int = 0,
    views: Sequence[np.ndarray] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    reduced: bool = False,
    widths: Sequence[int] = (),
) -> TrainedHead:
    """Train a head and keep its best epoch by loss on val.

    Args:
        train: features float32 [N, D] and labels int64 [N] in [0, classes).
        val: the same, of the validation examples.
        views: other features [N, D] of the training examples; each epoch takes one of them in place of `train`.
        callbacks: told of each epoch's `val_loss`; one of them may end the training.
        reduced: compute the products of hidden layers in bfloat16 while it trains.
        widths: as of `build_head`.

    Raises:
        OptionError: an unknown optimizer.
        DataError: the loss is not finite in any epoch.
    """
    import keras
    from headstart.features.backbones.frozen import make_deterministic
    from headstart.pipeline.inputs import array_dataset
    from headstart.pipeline.optimizers import for_training, fused, release
    from headstart.pipeline.training import EpochCounter, Validation, class_weights, compile_model, make_optimizer

    count = len(train[1])
    config = config.for_examples(count)
    keras.utils.set_random_seed(seed)
    make_deterministic()
    model = build_head(train[0], classes, config, widths)
    settings: dict[str, Any] = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    settings["ema_momentum"] = _AVERAGING ** (config.batch_size / SMALLEST_BATCH)
    optimizer = fused(make_optimizer(config.optimizer, config.learning_rate, use_ema=True, **settings))
    steps = min(-(-count // config.batch_size), _STEPS)
    trained = for_training(model, reduced)
    compile_model(trained, classes, optimizer, config.label_smoothing, steps_per_execution=steps, jit_compile=False)
    optimizer.build(trained.trainable_variables)  # within the first step, it would have TensorFlow trace that twice
    epoch = EpochCounter()
    running = weakref.proxy(epoch)
    average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)  # before what scores it, and what keeps it
    best = keras.callbacks.EarlyStopping(monitor="val_loss", patience=config.epochs, restore_best_weights=True)
    start = time.perf_counter()
    fitted = trained.fit(
        array_dataset(views or [train[0]], train[1], config.batch_size, seed, lambda: running.number),
        shuffle=False,  # done by the dataset
        epochs=config.epochs,
        class_weight=class_weights(train[1], classes, config.class_weight),
        callbacks=[epoch, average, Validation(*val), best, *callbacks],
        verbose=0,
    )
    release(optimizer.variables)
    history = [dict(zip(fitted.history, values, strict=True)) for values in zip(*fitted.history.values(), strict=True)]
    if not np.isfinite([row["val_loss"] for row in history]).any():
        raise DataError(f"training diverged: no finite loss on val; lower --learning-rate {config.learning_rate}")
    return TrainedHead(model, history, best.best_epoch + 1, time.perf_counter() - start)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column, float64 [D]; in blocks, for an array as large as all takes long to get."""
    blocks = np.array_split(features, -(-len(features) // _BLOCK))
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / len(features)
    off = (block - mean.astype(np.float32) for block in blocks)
    return mean, sum(np.einsum("nd,nd->d", rows, rows).astype(np.float64) for rows in off) / len(features)
