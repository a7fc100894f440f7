"""The loop that trains a head: each epoch has one step per batch, and then validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from headstart.features.tensorflow import keras, tf
from headstart.pipeline.head.config import SMALLEST_BATCH, HeadConfig
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.memory.on_disk import batches
from headstart.pipeline.optimizers import fused, release, with_reduced_products
from headstart.pipeline.scoring.choosing import ChooseBy, ValFigures, rank
from headstart.pipeline.training import class_weights, cross_entropies, make_optimizer, restart_draws

Row = dict[str, float]
Advance = Callable[[int], None]
OnEpoch = Callable[[int, Row], bool]

# The returned weights are a running average of the trained weights, over about 1,300 examples (Polyak & Juditsky 1992,
# doi:10.1137/0330046). `_AVERAGING` is the decay of the average per step, with batches of the smallest size.
_AVERAGING = 0.95
_WARM_UP = 9  # steps, as in TensorFlow's `ExponentialMovingAverage`
_BLOCK = 1024  # rows validated at a time: with thousands of classes, the logits of all rows would fill memory


def run_epochs(
    trained: keras.Model,
    train: LabelledFeatures,
    val: LabelledFeatures,
    config: HeadConfig,
    seed: int,
    advance: Advance,
    on_epoch: OnEpoch,
) -> tuple[keras.Model, list[Row], int]:
    """Train a head for `config.epochs` epochs, or until `on_epoch` returns True.

    Args:
        trained: the model from `build_head`. Its weights are freed at the end, so it can't be used afterwards.
        config: its batch size and its learning rate must be over 0; see `HeadConfig.for_examples`.
        seed: decides the order of examples in each epoch. The order also depends on the epoch's number.
        advance: called after each step, with the number of examples in the step.
        on_epoch: called after each epoch, with the epoch's number (from 1) and the epoch's row of metrics.

    Returns:
        A copy of the head after the best epoch. Its weights are running averages; see `_Step.copy_to`.
        A row of metrics for each epoch: `loss`, `accuracy`, `val_loss` and `val_accuracy`. If `config.choose_by` names
            another figure, such as `auc`, the row also has this figure on val, such as `val_auc`.
        The number of the best epoch (see `HeadConfig.choose_by`), or 0 if no loss on val was finite.
    """
    head = keras.models.clone_model(trained)
    step = _Step(trained, train, config)
    views = train.views or [train.features]
    history: list[Row] = []
    best_epoch, best_rank, best = 0, (float("inf"), float("inf")), head.get_weights()
    for epoch in range(1, config.epochs + 1):
        restart_draws(trained, epoch - 1)
        features = views[(epoch - 1) % len(views)]
        order = np.random.default_rng([seed, epoch - 1]).permutation(len(train))
        totals = np.zeros(2)
        starts = range(0, len(train), config.batch_size)
        for start, batch in zip(starts, batches(features, order, config.batch_size), strict=True):
            totals += step(batch, train.labels[order[start : start + config.batch_size]])
            advance(len(batch))
        step.copy_to(head)
        loss, right = (totals / len(train)).tolist()
        figures = _validate(head, val, config.choose_by)
        row = {"loss": loss, "accuracy": right, **{f"val_{name}": value for name, value in figures.items()}}
        history.append(row)
        if (ranked := rank(config.choose_by, figures)) < best_rank:
            best_epoch, best_rank, best = epoch, ranked, head.get_weights()
        if on_epoch(epoch, row):
            break
    head.set_weights(best)
    release([*step.weights, *step.averages, *step.optimizer.variables])
    return head, history, best_epoch


class _Step:
    """A callable that trains on one batch, and then updates the running average of the weights."""

    def __init__(self, trained: keras.Model, train: LabelledFeatures, config: HeadConfig) -> None:
        self._trained = trained
        self.weights = [weight.value for weight in trained.trainable_variables]
        self.averages = [tf.Variable(weight) for weight in self.weights]
        decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}  # AdamW's default is not 0
        optimizer = make_optimizer(config.optimizer, config.learning_rate, **decay)
        self.optimizer = fused(optimizer, trained.trainable_variables)
        self._model = with_reduced_products(trained) if train.reduced else trained
        self._label_smoothing = config.label_smoothing
        self._class_weights = class_weights(train.labels, train.classes, config.class_weight)
        self._steps = 0
        self._least_share = 1.0 - _AVERAGING ** (config.batch_size / SMALLEST_BATCH)
        # One graph for batches of any length: the last batch of an epoch is shorter.
        rows = tf.TensorSpec((None, train.features.shape[1]), train.features.dtype)
        signature = [rows, tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.float32)]
        self._graph = tf.function(self._take, input_signature=signature, autograph=False)

    def copy_to(self, head: keras.Model) -> None:
        """Set the weights of `head`, a clone of the trained model, to the running average of the trained weights."""
        for weight, average in zip(head.trainable_variables, self.averages, strict=True):
            weight.assign(average)
        for weight, latest in zip(head.non_trainable_weights, self._trained.non_trainable_weights, strict=True):
            weight.assign(latest)  # such as the statistics of batch normalisation

    def __call__(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Take one step on a batch.

        Returns float32 [2]: the sum of the examples' losses, and the number of right predictions.
        """
        # The share of the latest weights in the average falls from 1. A small share from the start would keep the first
        # weights in the average for ten steps.
        share = max(self._least_share, _WARM_UP / (_WARM_UP + self._steps))
        totals: np.ndarray = self._graph(features, labels, share).numpy()
        self._steps += 1
        return totals

    def _take(self, features: tf.Tensor, labels: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self._model(features, training=True)
            losses = cross_entropies(labels, logits, self._label_smoothing)
            if self._class_weights is not None:
                losses *= tf.gather(self._class_weights, labels)
            loss = tf.reduce_mean(losses)
            for penalty in self._model.losses:  # regularisers in a user's own head
                loss += penalty
        self.optimizer.apply(tape.gradient(loss, self.weights))
        for weight, average in zip(self.weights, self.averages, strict=True):
            off = average - weight
            tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=share, delta=off)
        binary = logits.shape[1] == 1
        predicted = tf.cast(logits[:, 0] > 0, tf.int64) if binary else tf.argmax(logits, axis=1)
        return tf.stack([tf.reduce_sum(losses), tf.math.count_nonzero(predicted == labels, dtype=tf.float32)])


