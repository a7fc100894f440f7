import ctypes
import gc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.make_outlines import zoo_outline
from headstart.features.backbones.outlines import outline
from headstart.features.backbones.weights import build_backbone
from headstart.features.backbones.zoo import BACKBONES, RESCALINGS
from headstart.features.errors import OptionError, WeightsError

SIZE = 96  # the smallest that every network takes is 75
QUICK = ("inception_v3", "mobilenet_v3_small", "efficientnet_lite0")
SMALLEST = ("mobilenet_v2", "vgg16")  # each of a family
FAMILIES = (*SMALLEST, "densenet121", "resnet50", "resnet50_v2", "xception", "nasnet_mobile", "convnext_tiny",
            "inception_v3", "inception_resnet_v2", "efficientnet_v2_b0", "mobilenet", "mobilenet_v3_large",
            "efficientnet_b0")  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in sorted({*QUICK, *FAMILIES})
    ],
)
def backbone(request: pytest.FixtureRequest):
    yield build_backbone(request.param, weights="random", image_size=SIZE)
    keras.utils.clear_session()
    gc.collect()  # a graph of Keras has cycles, and the largest networks take gigabytes
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def test_cuts_lie_in_order_and_end_at_the_top(backbone) -> None:
    indices = [backbone.layer_index(cut.block) for cut in backbone.cuts()]
    assert indices == sorted(set(indices))
    assert indices[-1] == len(backbone.model.operations) - 1


def test_the_boundary_lies_below_its_cut(backbone) -> None:
    if backbone.name in BLOCKS:
        assert backbone.boundary(backbone.cuts()[-1:]) == backbone.layer_index(BLOCKS[backbone.name][1])
    for cut in backbone.cuts():
        assert backbone.boundary([cut]) <= backbone.layer_index(cut.block)
    assert backbone.boundary([cut]) == outline(backbone.name).boundary


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALLEST else pytest.mark.slow) for name in FAMILIES]
)
def test_the_outlines_that_are_known_beforehand_are_those_of_the_graphs(name: str) -> None:
    assert zoo_outline(name) == outline(name)


