import keras
import numpy as np
import pytest

from pipeline.backend import QuickDropout, with_quick_dropout
from pipeline.head import build_head, fit_head
from pipeline.head_config import HeadConfig


def test_quick_dropout_drops_its_share_and_keeps_the_mean() -> None:
    layer = QuickDropout(0.3, seed=0)
    ones = np.ones((100, 1000), np.float32)
    first, second = (keras.ops.convert_to_numpy(layer(ones, training=True)) for _ in range(2))
    assert abs((first == 0).mean() - 0.3) < 0.01
    np.testing.assert_allclose(first[first != 0], 1 / 0.7, rtol=1e-6)
    assert (first != second).any()
    np.testing.assert_array_equal(layer(ones, training=False), ones)
    again = QuickDropout(0.3, seed=0)(ones, training=True)
    np.testing.assert_array_equal(again, first)


def test_what_is_trained_is_the_model_itself() -> None:
    features = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    model = build_head(features, 2, HeadConfig(units=(8, 4)))
    quick = with_quick_dropout(model)
    assert [type(layer).__name__ for layer in quick.layers if "dropout" in layer.name] == ["QuickDropout"] * 2
    for one, other in zip(quick.trainable_variables, model.trainable_variables, strict=True):
        assert one is other
    np.testing.assert_allclose(quick(features), model(features), rtol=1e-6)


def test_a_compiled_head_is_plain_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.head._COMPILED_FROM", 0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    features = (rng.normal(size=(500, 8)) + labels[:, np.newaxis]).astype(np.float32)
    config = HeadConfig(units=(16,), epochs=3, learning_rate=1e-2)
    train, val = (features[:400], labels[:400]), (features[400:], labels[400:])
    trained, again = (fit_head(train, val, 2, config, seed=1) for _ in range(2))
    assert trained.val["accuracy"] > 0.8
    assert trained.history == again.history
    assert {type(layer) for layer in trained.model.layers if "dropout" in layer.name} == {keras.layers.Dropout}
    logits = trained.model.predict(val[0], verbose=0)[:, 0]
    loss = np.mean(np.log1p(np.exp(-logits * (2 * val[1] - 1))))
    np.testing.assert_allclose(loss, trained.val["loss"], rtol=1e-4)
