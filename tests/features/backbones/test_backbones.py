from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.weights import build_backbone
from headstart.features.backbones.zoo import BACKBONES, RESCALINGS
from headstart.features.errors import OptionError, WeightsError

SIZE = 96  # the smallest that every network takes is 75


@pytest.fixture(scope="module", params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest):
    return build_backbone(request.param, weights="random", image_size=SIZE)


def test_cuts_lie_in_order_and_end_at_the_top(backbone) -> None:
    indices = [backbone.layer_index(cut) for cut in backbone.spec.cuts]
    assert indices == sorted(set(indices))
    assert indices[-1] == len(backbone.model.layers) - 1


def test_the_boundary_lies_below_its_cut(backbone) -> None:
    for cut in backbone.cuts():
        assert backbone.boundary([cut]) <= backbone.layer_index(cut.block)
    assert backbone.boundary([cut]) == backbone.layer_index(backbone.spec.finetune_from)


def test_features_of_every_cut_are_finite_and_differ_between_images(backbone) -> None:
    cuts = backbone.cuts()
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    model = keras.Model(pixels, backbone.features(pixels, cuts))
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    for cut, features in zip(cuts, model.predict(images, verbose=0), strict=True):
        assert features.shape == (2, *backbone.shape(cut))
        assert np.isfinite(features).all()
        assert features.std(axis=0).max() > 1e-5


def test_rescaling_is_that_of_keras() -> None:
    modules = {
        "inception_v3": keras.applications.inception_v3,
        "xception": keras.applications.xception,
        "resnet50_v2": keras.applications.resnet_v2,
    }
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    for name, module in modules.items():
        rescaling = RESCALINGS[BACKBONES[name].rescaling]
        ours = pixels * rescaling.scale + rescaling.offset
        np.testing.assert_allclose(ours, module.preprocess_input(pixels.copy()), atol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet_v2_b0", "mobilenet_v3_small"])
def test_rescaling_is_that_inside_of_keras_models(name: str) -> None:
    with_it = getattr(keras.applications, BACKBONES[name].builder)(
        include_top=False, weights=None, input_shape=(32, 32, 3), include_preprocessing=True
    )
    first_conv = next(layer for layer in with_it.layers if isinstance(layer, keras.layers.Conv2D))
    before = keras.Model(with_it.input, first_conv.input)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    rescaling = RESCALINGS[BACKBONES[name].rescaling]
    np.testing.assert_allclose(pixels * rescaling.scale + rescaling.offset, before(pixels), atol=1e-4)


def test_inception_is_fine_tuned_from_249_where_only_mixed8_crosses() -> None:
    backbone = build_backbone("inception_v3", weights="random", image_size=SIZE)
    mixed = backbone.cuts()
    assert backbone.boundary(mixed[10:]) == 249
    assert backbone.boundary([mixed[10], mixed[6]]) == 249
    assert backbone.boundary([Cut("inception_v3", "mixed8")]) == backbone.layer_index("mixed7") + 1
    assert backbone.boundary(mixed[:1]) == 0
    assert backbone.layer_index("mixed8") == 248


def small(**options):
    return build_backbone(**{"name": "mobilenet_v3_small", "weights": "random", "image_size": 64, **options})


def test_random_weights_follow_from_their_seed() -> None:
    first, again, other = small(), small(), small(weights_seed=1)
    assert first.weights_digest == again.weights_digest != other.weights_digest


@pytest.mark.parametrize("layer", ["nowhere", "-1", "157", "9999"])
def test_an_unknown_layer_is_refused(layer: str) -> None:
    with pytest.raises(OptionError, match="has no layer"):
        small().layer_index(layer)


def test_unknown_names_are_listed() -> None:
    with pytest.raises(OptionError, match="inception_v3, xception"):
        build_backbone("alexnet")


def test_a_size_too_small_is_refused() -> None:
    with pytest.raises(OptionError, match="--image-size 40"):
        build_backbone("inception_v3", weights="random", image_size=40)


def test_weights_files_of_keras_3_are_loaded_whole(tmp_path: Path) -> None:
    saved = small(weights_seed=5)
    saved.model.save_weights(tmp_path / "x.weights.h5")
    assert small(weights=str(tmp_path / "x.weights.h5")).weights_digest == saved.weights_digest


def write_legacy(model: keras.Model, path: Path, skip: int = 0) -> None:
    """The layout of the `_notop.h5` files that Keras publishes: a group a layer, in order."""
    layers = [layer for layer in model.layers if layer.weights][skip:]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.4.0"
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{index}".encode() for index in range(len(layer.weights))]
            group.attrs["weight_names"] = names
            # As published, trainable weights come first; a Keras layer lists them so itself.
            for name, variable in zip(names, layer.trainable_variables + layer.non_trainable_variables, strict=True):
                group[name.decode()] = variable.numpy()


def test_weights_files_that_keras_publishes_are_loaded_whole(tmp_path: Path) -> None:
    saved = small(weights_seed=5)
    write_legacy(saved.model, tmp_path / "x_notop.h5")
    assert small(weights=str(tmp_path / "x_notop.h5")).weights_digest == saved.weights_digest


def test_a_file_that_leaves_a_layer_out_is_refused(tmp_path: Path) -> None:
    write_legacy(small().model, tmp_path / "x_notop.h5", skip=1)
    with pytest.raises(WeightsError, match=r"x_notop\.h5"):
        small(weights=str(tmp_path / "x_notop.h5"))


def test_a_layer_left_unfilled_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = small()
    saved.model.save_weights(tmp_path / "x.weights.h5")
    loads = keras.Model.load_weights

    def forgets_one(model: keras.Model, file: Path) -> None:
        kept = model.weights[7].numpy()
        loads(model, file)
        model.weights[7].assign(kept)

    monkeypatch.setattr(keras.Model, "load_weights", forgets_one)
    with pytest.raises(WeightsError, match="unfilled"):
        small(weights=str(tmp_path / "x.weights.h5"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    build_backbone("resnet50_v2", weights="random", image_size=64).model.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(WeightsError, match="not weights of this network"):
        small(weights=str(tmp_path / "x.weights.h5"))


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + bytes(100), b"hello"])
def test_corrupt_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.weights.h5").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.weights\.h5"):
        small(weights=str(tmp_path / "x.weights.h5"))


@pytest.mark.parametrize("name", ["gone.weights.h5", "imagnet"])
def test_missing_weights_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        small(weights=str(tmp_path / name))


def test_what_keras_tells_of_a_download_leaves_standard_output_alone(monkeypatch, capsys) -> None:
    build = keras.applications.MobileNetV3Small

    def tells(*arguments, weights, **options):
        print("Downloading data from https://example.org")
        return build(*arguments, weights=None, **options)

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", tells)
    small(weights="imagenet")
    assert capsys.readouterr().out == ""


def test_imagenet_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_, **__):
        raise Exception("URL fetch failure on https://example.org/x_notop.h5: None -- unreachable")  # as Keras does

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", fails)
    with pytest.raises(WeightsError, match=r"x_notop\.h5.*--weights FILE"):
        small(weights="imagenet")