# Cuts and the first layer of the last stage, as the blocks of the papers suggest.
RESNET = [f"conv{stage}_block{n}_out" for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)) for n in range(1, count + 1)]
BLOCKS = {
    "inception_v3": ([f"mixed{n}" for n in range(11)], 249),
    "xception": ([f"block{n}" for n in range(2, 15)], "block14_sepconv1"),
    "resnet50": (RESNET, "conv5_block2_1_conv"),
    "resnet50_v2": ([*RESNET[:-1], "post_relu"], "conv5_block1_preact_bn"),
    "densenet121": (
        [
            *(f"conv2_block{n}_concat" for n in range(1, 7)),
            "pool2_pool",
            *(f"conv3_block{n}_concat" for n in range(1, 13)),
            "pool3_pool",
            *(f"conv4_block{n}_concat" for n in range(1, 25)),
            "pool4_pool",
            *(f"conv5_block{n}_concat" for n in range(1, 16)),
            "relu",
        ],
        "conv5_block1_0_bn",
    ),
    "vgg16": ([f"block{n}_pool" for n in range(1, 6)], "block5_conv1"),
    "mobilenet": ([f"conv_pw_{n}_relu" for n in (1, 3, 5, 11, 13)], "conv_pad_12"),
    "mobilenet_v2": (
        [
            "expanded_conv_project_BN",
            *(f"block_{n}_{'project_BN' if n in (1, 3, 6, 10, 13, 16) else 'add'}" for n in range(1, 17)),
            "out_relu",
        ],
        "block_14_expand",
    ),
    "convnext_tiny": (
        [
            *(f"convnext_tiny_stage_0_block_{n}" for n in range(3)),
            "convnext_tiny_downsampling_block_0",
            *(f"convnext_tiny_stage_1_block_{n}" for n in range(3)),
            "convnext_tiny_downsampling_block_1",
            *(f"convnext_tiny_stage_2_block_{n}" for n in range(9)),
            "convnext_tiny_downsampling_block_2",
            *(f"convnext_tiny_stage_3_block_{n}" for n in range(3)),
        ],
        "convnext_tiny_stage_3_block_0_depthwise_conv",
    ),
    "nasnet_mobile": (["top_activation"], 541),  # two tensors cross between all of its cells
    "efficientnet_lite0": (
        [*(f"b{n}_{'bn2' if n in (0, 1, 3, 5, 8, 11, 15) else 'add'}" for n in range(16)), "top_act"],
        "b12_expand",
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_cuts_and_boundary_are_the_blocks_of_the_papers(name: str) -> None:
    cuts, first = BLOCKS[name]
    assert list(outline(name).cuts) == cuts
    if isinstance(first, int):
        assert outline(name).boundary == first
    elif name in ("efficientnet_lite0", "vgg16"):  # the slow test has the others
        assert build_backbone(name, weights="random", image_size=32).layer_index(first) == outline(name).boundary


def test_the_cuts_of_earlier_versions_stay() -> None:
    earlier = {
        "efficientnet_v2_b0": [
            *(f"block{block}_add" for block in ("2b", "3b", "4c", "5e", "6d", "6h")),
            "top_activation",
        ],
        "mobilenet_v3_small": [*(f"expanded_conv_{n}_add" for n in (2, 4, 5, 7, 9, 10)), "top_activation"],
    }
    for name, cuts in earlier.items():
        assert set(cuts) <= set(outline(name).cuts)


def test_features_of_every_cut_are_finite_and_differ_between_images(backbone) -> None:
    cuts = backbone.cuts()
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    model = keras.Model(pixels, backbone.features(pixels, cuts))
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    for cut, features in zip(cuts, keras.tree.flatten(model.predict(images, verbose=0)), strict=True):
        assert features.shape == (2, *backbone.shape(cut))
        assert np.isfinite(features).all()
        assert features.std(axis=0).max() > 1e-3 * np.abs(features).max() > 0


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("inception_v3", "inception_v3"),
        ("xception", "xception"),
        ("inception_resnet_v2", "inception_resnet_v2"),
        ("resnet50_v2", "resnet_v2"),
        ("resnet50", "resnet"),
        ("vgg16", "vgg16"),
        ("vgg19", "vgg19"),
        ("densenet121", "densenet"),
        ("mobilenet", "mobilenet"),
        ("mobilenet_v2", "mobilenet_v2"),
        ("nasnet_large", "nasnet"),
    ],
)
def test_rescaling_is_that_of_keras(name: str, module: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.uint8)
    backbone = replace(
        build_backbone("mobilenet", "random", image_size=32), rescaling=RESCALINGS[BACKBONES[name].rescaling]
    )
    image = keras.Input((4, 4, 3), dtype="uint8")
    ours = keras.Model(image, backbone.rescale(image))(pixels)
    expected = getattr(keras.applications, module).preprocess_input(pixels.astype(np.float32))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("efficientnet_v2_b0", "convnext_tiny", "efficientnet_v2_s", "mobilenet_v3_large")
        ),
    ],
)
def test_rescaling_is_that_inside_of_keras_models(name: str) -> None:
    with_it = getattr(keras.applications, BACKBONES[name].builder)(
        include_top=False, weights=None, input_shape=(32, 32, 3), include_preprocessing=True
    )
    first_conv = next(layer for layer in with_it.layers if isinstance(layer, keras.layers.Conv2D | keras.Sequential))
    before = keras.Model(with_it.input, first_conv.input)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    rescaling = RESCALINGS[BACKBONES[name].rescaling]
    np.testing.assert_allclose(pixels * rescaling.scale + rescaling.offset, before(pixels), atol=1e-4)


def test_the_rescaling_inside_of_efficientnet_is_that_of_its_imagenet_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras's imagenet variant has a layer that a network with a weights file lacks; headstart's has neither."""
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_: None)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: "none")
    whole = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
    normalisation = next(layer for layer in whole.layers if isinstance(layer, keras.layers.Normalization))
    mean, std = RESCALINGS["standardised"].offset, RESCALINGS["standardised"].scale
    stds = 1 / (255 * np.array(std))
    normalisation.set_weights(
        [-np.array(mean) * stds, stds, np.array(0)]
    )  # as published: deviations stand for variances
    normalisation.finalize_state()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    padding = next(layer for layer in whole.layers if isinstance(layer, keras.layers.ZeroPadding2D))
    expected = keras.Model(whole.input, padding.input)(pixels)
    np.testing.assert_allclose(pixels * std + mean, expected, atol=1e-4)


@pytest.mark.slow
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


@pytest.mark.parametrize("layer", ["nowhere", "-1", "175", "9999"])
def test_an_unknown_layer_is_refused(layer: str) -> None:
    with pytest.raises(OptionError, match="has no layer"):
        small().layer_index(layer)


@pytest.mark.parametrize(
    ("name", "near"), [("ResNet-50", "resnet50"), ("inception_v4", "inception_v3"), ("alexnet", "backbones` lists all")]
)
def test_the_nearest_names_are_suggested(name: str, near: str) -> None:
    with pytest.raises(OptionError, match=near):
        build_backbone(name)


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
    with pytest.raises(WeightsError, match=r"x_notop\.h5.*--weights FILE.*--backbone efficientnet_lite0"):
        small(weights="imagenet")
