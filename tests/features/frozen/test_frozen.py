import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import Precision
from headstart.features.frozen.folding import fold_batchnorm
from headstart.features.frozen.frozen import FrozenBackbone, Pass, _fastest_batch_size, freeze, frozen_part, traced

SIZE = 96


def with_statistics(name: str, precision: Precision = "float32") -> Backbone:
    """A random backbone whose batch normalisation does something."""
    backbone = build_backbone(name, weights="random", image_size=SIZE, precision=precision)
    rng = np.random.default_rng(0)
    for layer in backbone.model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return backbone


def relative_error(backbone: Backbone, fast_form_of: Backbone, engine: str | None = None) -> float:
    cuts = list(dict.fromkeys([backbone.cuts()[0], backbone.cuts()[-1]]))
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    plain = keras.Model(pixels, backbone.features(pixels, cuts))
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    fast = freeze(fast_form_of, cuts, 8, engine)(images)
    errors = [
        np.linalg.norm(fast[cut] - expected) / np.linalg.norm(expected)
        for cut, expected in zip(cuts, keras.tree.flatten(plain.predict(images, verbose=0)), strict=True)
    ]
    return float(max(errors))


PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
QUICK = "mobilenet_v3_small"
FOLDED = (
    "inception_v3",
    "efficientnet_lite0",
    "resnet50",
    "mobilenet_v2",
)
OTHERS = ("xception", "efficientnet_v2_b0", "resnet50_v2", "convnext_tiny", "nasnet_mobile", "inception_resnet_v2")


@pytest.fixture(
    scope="module",
    params=[
        QUICK,
        *(pytest.param(name, marks=pytest.mark.slow) for name in FOLDED),
        *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.soak]) for name in OTHERS),
    ],
)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return with_statistics(request.param)


def test_the_fast_form_equals_the_plain_model(backbone: Backbone) -> None:
    assert relative_error(backbone, backbone) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("engine", [None, "openvino"])
def test_the_fast_form_equals_the_plain_model_but_for_rounding_in_bfloat16(engine: str | None) -> None:
    full, reduced = (with_statistics("mobilenet_v3_small", precision) for precision in PRECISIONS)
    assert relative_error(full, reduced, engine) < 0.06  # 0.30 without folding


@pytest.mark.slow
def test_a_stream_runs_two_passes_at_a_time_and_keeps_order_and_every_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.features.frozen.frozen.on_gpu", lambda: False)  # where one pass fills the device
    both_running = threading.Barrier(2)
    backbone = build_backbone("mobilenet_v3_small", weights="random", image_size=SIZE)
    cut = backbone.cuts()[-1]
    frozen = freeze(backbone, [cut], batch_size=8)
    run = FrozenBackbone.__call__

    def meet(self: FrozenBackbone, pixels: np.ndarray, one: Pass) -> dict[Cut, np.ndarray]:
        both_running.wait(timeout=60)
        return run(self, pixels, one)

    images = np.random.default_rng(0).integers(0, 256, (28, SIZE, SIZE, 3)).astype(np.uint8)
    batches = [(positions, images[positions]) for positions in np.split(np.arange(28), [8, 16, 24])]
    with monkeypatch.context() as patched:
        patched.setattr(FrozenBackbone, "__call__", meet)
        streamed = list(frozen.stream(batches))
    for (expected, pixels), (positions, features) in zip(batches, streamed, strict=True):
        np.testing.assert_array_equal(positions, expected)
        np.testing.assert_array_equal(features[cut], frozen(pixels)[cut])


def test_passes_at_a_time_share_no_graph_of_a_network_with_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.features.frozen.frozen.on_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)  # OpenVINO's passes share no state
    shared = []

    def traced_alone(*arguments: Any) -> Callable[[tf.Tensor], list[tf.Tensor]]:
        graph, busy = traced(*arguments), threading.Lock()

        def run(batch: tf.Tensor) -> list[tf.Tensor]:
            shared.append(not busy.acquire(blocking=False))
            outputs = graph(batch)
            time.sleep(0.05)  # time for another pass to come
            if not shared[-1]:
                busy.release()
            return outputs

        return run

    monkeypatch.setattr("headstart.features.frozen.frozen.traced", traced_alone)
    backbone = build_backbone("mobilenet_v3_small", weights="random", image_size=SIZE)
    frozen = freeze(backbone, backbone.cuts(), batch_size=1)
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    list(frozen.stream((np.array([number]), image) for number in range(10)))
    assert len(shared) == 11  # one to find the slots
    assert not any(shared)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param("TensorFlow", marks=pytest.mark.soak), "openvino"])
