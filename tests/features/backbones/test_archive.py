"""What is refused of a `.keras` file before and while it is loaded, each in one line."""

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from headstart.features.backbones.cuts import chosen_cuts
from headstart.features.backbones.outlines import outline
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import FeatureConfig
from headstart.features.errors import HeadstartError, OptionError, WeightsError
from headstart.features.frozen.frozen import freeze
from keras import layers

SIZE = 32


def saved(file: Path, *body: Any, size: int | None = SIZE) -> str:
    """Save a network of one convolution, and what follows."""
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, strides=2, name="first")(image)
    for layer in body:
        x = layer(x)
    keras.Model(image, x).save(file)
    return str(file)


def edited(file: str, change: Callable[[dict[str, Any]], None]) -> str:
    """Change the configuration of the layer `first` in a saved network."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(next(layer["config"] for layer in config["config"]["layers"] if layer["config"]["name"] == "first"))
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (members | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(name, data)
    return file


def refused(file: str, **options: Any) -> str:
    with pytest.raises(HeadstartError) as raised:
        build_backbone(file, rescale="unit", **options)
    said = str(raised.value)
    assert said.isprintable()
    assert Path(file).name in said
    return said


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_quantised_layers_are_refused(tmp_path: Path, mode: str) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, layers.Dense(4)(layers.Conv2D(4, 3)(image)))
    with warnings.catch_warnings(action="ignore"):
        model.quantize(mode)
    model.save(tmp_path / "x.keras")
    assert "save the model before quantize()" in refused(str(tmp_path / "x.keras"))


@pytest.mark.slow
def test_a_convolution_with_lora_keeps_its_values(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    convolve = layers.Conv2D(4, 3)
    model = keras.Model(image, layers.BatchNormalization()(convolve(image)))
    convolve.enable_lora(2)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.weights])
    model.save(tmp_path / "x.keras")
    backbone = build_backbone(str(tmp_path / "x.keras"), rescale="unit")
    images = rng.integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    (found,) = freeze(backbone, backbone.cuts(), batch_size=2)(images).values()
    expected = np.asarray(model(images / np.float32(255))).mean((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_layer_larger_than_its_weights_in_the_file_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = keras.initializers.GlorotUniform.__call__

    def counted(self: Any, shape: tuple[int, ...], dtype: Any = None) -> Any:
        made.append(int(np.prod(shape)))
        return make(self, [min(side, 99) for side in shape], dtype)

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", counted)
    file = edited(saved(tmp_path / "x.keras"), lambda first: first.update(filters=5_000_000))
    assert "Keras can't load it" in refused(file)
    build_backbone(saved(tmp_path / "y.keras"), rescale="unit")  # nor is it made later
    assert max(made) == 3 * 3 * 3 * 4


@pytest.mark.parametrize("name", ["assets/words.txt", "../evil", "/tmp/evil", "config.json", "model.weights.npz"])
def test_other_members_and_second_ones_are_refused(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path / "x.keras")
    with (
        zipfile.ZipFile(file, "a") as archive,
        pytest.warns() if name == "config.json" else pytest.MonkeyPatch.context(),
    ):
        archive.writestr(name, "x")
    assert f"holds {name!r}" in refused(file)
    assert os.listdir(tmp_path) == ["x.keras"]


_ODD_NAMES = ["my block", "block:1", "ä", "a+b:map", "n" * 5000, "_"]


@pytest.mark.parametrize(
    "name", ["line\nend\x1b[31m", *(pytest.param(n, marks=pytest.mark.slow) for n in ("all", *_ODD_NAMES))]
)
def test_names_that_no_cut_or_scope_can_have_are_written_otherwise(tmp_path: Path, name: str) -> None:
    image = keras.Input((SIZE, SIZE, 3), name="an image")
    x = layers.Conv2D(4, 3, 2, name=name)(image)
    keras.Model(image, layers.Conv2D(4, 3, 2, name="my_block")(x)).save(tmp_path / "x.keras")
    file = str(tmp_path / "x.keras")
    backbone = build_backbone(file, rescale="unit")
    cut, last = backbone.cuts()
    assert (last.block, cut.block.isascii(), len(cut.block) <= 101) == ("my_block", True, True)
    assert chosen_cuts(FeatureConfig(backbone=file, cut=(f"{cut.block}:map", "my_block")))[1] == last
    assert freeze(backbone, [cut], batch_size=1)(np.zeros((1, SIZE, SIZE, 3), np.uint8))[cut].shape == (1, 4)


@pytest.mark.parametrize(
    "function", ["keras.utils.plot_model", "keras.config.set_floatx", "os.system", "keras.ops.identity"]
)
def test_functions_that_are_no_activation_are_never_called(tmp_path: Path, function: str) -> None:
    module, _, name = function.rpartition(".")
    value = {"module": module, "class_name": "function", "config": name, "registered_name": "function"}
    refused(edited(saved(tmp_path / "x.keras"), lambda first: first.update(activation=value)))
    state = (keras.config.floatx(), keras.config.dtype_policy().name, keras.config.image_data_format())
    assert state == ("float32", "float32", "channels_last")
    assert os.listdir(tmp_path) == ["x.keras"]


def test_the_outline_of_a_network_of_any_size_names_no_size(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3))
    keras.Model(image, layers.Conv2D(2, 300, strides=50, name="wide")(image)).save(tmp_path / "x.keras")
    file = str(tmp_path / "x.keras")
    assert (list(outline(file).cuts), outline(file).image_size) == (["wide"], 0)
    assert build_backbone(file, rescale="unit", image_size=400).shapes == {"wide": (3, 3, 2)}
    assert "can't run on images of 64 pixels" in refused(file, image_size=64)


def test_images_too_small_or_too_large_are_told_of_the_file(tmp_path: Path) -> None:
    for size in (16, 5000):
        said = refused(saved(tmp_path / "x.keras", size=size))
        assert f"takes images of {size} x {size} pixels; headstart takes from 32 to 4096" in said
        assert "--image-size" not in said
    with pytest.raises(OptionError, match="--image-size must be from 32 to 4096, or 0"):
        FeatureConfig(image_size=5000)


def test_an_output_that_is_not_of_each_image_alone_is_refused(tmp_path: Path) -> None:
    ops, file = keras.ops, str(tmp_path / "x.keras")
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3)(image)
    outputs = {
        "without None first": ops.sum(x, axis=0),
        "must be floating-point": ops.argmax(x, axis=-1),
        "depends on the other images": x + ops.mean(x, axis=0, keepdims=True),
        "depends on the other images of": layers.Conv2D(4, 3)(ops.flip(image, axis=0)),
    }
    for said, output in outputs.items():
        keras.Model(image, output).save(file)
        assert said in refused(file)
    moving = keras.Input((None, None, 3))
    keras.Model(moving, layers.Conv2D(4, 3)(ops.flip(moving, axis=0))).save(file)
    assert "depends on the other images" in refused(file)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "pipe.keras")
    (tmp_path / "device.keras").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "device"):
        assert "not a regular file" in refused(str(tmp_path / f"{name}.keras"))
    with pytest.raises(WeightsError, match="no such file"):
        outline(str(tmp_path / "gone.keras"))


def test_a_cut_may_name_a_path_with_plus_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c++").mkdir()
    saved(tmp_path / "c++" / "a+b.keras", layers.Conv2D(4, 3, 2, name="last"))
    monkeypatch.chdir(tmp_path)
    cuts = chosen_cuts(
        FeatureConfig(
            backbone="mobilenet_v3_small+c++/a+b.keras", cut=("./c++/a+b.keras/first:map+c++/a+b.keras/last",)
        )
    )
    assert [cut.name for cut in cuts if cut.backbone.endswith("a+b.keras")] == ["first:map", "last"]


def test_layers_of_nested_models_have_the_same_names_each_time(tmp_path: Path) -> None:
    def nested(name: str, inner: str) -> keras.Model:
        return keras.Sequential(
            [keras.Input((SIZE, SIZE, 3)), layers.Conv2D(3, 3, padding="same", name=inner)], name=name
        )

    file = str(tmp_path / "x.keras")
    image = keras.Input((SIZE, SIZE, 3))
    body = nested("a model", "my conv")
    keras.Model(image, layers.Add(name="sum")([body(image), body(layers.ReLU()(image))])).save(file)
    names = [operation.name for operation in build_backbone(file, rescale="unit").model.operations]
    assert names[-2:] == ["my_conv", "sum"]
    assert not any("convert" in name for name in names)
    keras.Model(image, nested("b", "my conv")(nested("a", "my conv")(image))).save(file)
    assert "rename the layer 'my conv'" in refused(file)


def test_a_large_rank_of_lora_is_refused(tmp_path: Path) -> None:
    file = edited(saved(tmp_path / "x.keras"), lambda first: first.update(lora_rank=20_000_000))
    assert "lora_rank 20000000; at most 1024" in refused(file)
