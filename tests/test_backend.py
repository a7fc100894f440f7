import keras
import numpy as np
import pytest

from pipeline import backend
from pipeline.head import fit_head
from pipeline.head_config import OPTIMIZERS, HeadConfig


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_compiled_or_not_train_the_same_head(monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    features = (rng.normal(size=(500, 8)) + labels[:, np.newaxis]).astype(np.float32)
    config = HeadConfig(units=(16,), epochs=3, learning_rate=1e-2, optimizer=optimizer, weight_decay=1e-3)
    train, val = (features[:400], labels[:400]), (features[400:], labels[400:])
    plain = fit_head(train, val, 2, config, seed=1)
    compiled: list[keras.optimizers.Optimizer] = []
    compile_updates = backend.compile_updates
    monkeypatch.setattr(backend, "compile_updates", lambda given: (compiled.append(given), compile_updates(given)))
    monkeypatch.setattr("pipeline.head._COMPILED_FROM", 0)
    trained = fit_head(train, val, 2, config, seed=1)
    assert len(compiled) == 1
    for one, other in zip(trained.history, plain.history, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for one, other in zip(trained.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
