"""The loop that trains a head: it yields what Keras's `fit` yields, and leaves nothing in memory."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.head import head as heads
from headstart.pipeline.head.config import OPTIMIZERS, HeadConfig, Optimizer
from headstart.pipeline.head.head import build_head, fit_head
from headstart.pipeline.head.run import train_run
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.optimizers import FusedAdam, fused, with_reduced_products
from headstart.pipeline.runs import Run
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.sweep import sweep
from headstart.pipeline.training import class_weights, make_optimizer, restart_draws


def examples(classes: int, count: int = 500) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Train and val; the classes are not equally frequent."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes + 1, count).clip(max=classes - 1)
    features = (rng.normal(size=(count, 8)) + 2 * np.eye(8)[labels]).astype(np.float32)
    whole = LabelledFeatures(features, labels, classes, {"cut": slice(0, 8)})
    return whole.take(slice(count * 4 // 5)), whole.take(slice(count * 4 // 5, None))


class Averaging(keras.callbacks.Callback):
    """Keeps a running average of the weights, to which the first steps add larger shares of the latest weights."""

    def __init__(self, least_share: float) -> None:
        super().__init__()
        self.least_share, self.steps, self.averages = least_share, 0, []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        weights = [weight.numpy() for weight in self.model.trainable_variables]
        share = max(self.least_share, 9 / (9 + self.steps))
        before = self.averages or weights
        self.averages = [old + share * (new - old) for old, new in zip(before, weights, strict=True)]
        self.steps += 1


def epoch_of_keras(train: LabelledFeatures, config: HeadConfig, seed: int) -> tuple[float, list[np.ndarray]]:
    """The training loss of one epoch of Keras's own `fit`, and the averaged weights after it."""
    keras.utils.set_random_seed(seed)
    model = build_head(train, config)
    restart_draws(model, 0)
    decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    averaging = Averaging(1 - 0.95 ** (config.batch_size / 64))
    if train.classes == 2:
        loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)
    else:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)
    model.compile(make_optimizer(config.optimizer, config.learning_rate, **decay), loss, jit_compile=False)
    rows = np.random.default_rng([seed, 0]).permutation(len(train))
    targets = train.labels if train.classes == 2 else np.eye(train.classes, dtype=np.float32)[train.labels]
    weights = class_weights(train.labels, train.classes, config.class_weight)
    fitted = model.fit(
        train.features[rows], targets[rows], config.batch_size, shuffle=False, verbose=0,
        sample_weight=None if weights is None else weights[train.labels[rows]],
        callbacks=[averaging],
    )  # fmt: skip
    return fitted.history["loss"][0], averaging.averages


@pytest.mark.parametrize(
    ("optimizer", "classes", "settings"),
    [
        ("adam", 2, {"class_weight": "balanced", "label_smoothing": 0.1}),
        ("adam", 3, {"weight_decay": 0.1}),
        ("adamw", 2, {}),
        ("nadam", 3, {"class_weight": "balanced", "label_smoothing": 0.1}),
        ("rmsprop", 3, {"weight_decay": 0.1}),
    ],
)
def test_an_epoch_is_that_of_keras(optimizer: Optimizer, classes: int, settings: dict[str, Any]) -> None:
    train, val = examples(classes)
    config = HeadConfig((16,), epochs=1, learning_rate=1e-2, batch_size=64, optimizer=optimizer, **settings)
    loss, weights = epoch_of_keras(train, config, seed=1)
    trained = fit_head(train, val, config, seed=1)
    assert trained.history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    for one, other in zip(trained.model.trainable_variables, weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-5)


def test_a_head_of_few_examples_does_not_keep_its_first_weights() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    features = (rng.normal(size=(400, 64)) + (labels - 0.5)[:, np.newaxis]).astype(np.float32)
    whole = LabelledFeatures(features, labels, 2, {"cut": slice(0, 64)})
    few = whole.take(slice(24))  # ten steps, one in each epoch
    trained = fit_head(few, whole.take(slice(24, 400)), HeadConfig((256,), epochs=10).for_examples(24), seed=1)
    assert trained.val["loss"] < 0.65  # 0.79 if the first weights keep their share
    assert trained.val["accuracy"] > 0.65  # 0.37


