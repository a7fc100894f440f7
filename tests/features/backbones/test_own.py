"""One's own network, as a `.keras` file."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.backbones.cuts import Cut, chosen_cuts, chosen_weights, cut_names, restricted
from headstart.features.backbones.outlines import outline
from headstart.features.backbones.weights import build_backbone
from headstart.features.backbones.zoo import RESCALINGS
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import HeadstartError, OptionError, WeightsError
from headstart.features.frozen.network import load_networks, resolved_config
from keras import layers

SIZE = 32


def saved(folder: Path, output: str = "map", size: int | None = SIZE, **options: object) -> str:
    """A small network of each output kind, saved."""
    image = keras.Input((size, size, 3), name="image")
    x = stem = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="stem")(image)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="inner")(x)
    x = layers.ReLU(name="inner_act")(layers.BatchNormalization(name="inner_bn")(x))
    x = layers.Add(name="sum")([stem, x])
    x = x + layers.Conv2D(8, 1, name="more")(x)
    x = layers.Conv2D(16, 3, 2, padding="same", name="down")(x)
    x = layers.Activation("relu", name="end")(x)
    if output == "tokens":
        x = layers.LayerNormalization(name="tokens")(layers.Reshape((-1, 16))(x))
    elif output == "vector":
        x = layers.Dense(5, name="vector")(layers.GlobalMaxPooling2D()(x))
    keras.utils.set_random_seed(3)
    model = keras.Model(image, x, **options)
    file = folder / f"{output}.keras"
    model.save(file)
    return str(file)


def features_of(file: str, images: np.ndarray, **options: object) -> np.ndarray:
    from headstart.features.frozen.frozen import freeze

    backbone = build_backbone(file, rescale="unit", **options)
    cut = backbone.cuts()[-1]
    return freeze(backbone, [cut], batch_size=len(images))(images)[cut]


@pytest.mark.parametrize(
    ("output", "tokens"),
    [
        ("map", "mean"),
        pytest.param("tokens", "first", marks=pytest.mark.slow),
        pytest.param("tokens", "mean", marks=pytest.mark.slow),
        pytest.param("vector", "mean", marks=pytest.mark.slow),
    ],
)
def test_each_kind_of_output_becomes_features(tmp_path: Path, output: str, tokens: str) -> None:
    file = saved(tmp_path, output)
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    expected = np.asarray(keras.models.load_model(file)(images / np.float32(255)))
    if output == "map":
        expected = expected.mean((1, 2))
    elif output == "tokens":
        expected = expected.mean(1) if tokens == "mean" else expected[:, 0]
    np.testing.assert_allclose(features_of(file, images, tokens=tokens), expected, rtol=1e-4, atol=1e-5)
    reduced = features_of(file, images, tokens=tokens, precision="bfloat16")
    error = np.linalg.norm(reduced - expected) / np.linalg.norm(expected)
    assert 0 < error < 0.05


def test_cuts_lie_where_one_map_crosses_and_the_output_may_be_another(tmp_path: Path) -> None:
    assert next(iter(outline(saved(tmp_path, "map")).cuts)) == "sum"
    found = outline(saved(tmp_path, "vector"))
    assert list(found.cuts.values())[-1] == (5,)
    assert [len(shape) for shape in found.cuts.values()][:-1] == [3] * (len(found.cuts) - 1)
    config = FeatureConfig(backbone=saved(tmp_path, "vector"), cut=("sum:map", "vector"))
    assert cut_names(chosen_cuts(config)) == ["sum:map", "vector"]
    with pytest.raises(OptionError, match="has no map at 'vector'"):
        chosen_cuts(FeatureConfig(backbone=config.backbone, cut=("vector:map",)))
    with pytest.raises(OptionError, match="has no cut 'mixed9'"):
        chosen_cuts(FeatureConfig(backbone=config.backbone, cut=("mixed9",)))


@pytest.mark.slow
def test_both_phases_run_with_it_and_its_digest_is_in_the_fingerprint(
    headstart, prepared: Path, tmp_path: Path
) -> None:
    (tmp_path / "c++").mkdir()
    file = saved(tmp_path / "c++", "tokens", name="mine")
    options = ("--backbone", file, "--rescale", "unit", "--store", tmp_path / "store", "--max-rejects", "1")
    first = headstart("features", prepared, *options)
    (tmp_path / "moved.keras").write_bytes(Path(file).read_bytes())
    moved = headstart("features", prepared, "--backbone", tmp_path / "moved.keras", *options[2:])
    assert (moved["extracted"], moved["fingerprint"]) == (0, first["fingerprint"])
    assert headstart("features", prepared, "--tokens", "first", *options)["extracted"] > 0
    headstart("head", prepared, "--run", tmp_path / "run", "--epochs", "1", *options)
    finetuned = headstart("finetune", tmp_path / "run", "--epochs", "1", "--batch-size", "8")
    better = finetuned["best_epoch"] > 0
    assert ("finetuned" in headstart("evaluate", tmp_path / "run")) == better
    assert headstart(
        "store", "verify", tmp_path / "store", "--data", prepared, "--recompute", "4", "--weights", file
    )["bad"] == 0  # fmt: skip


def test_a_network_of_any_size_needs_one(tmp_path: Path) -> None:
    file = saved(tmp_path, "map", size=None)
    with pytest.raises(OptionError, match="any size; say with --image-size"):
        build_backbone(file, rescale="unit")
    assert build_backbone(file, rescale="unit", image_size=64).shapes["sum"] == (32, 32, 8)
    with pytest.raises(OptionError, match=f"takes images of {SIZE} x {SIZE} alone"):
        build_backbone(saved(tmp_path, "vector"), rescale="unit", image_size=64)


@pytest.mark.slow
def test_a_layer_that_is_used_twice_leaves_the_output_as_the_only_cut(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    twice = layers.Conv2D(3, 3, padding="same")
    keras.Model(image, layers.GlobalAveragePooling2D(name="pooled")(twice(twice(image)))).save(tmp_path / "twice.keras")
    file = str(tmp_path / "twice.keras")
    assert list(outline(file).cuts) == ["pooled"]
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    expected = keras.models.load_model(file)(images / np.float32(255))
    np.testing.assert_allclose(features_of(file, images), expected, rtol=1e-4, atol=1e-6)


def test_loading_one_never_changes_another(tmp_path: Path) -> None:
    file = saved(tmp_path, "map")
    one = build_backbone(file, rescale="unit").model
    one.set_weights([weight * 0 for weight in one.get_weights()])
    assert any(weight.any() for weight in build_backbone(file, rescale="unit").model.get_weights())


class Custom(layers.Layer):
    """A layer of one's own."""

    def call(self, x):
        return x