def test_many_passes_at_a_time_keep_every_bit_of_a_network_with_shortcuts(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "TensorFlow":
        monkeypatch.setitem(sys.modules, "openvino", None)
    backbone = build_backbone("mobilenet_v3_small", weights="random", image_size=64)
    frozen = freeze(backbone, backbone.cuts(), batch_size=8)
    images = np.random.default_rng(0).integers(0, 256, (8, frozen.images_per_pass, 64, 64, 3), dtype=np.uint8)
    expected = [frozen(pixels) for pixels in images]
    batches = ((np.array([number % 8]), images[number % 8]) for number in range(4000))
    for (number,), features in frozen.stream(batches):
        for cut in frozen.cuts:
            np.testing.assert_array_equal(features[cut], expected[number][cut])


@pytest.mark.parametrize("failing", range(5))
def test_a_pass_that_fails_ends_the_stream(failing: int) -> None:
    class Failing(FrozenBackbone):
        def __call__(self, pixels: np.ndarray, run: Pass | None = None) -> dict[Cut, np.ndarray]:
            if pixels[0] == failing:
                raise MemoryError("no room")
            return {}

    batches = [(np.array([number]), np.array([number])) for number in range(5)]
    stream = Failing([lambda batch: [batch]] * 2, [], 32, 1).stream(batches)
    assert [next(stream)[0].item() for _ in range(failing)] == list(range(failing))
    with pytest.raises(MemoryError, match="no room"):
        next(stream)


def test_folding_keeps_layers_and_folds_what_follows_a_convolution(backbone: Backbone) -> None:
    model = backbone.model
    weights = [weight.numpy() for weight in model.weights]
    folded = fold_batchnorm(model)
    assert [layer.name for layer in folded.layers[1:]] == [layer.name for layer in model.layers[1:]]
    left = [layer for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if backbone.name == "resnet50_v2":  # its normalisation comes before the convolutions of a block, and after a sum
        assert all("preact" in layer.name or "post" in layer.name for layer in left)
    elif backbone.name in (QUICK, *FOLDED):
        assert not left
    assert all(np.array_equal(before, after.numpy()) for before, after in zip(weights, model.weights, strict=True))


def test_a_convolution_that_others_read_too_is_not_folded() -> None:
    image = keras.Input((8, 8, 3))
    seen_twice = keras.layers.Conv2D(4, 3)(image)
    normalised = keras.layers.BatchNormalization()(seen_twice)
    active = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(image))
    model = keras.Model(image, [keras.layers.Add()([seen_twice, normalised]), active])
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.weights])
    images = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    for expected, got in zip(model(images), fold_batchnorm(model)(images), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "SeparableConv2D"])
def test_biases_make_up_for_what_rounding_the_weights_moves(kind: str) -> None:
    def normalised(dtype: str) -> keras.Model:
        image = keras.Input((4, 4, 300))
        sizes = (1,) if kind == "DepthwiseConv2D" else (8, 1)
        convolved = getattr(keras.layers, kind)(*sizes, use_bias=False, dtype=dtype, name="convolved")(image)
        model = keras.Model(image, keras.layers.BatchNormalization(scale=False, dtype=dtype)(convolved))
        rng = np.random.default_rng(0)
        model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.weights])
        return model

    constant = np.full((1, 4, 4, 300), 2.0, np.float32)
    plain, reduced = normalised("float32"), normalised("mixed_bfloat16")
    in_float32 = fold_batchnorm(plain)
    rounded = [weight.numpy().astype(np.float32) for weight in fold_batchnorm(reduced, constant).weights]
    in_float32.set_weights(rounded)
    error = np.abs(in_float32(constant) - plain(constant)).max(axis=(0, 1, 2))
    bias = rounded[-1]
    assert (error <= np.abs(bias) * 2**-8 + 1e-3).all()  # that of the bias alone


def test_the_frozen_part_yields_all_that_crosses(backbone: Backbone) -> None:
    cuts = backbone.cuts()[-1:]
    above = range(backbone.boundary(cuts) + 1, len(backbone.model.operations))
    inside = next((layer for layer in above if len(backbone.crossing(layer, cuts)) > 1), above[-1])
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    for from_layer in (0, backbone.boundary(cuts), inside):
        crossing = backbone.crossing(from_layer, cuts)
        frozen = frozen_part(backbone, crossing)
        tensors = keras.tree.flatten(frozen(pixels, training=True))  # which must not matter
        image = keras.Input((SIZE, SIZE, 3), dtype="uint8")
        joined = keras.Model(image, backbone.features_from(frozen(image), from_layer, cuts))
        expected = keras.Model(image, backbone.features(image, cuts))(pixels)
        assert len(tensors) == len(crossing)
        for tensor, as_inference in zip(tensors, keras.tree.flatten(frozen(pixels, training=False)), strict=True):
            np.testing.assert_array_equal(tensor, as_inference)
        assert np.linalg.norm(joined(pixels)[0] - expected[0]) < 1e-5 * np.linalg.norm(expected[0])


@pytest.mark.slow
def test_one_tensor_crosses_the_boundary_of_inception() -> None:
    backbone = build_backbone("inception_v3", weights="random", image_size=SIZE)
    mixed = backbone.cuts()
    (crossing,) = backbone.crossing(249, mixed[10:])
    assert backbone.model.operations[crossing].name == "mixed8"
    assert backbone.crossing(249, [mixed[7], mixed[10]]) == [backbone.layer_index("mixed7"), crossing]


@pytest.mark.parametrize(("most", "found"), [(10_000, 192), (100, 96), (50, 48)])
def test_a_batch_is_doubled_while_that_is_faster_and_fits(most: int, found: int) -> None:
    def seconds(batch_size: int) -> float:
        if batch_size > most:
            raise tf.errors.ResourceExhaustedError(None, None, "no room")
        return 1 + max(0, batch_size - 192)  # nothing is gained beyond

    assert _fastest_batch_size(seconds) == found
