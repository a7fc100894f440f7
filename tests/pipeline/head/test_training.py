from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from headstart.features.config import FeatureConfig
from headstart.pipeline import optimizers as backend
from headstart.pipeline.head.config import OPTIMIZERS, HeadConfig
from headstart.pipeline.head.head import build_head, fit_head
from headstart.pipeline.head.run import train_run
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.sweep import sweep
from headstart.pipeline.training import make_optimizer


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_fused_updates_train_the_same_head(monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    features = (rng.normal(size=(500, 8)) + labels[:, np.newaxis]).astype(np.float32)
    config = HeadConfig(units=(16,), epochs=3, learning_rate=1e-2, optimizer=optimizer, weight_decay=1e-1)
    train, val = (features[:400], labels[:400]), (features[400:], labels[400:])
    trained = fit_head(train, val, 2, config, seed=1)
    replaced: list[str] = []
    monkeypatch.setattr(backend, "fused", lambda given: (replaced.append(type(given).__name__.lower()), given)[1])
    plain = fit_head(train, val, 2, config, seed=1)
    assert replaced == [optimizer]
    for one, other in zip(trained.history, plain.history, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for one, other in zip(trained.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_only_what_is_adam_is_fused() -> None:
    for name in OPTIMIZERS:
        given = make_optimizer(name, 1e-3, use_ema=True, ema_momentum=0.9, weight_decay=0.2)
        optimizer = backend.fused(given)
        assert isinstance(optimizer, backend.FusedAdam) == (name in ("adam", "adamw"))
        assert optimizer.get_config() == {**given.get_config(), "name": optimizer.name}


def test_what_is_trained_in_bfloat16_is_the_head_itself() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    features = (rng.normal(size=(500, 8)) + 2 * np.eye(8)[labels]).astype(np.float32)
    config = HeadConfig(units=(16, 8), epochs=3, learning_rate=1e-2)
    train, val = (features[:400], labels[:400]), (features[400:], labels[400:])
    plain, trained = (fit_head(train, val, 3, config, seed=1, reduced=reduced) for reduced in (False, True))
    assert trained.history != plain.history
    assert trained.val["loss"] == pytest.approx(plain.val["loss"], abs=0.05)
    assert {type(layer) for layer in trained.model.layers} == {type(layer) for layer in plain.model.layers}
    logits = trained.model.predict(val[0], verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(val[1], logits, from_logits=True)
    assert trained.val["loss"] == pytest.approx(float(np.mean(loss)), rel=1e-5)  # no less than float32


def test_a_layer_in_bfloat16_rounds_only_while_it_is_trained() -> None:
    head = build_head(np.ones((4, 6), np.float32), 2, HeadConfig(units=(8,), dropout=0.0))
    trained = backend.for_training(head, reduced=True)
    features = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    exact = head(features)
    np.testing.assert_array_equal(trained(features, training=False), exact)
    assert 0 < np.abs(trained(features, training=True) - exact).max() < 0.05


@pytest.mark.parametrize(("precision", "reduced"), [("float32", False), ("bfloat16", True)])
def test_heads_are_trained_in_the_precision_of_their_features(
    prepared: Path, small: FeatureConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, reduced: bool
) -> None:
    seen: list[bool] = []
    for_training = backend.for_training
    monkeypatch.setattr(backend, "for_training", lambda head, given: (seen.append(given), for_training(head, given))[1])
    features = replace(small, precision=precision)
    train_run(prepared, tmp_path / "one", features, HeadConfig(units=(4,), epochs=1))
    assert seen == [reduced]
    space = tmp_path / "space.toml"
    space.write_text("layers = 1\nunits = [4, 5]\nepochs = 1\n")
    sweep(prepared, tmp_path / "study.db", tmp_path / "best", features, SweepConfig(1, space=space))
    assert len(seen) > 2
    assert set(seen) == {reduced}