def refused(file: Path) -> str:
    with pytest.raises(HeadstartError) as raised:
        build_backbone(str(file), rescale="unit")
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)
    return str(raised.value)


def test_code_is_refused(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    code = {"lambda": layers.Lambda(lambda x: x * 2), "custom": Custom()}
    for name, layer in code.items():
        keras.Model(image, layer(image)).save(tmp_path / f"{name}.keras")
        assert "safe mode runs no code" in refused(tmp_path / f"{name}.keras")


@pytest.mark.parametrize("damage", ["text", "empty", "gone", "other zip", "half", "bomb", "not finite"])
def test_a_file_that_is_not_one_is_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "x.keras"
    whole = Path(saved(tmp_path, "map")).read_bytes()
    if damage in ("text", "empty", "half"):
        file.write_bytes({"text": b"hello", "empty": b"", "half": whole[: len(whole) // 2]}[damage])
    elif damage == "other zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("readme.txt", "hello")
    elif damage == "bomb":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", json.dumps({}))
            archive.writestr("model.weights.h5", bytes(64 << 20))
    elif damage == "not finite":
        model = keras.models.load_model(tmp_path / "map.keras")
        model.set_weights([weight * np.nan for weight in model.get_weights()])
        model.save(file)
    refused(file)


def test_a_model_of_another_form_is_refused(tmp_path: Path) -> None:
    image, number = keras.Input((SIZE, SIZE, 3)), keras.Input((4,))
    x = layers.Conv2D(4, 3)(image)
    grey, wide = keras.Input((SIZE, SIZE, 1)), keras.Input((SIZE, 2 * SIZE, 3))
    models = {
        "2 outputs": keras.Model(image, [x, x]),
        "not images": keras.Model(number, layers.Dense(3)(number)),
        "not images, ": keras.Model(grey, layers.Conv2D(3, 3)(grey)),
        "must be square": keras.Model(wide, layers.Conv2D(3, 3)(wide)),
        "the shape": keras.Model(image, layers.Reshape((2, 2, -1, 4))(x)),
        "takes": keras.Model([image, number], layers.Dense(3)(number)),
    }
    for said, model in models.items():
        model.save(tmp_path / "x.keras")
        assert said in refused(tmp_path / "x.keras")


def test_its_pixels_must_be_said_and_it_has_its_own_weights(tmp_path: Path) -> None:
    file = saved(tmp_path, "map")
    with pytest.raises(OptionError, match="say with --rescale which pixels it takes: none, unit"):
        build_backbone(file)
    with pytest.raises(OptionError, match="holds its own weights"):
        build_backbone(file, weights="random", rescale="unit")
    with pytest.raises(WeightsError, match="no such file"):
        chosen_cuts(FeatureConfig(backbone=str(tmp_path / "gone.keras")))
    assert Cut(file, "sum") in build_backbone(file, rescale="caffe").cuts()


def saved_as(folder: Path, name: str, inputs: object, output: object) -> str:
    """Save the model from `inputs` to `output`, with weights unlike those of a new model."""
    model = keras.Model(inputs, output)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.weights])
    file = folder / f"{name}.keras"
    model.save(file)
    return str(file)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("shared convolution", marks=pytest.mark.slow),
        pytest.param("shared normalisation", marks=pytest.mark.slow),
        pytest.param("normalised height", marks=pytest.mark.slow),
        pytest.param("groups", marks=pytest.mark.slow),
    ],
)
def test_what_can_not_be_folded_keeps_its_values(tmp_path: Path, kind: str) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    convolve, normalise = layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()
    if kind == "shared normalisation":
        output = layers.Add()([normalise(convolve(image)), normalise(layers.Conv2D(4, 1)(image))])
    elif kind == "shared convolution":
        output = layers.Add()([normalise(convolve(image)), convolve(layers.ReLU()(image))])
    elif kind == "normalised height":
        output = layers.BatchNormalization(axis=1)(convolve(image))
    else:
        output = normalise(layers.Conv2D(4, 3, groups=2)(layers.Conv2D(6, 1)(image)))
    file = saved_as(tmp_path, "x", image, output)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    expected = np.asarray(keras.models.load_model(file)(images / np.float32(255))).mean((1, 2))
    np.testing.assert_allclose(features_of(file, images), expected, rtol=1e-4)
    reduced = features_of(file, images, precision="bfloat16")
    assert np.linalg.norm(reduced - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("nested", ["functional", pytest.param("sequential", marks=pytest.mark.slow)])
def test_nested_models_are_read_as_their_layers(tmp_path: Path, nested: str) -> None:
    inner_layers = [
        layers.Conv2D(4, 3, name="c1"),
        layers.BatchNormalization(name="n1"),
        layers.Conv2D(6, 3, name="c2"),
    ]
    inner = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *inner_layers])
    if nested == "functional":
        inner = keras.Model(inner.inputs[0], inner.outputs[0])
    image = keras.Input((SIZE, SIZE, 3))
    file = saved_as(tmp_path, "x", image, layers.GlobalAveragePooling2D(name="pooled")(inner(image)))
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    expected = keras.models.load_model(file)(images / np.float32(255))
    np.testing.assert_allclose(features_of(file, images), expected, rtol=1e-4)
    backbone = build_backbone(file, rescale="unit")
    assert backbone.layer_index("c2") >= backbone.boundary(backbone.cuts()[-1:]) > 0


