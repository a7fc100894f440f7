"""The loop that trains a head: in each epoch a step for each batch, then validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from headstart.pipeline.head.config import SMALLEST_BATCH, HeadConfig
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.metrics import accuracy, cross_entropy
from headstart.pipeline.optimizers import fused, release, with_reduced_products
from headstart.pipeline.training import class_weights, make_optimizer, restart_draws

Row = dict[str, float]
Advance = Callable[[int], None]
OnEpoch = Callable[[int, Row], bool]

# The kept head is a running average of the trained one, over about 1,300 examples (Polyak & Juditsky 1992,
# doi:10.1137/0330046). This is its momentum for the smallest batch.
_AVERAGING = 0.95
_BLOCK = 1024  # rows validated at a time: for thousands of classes, all logits would fill memory


def run_epochs(
    trained: keras.Model,
    train: LabelledFeatures,
    val: LabelledFeatures,
    config: HeadConfig,
    seed: int,
    advance: Advance,
    on_epoch: OnEpoch,
) -> tuple[keras.Model, list[Row], int]:
    """Train a head. The order of examples and the draws of dropout follow from `seed` and the epoch alone.

    Args:
        trained: from `build_head`; of no use afterwards.
        config: with nothing left open.
        advance: called with the number of examples of each finished step.
        on_epoch: called with the number of each finished epoch, from 1, and its row; returns whether to stop.

    Returns the average of the trained weights at the end of the best epoch by loss on val; a row per epoch, with
    `loss` and `accuracy` of its steps, `val_loss` and `val_accuracy`; the best epoch.
    """
    head = keras.models.clone_model(trained)
    step = _Step(trained, train, config)
    views = train.views or [train.features]
    history: list[Row] = []
    best_epoch, best_loss, best = 0, float("inf"), head.get_weights()
    for epoch in range(1, config.epochs + 1):
        restart_draws(trained, epoch - 1)
        features = views[(epoch - 1) % len(views)]
        order = np.random.default_rng([seed, epoch - 1]).permutation(len(train))
        totals = np.zeros(2)
        for start in range(0, len(train), config.batch_size):
            rows = order[start : start + config.batch_size]
            totals += step(features[rows], train.labels[rows])
            advance(len(rows))
        for weight, average in zip(head.trainable_variables, step.averages, strict=True):
            weight.assign(average)
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        history.append(dict(zip(names, [*(totals / len(train)).tolist(), *_validate(head, val)], strict=True)))
        if history[-1]["val_loss"] < best_loss:
            best_epoch, best_loss, best = epoch, history[-1]["val_loss"], head.get_weights()
        if on_epoch(epoch, history[-1]):
            break
    head.set_weights(best)
    step.release()
    return head, history, best_epoch


class _Step:
    """One step of training on a batch, and the running average of the weights after it."""

    def __init__(self, trained: keras.Model, train: LabelledFeatures, config: HeadConfig) -> None:
        self.weights = [weight.value for weight in trained.trainable_variables]
        self.averages = [tf.Variable(weight) for weight in self.weights]
        decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}  # AdamW has some by default
        optimizer = make_optimizer(config.optimizer, config.learning_rate, **decay)
        self.optimizer = fused(optimizer, trained.trainable_variables)
        self._model = with_reduced_products(trained) if train.reduced else trained
        self._loss = _loss_of(train.classes, config.label_smoothing)
        self._class_weights = class_weights(train.labels, train.classes, config.class_weight)
        self._share = 1.0  # of the new weights in the average: the first ones are all of it
        self._later_share = 1.0 - _AVERAGING ** (config.batch_size / SMALLEST_BATCH)
        # One graph for batches of any length, as the last one is shorter.
        rows = tf.TensorSpec((None, train.features.shape[1]), train.features.dtype)
        signature = [rows, tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.float32)]
        self._graph = tf.function(self._take, input_signature=signature, autograph=False)

    def __call__(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Take one step. Returns the sum of the losses of the examples, and how many were classified rightly."""
        totals: np.ndarray = self._graph(features, labels, self._share).numpy()
        self._share = self._later_share
        return totals

    def _take(self, features: tf.Tensor, labels: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self._model(features, training=True)
            losses = self._loss(labels, logits)  # [b]
            if self._class_weights is not None:
                losses *= tf.gather(self._class_weights, labels)
            loss = tf.reduce_mean(losses)
        self.optimizer.apply(tape.gradient(loss, self.weights))
        for weight, average in zip(self.weights, self.averages, strict=True):
            off = average - weight
            tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=share, delta=off)
        binary = logits.shape[1] == 1
        predicted = tf.cast(logits[:, 0] > 0, tf.int64) if binary else tf.argmax(logits, axis=1)
        return tf.stack([tf.reduce_sum(losses), tf.math.count_nonzero(predicted == labels, dtype=tf.float32)])

    def release(self) -> None:
        """Free the memory of all weights and of the optimizer."""
        release([*self.weights, *self.averages, *self.optimizer.variables])


def _loss_of(classes: int, label_smoothing: float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Cross-entropy of each example, from labels int64 [b] and logits [b, 1 or classes].

    Label smoothing puts an even distribution over the classes into the target (Szegedy et al. 2015, arXiv:1512.00567).
    """
    settings: dict[str, Any] = {"from_logits": True, "reduction": None}
    if classes == 2:
        binary = keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing, **settings)
        return lambda labels, logits: binary(labels[:, tf.newaxis], logits)
    if not label_smoothing:
        sparse: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = keras.losses.SparseCategoricalCrossentropy(**settings)
        return sparse
    smoothed = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing, **settings)
    return lambda labels, logits: smoothed(tf.one_hot(labels, classes), logits)


def _validate(head: keras.Model, val: LabelledFeatures) -> tuple[float, float]:
    """Mean cross-entropy in nats, and accuracy. Without a graph, whose tracing takes as long as several epochs."""
    loss = right = 0.0
    for start in range(0, len(val), _BLOCK):
        labels = val.labels[start : start + _BLOCK]
        logits = head(val.features[start : start + _BLOCK], training=False).numpy()
        loss += cross_entropy(logits, labels) * len(labels)
        right += accuracy(logits, labels) * len(labels)
    return loss / len(val), right / len(val)


@contextmanager
def writing_curves(folder: Path | None, learning_rate: float) -> Iterator[OnEpoch]:
    """Yield an `on_epoch` that writes TensorBoard's curves into `folder`, or nothing for None.

    The curves are named as Keras's callback names them, so that both phases share their charts.
    """
    if folder is None:
        yield lambda *_: False
        return
    train, val = (tf.summary.create_file_writer(str(folder / name)) for name in ("train", "validation"))

    def write(epoch: int, row: Row) -> bool:
        rows = {name: row[name] for name in ("loss", "accuracy")} | {"learning_rate": learning_rate}
        for writer, values in ((train, rows), (val, {name: row[f"val_{name}"] for name in ("loss", "accuracy")})):
            with writer.as_default(step=epoch - 1):
                for name, value in values.items():
                    tf.summary.scalar(f"epoch_{name}", value)
        return False

    try:
        yield write
    finally:
        train.close()
        val.close()
