"""Phase 1: build a dense head, and train it on cached features."""

import time
from dataclasses import dataclass

import numpy as np
from headstart.features.device import make_deterministic
from headstart.features.errors import DivergedError
from headstart.features.tensorflow import keras
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.loop import Advance, OnEpoch, on_val, run_epochs
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.memory.on_disk import Features

_BLOCK = 256  # rows


@dataclass(frozen=True)
class TrainedHead:
    """A head with the weights of its best epoch. A figure on val decides the best epoch; see `HeadConfig.choose_by`.

    `history` has one row of metrics per epoch. `best_epoch` counts from 1.
    """

    model: keras.Model
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float  # spent on training

    @property
    def val(self) -> dict[str, float]:
        """Return the figures on val at the best epoch: `accuracy`, `loss`, and the figure that `choose_by` names."""
        return on_val(self.history[self.best_epoch - 1])


def build_head(train: LabelledFeatures, config: HeadConfig) -> keras.Model:
    """Build a head that maps features float32 [B, D] to logits float32 [B, 1] (two classes) or [B, classes].

    The head first subtracts the mean of each feature over `train`. It then divides the features of each cut by the
    square root of their mean variance. If `config.own` is set, the standardised features go into the user's own model.
    Otherwise, the standardised features go into hidden layers and a layer of logits.
    """
    mean, variance = _moments(train.features)
    for columns in train.columns.values():
        variance[columns] = variance[columns].mean() or 1.0
    inputs = x = keras.Input(mean.shape, name="features")
    x = keras.layers.Normalization(mean=mean, variance=variance, name="standardise")(x)
    if config.own:
        return keras.Model(inputs, config.own.build(len(mean), train.classes)(x), name="head")
    for units in config.units:
        x = keras.layers.Dense(units, activation="relu")(x)
        x = keras.layers.Dropout(config.dropout)(x)
    # With two classes, the only logit is the logit of the second class.
    logits = keras.layers.Dense(1 if train.classes == 2 else train.classes, name="logits")(x)
    return keras.Model(inputs, logits, name="head")


def fit_head(
    train: LabelledFeatures,
    val: LabelledFeatures,
    config: HeadConfig,
    seed: int = 0,
    advance: Advance = lambda _: None,
    on_epoch: OnEpoch = lambda *_: False,
) -> TrainedHead:
    """Train a head on `train`, and return it with the weights of its best epoch.

    The figure `config.choose_by` on `val` decides the best epoch. Raises DivergedError if no epoch has a finite loss on
    `val`. Also raises the errors of `OwnHead.build`.

    Args:
        config: a batch size or learning rate of 0 is replaced; see `HeadConfig.for_examples`.
        seed: decides the initial weights, dropout and the order of examples.
        advance: called after each step; see `run_epochs`.
        on_epoch: called after each epoch; see `run_epochs`.
    """
    config = config.for_examples(len(train))
    keras.utils.set_random_seed(seed)
    make_deterministic()
    untrained = build_head(train, config)
    start = time.perf_counter()
    head, history, best_epoch = run_epochs(untrained, train, val, config, seed, advance, on_epoch)
    if not best_epoch:
        raise DivergedError(f"training diverged: no finite loss on val; lower --learning-rate {config.learning_rate}")
    return TrainedHead(head, history, best_epoch, time.perf_counter() - start)


def _moments(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance of each column of `features` [N, D], both float64 [D]."""
    rows = np.array_split(np.arange(len(features)), -(-len(features) // _BLOCK))  # blocks avoid a full copy
    blocks = [slice(int(some[0]), int(some[-1]) + 1) for some in rows]
    mean = sum(features[block].sum(axis=0, dtype=np.float64) for block in blocks) / len(features)
    off = (features[block] - mean.astype(np.float32) for block in blocks)
    return mean, sum(np.einsum("nd,nd->d", rows, rows).astype(np.float64) for rows in off) / len(features)