def test_a_sequential_model_lists_the_cuts_that_its_backbone_has(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((64, 64, 3)), *(layers.Conv2D(4, 3, 2, name=f"c{n}") for n in range(3))])
    model.save(tmp_path / "x.keras")
    file = str(tmp_path / "x.keras")
    assert list(outline(file).cuts) == list(build_backbone(file, rescale="unit").shapes) == ["c0", "c1", "c2"]


def test_an_unbranched_network_of_any_size_has_cuts(tmp_path: Path) -> None:
    image = x = keras.Input((None, None, 3))
    for number in range(3):
        x = layers.Conv2D(4, 3, 2, padding="same", name=f"c{number}")(x)
    file = saved_as(tmp_path, "any", image, x)
    found = outline(file)
    assert (found.image_size, list(found.cuts)) == (0, ["c0", "c1", "c2"])
    assert list(build_backbone(file, rescale="unit", image_size=64).shapes) == list(found.cuts)


def test_layers_with_numbers_for_names_are_found_by_cut_and_by_index(tmp_path: Path) -> None:
    image = x = keras.Input((SIZE, SIZE, 3))
    for name in ("5", "3", "1"):
        x = layers.Conv2D(4, 3, 2, padding="same", name=name)(x)
    backbone = build_backbone(saved_as(tmp_path, "x", image, x), rescale="unit")
    assert [backbone.layer_index(cut) for cut in backbone.cuts()] == [1, 2, 3]
    assert [backbone.layer_index(index) for index in (1, 2, 3)] == [1, 2, 3]
    assert backbone.layer_index("3") == 3