def _validate(head: keras.Model, val: LabelledFeatures, choose_by: ChooseBy) -> Row:
    """Return the figures of `head` on `val`; see `ValFigures`."""
    found = ValFigures(choose_by)
    for block, logits in _passed(head, val):
        found.add(logits, val.labels[block])
    return found.figures()


def logits_of(head: keras.Model, labelled: LabelledFeatures) -> np.ndarray:
    """Return the logits (float32 [N, 1 or C]) of `head` for the examples of `labelled`."""
    return np.concatenate([logits for _, logits in _passed(head, labelled)])


def _passed(head: keras.Model, labelled: LabelledFeatures) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield a pair for each block of rows: the slice of the rows, and the logits of the rows, float32 [n, 1 or C]."""
    for start in range(0, len(labelled), _BLOCK):
        block = slice(start, start + _BLOCK)
        yield block, head(labelled.features[block], training=False).numpy()  # eager: tracing takes as long as epochs


def on_val(row: Row) -> dict[str, float]:
    """Return those metrics in `row` that were measured on val. The prefix `val_` of their names is removed."""
    return {name.removeprefix("val_"): value for name, value in row.items() if name.startswith("val_")}


@contextmanager
def writing_curves(folder: Path, learning_rate: float) -> Iterator[OnEpoch]:
    """Yield an `on_epoch` function that writes an epoch's metrics and `learning_rate` into `folder`, for TensorBoard.

    Curves have the same names as in Keras's TensorBoard callback, which fine-tuning uses. So TensorBoard shows the
    head's training and fine-tuning in the same charts.
    """
    train, val = (tf.summary.create_file_writer(str(folder / name)) for name in ("train", "validation"))

    def write(epoch: int, row: Row) -> bool:
        rows = {name: row[name] for name in ("loss", "accuracy")} | {"learning_rate": learning_rate}
        for writer, values in ((train, rows), (val, on_val(row))):
            with writer.as_default(step=epoch - 1):
                for name, value in values.items():
                    tf.summary.scalar(f"epoch_{name}", value)
        return False

    try:
        yield write
    finally:
        train.close()
        val.close()
