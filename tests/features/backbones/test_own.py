"""One's own network, as a `.keras` file."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.backbones.cuts import Cut, chosen_cuts, cut_names
from headstart.features.backbones.outlines import outline
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import FeatureConfig
from headstart.features.errors import HeadstartError, OptionError, WeightsError
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
    ("output", "tokens"), [("map", "mean"), ("tokens", "mean"), ("tokens", "first"), ("vector", "mean")]
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
    headstart("finetune", tmp_path / "run", "--epochs", "1", "--batch-size", "8")
    assert headstart("evaluate", tmp_path / "run")["finetuned"]["accuracy"] >= 0
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