def test_beside_a_network_of_the_zoo_rescaling_and_weights_are_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "c++").mkdir()
    file = saved(tmp_path / "c++", "map")
    config = FeatureConfig(
        backbone=f"mobilenet_v3_small+{file}", weights="random", rescale="unit", image_size=SIZE, precision="float32"
    )
    networks = load_networks(config, ExtractionConfig(store=tmp_path / "store"))
    assert [network.backbone.rescaling for network in networks] == [RESCALINGS["inception"], RESCALINGS["unit"]]
    again = resolved_config(config, networks)
    assert chosen_cuts(again) == chosen_cuts(config)
    assert chosen_weights(again) == {"mobilenet_v3_small": "random", file: "imagenet"}
    zoo, own = chosen_cuts(config)
    assert (restricted(config, [zoo]).rescale, restricted(config, [own]).rescale) == ("auto", "unit")


def test_what_openvino_can_not_convert_is_run_by_tensorflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.UpSampling2D(interpolation="lanczos3")(layers.Conv2D(4, 3)(image))
    file = saved_as(tmp_path, "x", image, x)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    expected = np.asarray(keras.models.load_model(file)(images / np.float32(255))).mean((1, 2))
    np.testing.assert_allclose(features_of(file, images), expected, rtol=1e-4)
    assert "TensorFlow makes the same features" in capsys.readouterr().err


def test_networks_in_eight_bits_differ_by_their_tokens(tmp_path: Path) -> None:
    file = saved(tmp_path, "tokens")
    folders = set()
    for tokens in ("mean", "first"):
        config = FeatureConfig(backbone=file, rescale="unit", precision="int8", tokens=tokens)
        (network,) = load_networks(config, ExtractionConfig(store=tmp_path))
        folders.add(network.quantised_folder())
    assert len(folders) == 2


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    keras.Model(image, layers.ReLU()(image)).save(tmp_path / "x.keras")
    assert "has no weights" in refused(tmp_path / "x.keras")


@pytest.mark.slow
def test_tokens_of_a_network_without_any_are_refused(headstart, prepared: Path, tmp_path: Path) -> None:
    options = ("--backbone", "mobilenet_v3_small", "--weights", "random", "--store", tmp_path, "--tokens", "first")
    assert "yields no tokens" in headstart.error("features", prepared, *options, code=2)