def test_only_adam_is_fused() -> None:
    for name in OPTIMIZERS:
        weights = [keras.Variable(np.ones(3, np.float32))]
        optimizer = fused(make_optimizer(name, 1e-3), weights)
        assert isinstance(optimizer, FusedAdam) == (name in ("adam", "adamw"))


def test_dropout_draws_anew_in_each_epoch_and_the_same_again() -> None:
    model = build_head(examples(2)[0], HeadConfig(units=(64,), dropout=0.5))
    drawn = []
    for epoch in (0, 1, 0):
        restart_draws(model, epoch)  # relies on the name that Keras gives the state of a SeedGenerator
        drawn.append(model(np.ones((1, 8), np.float32), training=True).numpy())
    assert drawn[0] == drawn[2] != drawn[1]


def test_training_in_bfloat16_leaves_a_head_in_float32() -> None:
    train, val = examples(3)
    config = HeadConfig(units=(16, 8), epochs=3, learning_rate=1e-2)
    plain, trained = (fit_head(replace(train, reduced=reduced), val, config, seed=1) for reduced in (False, True))
    assert trained.history != plain.history
    assert trained.val["loss"] == pytest.approx(plain.val["loss"], abs=0.05)
    assert {type(layer) for layer in trained.model.layers} == {type(layer) for layer in plain.model.layers}
    logits = trained.model.predict(val.features, verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(val.labels, logits, from_logits=True)
    assert trained.val["loss"] == pytest.approx(float(np.mean(loss)), rel=1e-5)


def test_a_layer_in_bfloat16_rounds_only_while_it_is_trained() -> None:
    features = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    train = LabelledFeatures(features, np.zeros(4, np.int64), 2, {"cut": slice(0, 6)})
    head = build_head(train, HeadConfig(units=(8,), dropout=0.0))
    trained = with_reduced_products(head)
    exact = head(features)
    np.testing.assert_array_equal(trained(features, training=False), exact)
    assert 0 < np.abs(trained(features, training=True) - exact).max() < 0.05


@pytest.mark.parametrize(
    ("precision", "reduced"), [("float32", False), pytest.param("bfloat16", True, marks=pytest.mark.slow)]
)
def test_heads_are_trained_in_the_precision_of_their_features(
    prepared: Path,
    small: FeatureConfig,
    extraction: ExtractionConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Any,
    reduced: bool,
) -> None:
    seen: list[bool] = []
    run_epochs = heads.run_epochs

    def watched(trained: keras.Model, train: LabelledFeatures, *rest: Any) -> Any:
        seen.append(train.reduced)
        return run_epochs(trained, train, *rest)

    monkeypatch.setattr(heads, "run_epochs", watched)
    features = replace(small, precision=precision)
    train_run(prepared, tmp_path / "one", features, extraction, HeadConfig(units=(4,), epochs=1))
    assert seen == [reduced]
    space = tmp_path / "space.toml"
    space.write_text("layers = 1\nunits = [4, 5]\nepochs = 1\n")
    sweep(prepared, tmp_path / "study.db", tmp_path / "best", features, extraction, SweepConfig(1, space=space))
    assert len(seen) > 2
    assert set(seen) == {reduced}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_a_trained_head_leaves_no_memory_behind(optimizer: Optimizer) -> None:
    config = HeadConfig(units=(1000,), epochs=1, optimizer=optimizer, batch_size=4000)
    used = []
    for _ in range(6):
        features = np.ones((4000, 4000), np.float32)  # 64 MB; weights are 16, and the optimizer has three times as much
        whole = LabelledFeatures(features, np.arange(4000) % 2, 2, {"cut": slice(0, 4000)})
        fit_head(whole, whole.take(slice(64)), config)
        del features, whole
        used.append(psutil.Process().memory_info().rss)
    assert used[5] - used[1] < 150e6  # it would be 250e6


def test_an_undefined_figure_is_null_in_json(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = heads.fit_head

    def undefined(*settings: Any) -> heads.TrainedHead:
        trained = fit(*settings)
        return replace(trained, history=[{**row, "val_auc": math.nan} for row in trained.history])

    monkeypatch.setattr(heads, "fit_head", undefined)
    run = tmp_path / "run"
    result = train_run(prepared, run, small, extraction, HeadConfig(units=(), epochs=1, choose_by="auc"))
    assert result.fields()["val"]["auc"] is None
    told = json.loads((run / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert told["head"]["val"]["auc"] is None
    Run.open(run)
