"""Parts of training that both phases use: optimizer, loss and metrics, progress, and draws that repeat."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from headstart.features.tensorflow import keras

_DRAWS_AN_EPOCH = 1_000_000  # no layer draws more often


def make_optimizer(name: str, learning_rate: float, **settings: Any) -> keras.optimizers.Optimizer:
    """The Keras optimizer `name`. `settings` are its further arguments."""
    return keras.optimizers.get({"class_name": name, "config": {"learning_rate": learning_rate, **settings}})


def compile_model(model: keras.Model, classes: int, optimizer: keras.optimizers.Optimizer) -> None:
    """Compile `model`, which returns logits, with accuracy and cross-entropy."""
    if classes == 2:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        metrics = [keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)]
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metrics = [keras.metrics.SparseCategoricalAccuracy("accuracy")]
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)


def class_weights(labels: np.ndarray, classes: int, mode: str) -> np.ndarray | None:
    """Weight of each class in the loss, float32 [classes]; None for mode `none`.

    `balanced` gives n / (classes * count), as in scikit-learn, and 0 to a class without examples.
    """
    if mode == "none":
        return None
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts, len(labels) / (classes * np.maximum(counts, 1)), 0).astype(np.float32)


class Progress(keras.callbacks.Callback):
    """Tells `advance` the number of examples in each finished batch, and measures the speed of training.

    `examples` is the number of examples in an epoch.
    """

    def __init__(self, advance: Callable[[int], None], examples: int, batch_size: int) -> None:
        super().__init__()
        self.advance, self.examples, self.batch_size = advance, examples, batch_size
        self._done = 0  # examples of this epoch
        self._timed_examples, self._timed_seconds = 0, 0.0
        self._since: float | None = None  # start of the next batch; None until the first ends, as it builds the graph

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock. In the first epoch it starts only after the first batch."""
        self._done = 0
        if self._since is not None:
            self._since = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Advance to the end of batch `batch` of the epoch. Keras may have executed several batches in one call."""
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
        """Speed of training, without validation and the first batch. 0 if there was only one batch."""
        return self._timed_examples / self._timed_seconds if self._timed_seconds else 0.0


class EvalProgress(keras.callbacks.Callback):
    """Tells `advance`, in `evaluate` or `predict`, how many of the `examples` were done since its last call."""

    def __init__(self, advance: Callable[[int], None], examples: int) -> None:
        super().__init__()
        self.advance, self.examples, self._done = advance, examples, 0

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Advance to the end of batch `batch`, as if all batches were equally large."""
        now = round(self.examples * (batch + 1) / self.params["steps"])
        self.advance(now - self._done)
        self._done = now

    on_predict_batch_end = on_test_batch_end


def restart_draws(model: keras.Model, epoch: int) -> None:
    """Make the draws of dropout a function of the epoch. This sets the counter that Keras keeps with a layer's seed."""
    for variable in model.variables:
        if variable.name == "seed_generator_state":
            layer_seed, _ = variable.numpy()
            variable.assign(np.array([layer_seed, epoch * _DRAWS_AN_EPOCH], np.uint32))


class EpochCounter(keras.callbacks.Callback):
    """Knows the number of the current epoch, and makes the draws of dropout a function of it."""

    number = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Remember `epoch`, and call `restart_draws`."""
        self.number = epoch
        # Keras's weights files have no state of dropout: a resumed training would repeat the draws of its first epochs.
        restart_draws(self.model, epoch)
