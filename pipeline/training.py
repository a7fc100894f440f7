"""Parts of training that both phases share: optimizer, loss, metrics, progress, and reproducible dropout."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from headstart.features.tensorflow import keras

_DRAWS_AN_EPOCH = 1_000_000  # more than any layer draws in an epoch


def make_optimizer(
    name: str, learning_rate: float | keras.optimizers.schedules.LearningRateSchedule, **settings: Any
) -> keras.optimizers.Optimizer:
    """Make the Keras optimizer `name`. `settings` are the optimizer's other arguments."""
    return keras.optimizers.get({"class_name": name, "config": {"learning_rate": learning_rate, **settings}})


def compile_model(
    model: keras.Model, classes: int, optimizer: keras.optimizers.Optimizer, label_smoothing: float = 0.0
) -> None:
    """Compile `model`, whose outputs are logits. The loss is cross-entropy, and the metric is accuracy."""
    accuracy = (
        keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)
        if classes == 2
        else keras.metrics.SparseCategoricalAccuracy("accuracy")
    )
    model.compile(optimizer, loss=partial(cross_entropies, label_smoothing=label_smoothing), metrics=[accuracy])


def cross_entropies(labels: Any, logits: Any, label_smoothing: float) -> Any:
    """Return the cross-entropy of each example in nats, float32 [b].

    `labels` is [b], and `logits` is float32 [b, 1] (two classes) or [b, classes]. Label smoothing mixes a uniform
    distribution into the target (Szegedy et al. 2015, arXiv:1512.00567).
    """
    classes = logits.shape[1]
    if classes == 1:
        target = keras.ops.reshape(labels, (-1, 1))
        return keras.losses.binary_crossentropy(target, logits, from_logits=True, label_smoothing=label_smoothing)
    if not label_smoothing:
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    target = keras.ops.one_hot(keras.ops.cast(labels, "int64"), classes)
    return keras.losses.categorical_crossentropy(target, logits, from_logits=True, label_smoothing=label_smoothing)


def class_weights(labels: np.ndarray, classes: int, mode: str) -> np.ndarray | None:
    """Return the weight of each class in the loss, float32 [classes], or None if `mode` is `none`.

    With `balanced`, the weight is len(labels) / (classes * examples of the class), as in scikit-learn. A class without
    examples gets the weight 0.
    """
    if mode == "none":
        return None
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts, len(labels) / (classes * np.maximum(counts, 1)), 0).astype(np.float32)


class Progress(keras.callbacks.Callback):
    """Calls `advance` with the number of examples in each finished batch, and measures the speed of training.

    `examples` is the number of examples in an epoch.
    """

    def __init__(self, advance: Callable[[int], None], examples: int, batch_size: int) -> None:
        super().__init__()
        self.advance, self.examples, self.batch_size = advance, examples, batch_size
        self._done = 0  # examples of this epoch that are reported
        self._timed_examples, self._timed_seconds = 0, 0.0
        self._since: float | None = None  # start of the next batch; None until the first, untimed batch ends

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock. In the first epoch, it starts later, after the batch that builds the graph."""
        self._done = 0
        if self._since is not None:
            self._since = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Report the examples of all batches that ended since the last call. `batch` is the index of the last batch."""
        count = min((batch + 1) * self.batch_size, self.examples) - self._done
        self._done += count
        self.advance(count)
        now = time.perf_counter()
        if self._since is not None:
            self._timed_examples += count
            self._timed_seconds += now - self._since
        self._since = now

    @property
    def examples_per_second(self) -> float:
        """Return the number of training examples per second, or 0 if there was only one batch.

        Validation and the first batch don't count.
        """
        return self._timed_examples / self._timed_seconds if self._timed_seconds else 0.0


def restart_draws(model: keras.Model, epoch: int) -> None:
    """Make the random draws of dropout depend only on each layer's seed and on `epoch`.

    For each layer, Keras keeps the seed and a counter of draws. This function sets the counter.
    """
    for variable in model.variables:
        if variable.name == "seed_generator_state":
            layer_seed, _ = variable.numpy()
            variable.assign(np.array([layer_seed, epoch * _DRAWS_AN_EPOCH], np.uint32))


class EpochCounter(keras.callbacks.Callback):
    """Keeps the number of the current epoch in `number`, and calls `restart_draws` at the start of each epoch."""

    number = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Remember `epoch`, and make the draws of dropout depend on it; see `restart_draws`."""
        self.number = epoch
        # Keras's weights files lack the state of dropout, so a resumed training would repeat the first draws.
        restart_draws(self.model, epoch)
