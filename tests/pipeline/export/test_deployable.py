from pathlib import Path

import numpy as np
import pytest
from headstart.features.backbones.weights import build_backbone
from headstart.features.tensorflow import keras
from headstart.pipeline.classifier import build_classifier
from headstart.pipeline.export.deployable import deployable_model

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def head_on(features: np.ndarray, units: int, sequential: bool = False) -> keras.Model:
    """A head as `headstart head` builds it for `features` [N, D], or as a person may. No probability is near 0 or 1."""
    keras.utils.set_random_seed(1)
    variance = np.full(features.shape[1], features.var(axis=0).mean())
    layers = [
        keras.layers.Normalization(mean=features.mean(axis=0), variance=variance),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(units),
    ]
    if sequential:
        return keras.Sequential([keras.Input(features.shape[1:]), *layers])
    x = inputs = keras.Input(features.shape[1:])
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def require_informative(chances: np.ndarray) -> None:
    """Fail if a wrong model would have the same probabilities: they must not be near 0 and 1, and differ."""
    assert (chances.min() > 1e-3, chances.max() < 1 - 1e-3, chances.std() > 1e-3) == (True, True, True)


def kinds(model: keras.Model) -> set[str]:
    parts = [kinds(layer) if isinstance(layer, keras.Model) else {type(layer).__name__} for layer in model.layers]
    return set().union(*parts)


@pytest.mark.parametrize(
    ("rescale", "units", "sequential"),
    [pytest.param("unit", 1, False, marks=pytest.mark.slow), pytest.param("caffe", 3, True, marks=pytest.mark.slow)],
)
def test_probabilities_are_those_of_the_classifier(tmp_path: Path, rescale: str, units: int, sequential: bool) -> None:
    backbone = build_backbone("mobilenet_v3_small", "random", rescale, 64)
    (cut,) = backbone.cuts()[-1:]
    pixels = keras.Input((64, 64, 3), dtype="uint8")
    features = keras.Model(pixels, backbone.features(pixels, [cut])[0]).predict_on_batch(PIXELS)
    classifier = build_classifier(backbone, [cut], head_on(features, units, sequential))
    logits = classifier.predict_on_batch(PIXELS) / 1.7
    chances = keras.ops.softmax(logits) if units > 1 else keras.ops.sigmoid(logits)
    model = deployable_model(classifier, 1.7)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    assert (loaded.input.dtype, loaded.output_shape) == ("uint8", (None, max(units, 2)))
    for one in (model, loaded):
        found = one.predict_on_batch(PIXELS)
        assert np.abs(found[:, -units:] - np.asarray(chances)).max() < 1e-4
        assert np.allclose(found.sum(axis=1), 1, atol=1e-6)
        assert not {"Normalization", "Dropout", "BatchNormalization"} & kinds(one)
    require_informative(np.asarray(chances))


def test_a_network_of_ones_own_with_a_network_in_it() -> None:
    inner_input = keras.Input((32, 32, 8))
    x = keras.layers.Conv2D(8, 3, name="inner_conv")(inner_input)
    inner = keras.Model(inner_input, keras.layers.BatchNormalization(name="inner_norm")(x), name="inner")
    image = keras.Input((64, 64, 3))
    x = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(image)
    x = inner(keras.layers.Conv2D(8, 3, strides=2, padding="same")(x))
    network = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Dropout(0.5)(x + 1.0)))
    pixels = keras.Input((64, 64, 3), dtype="uint8")
    features = network(keras.layers.Rescaling(1.0)(pixels))
    draw = np.random.default_rng(2)
    network.set_weights([draw.uniform(0.1, 0.3, one.shape) for one in network.get_weights()])
    classifier = keras.Model(pixels, head_on(keras.Model(pixels, features).predict_on_batch(PIXELS), 1)(features))
    chances = 1 / (1 + np.exp(-classifier.predict_on_batch(PIXELS).astype(np.float64)))
    found = deployable_model(classifier, 1.0).predict_on_batch(PIXELS)
    assert np.abs(found[:, 1:] - chances).max() < 1e-5
    require_informative(chances)
