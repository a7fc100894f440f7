"""ONNX, LiteRT and OpenVINO: what is written, what it answers in its own runtime, and what is refused."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from headstart.features.errors import ExportError
from headstart.features.tensorflow import keras
from headstart.pipeline.export.config import MODEL_FILES, ExportPrecision, Format
from headstart.pipeline.export.deployable import Deployable, deployable_model
from headstart.pipeline.export.folder import write_beside
from headstart.pipeline.export.formats.packages import require_packages
from headstart.pipeline.export.preprocess import pixels
from PIL import Image

SIDE = 32
NAMES = ["a", 'b "<&>\\', "c☃\té"]
METADATA = {"class_names": json.dumps(NAMES, ensure_ascii=False), "other": '{"x": [1.5, null]}'}
FORMATS = ("onnx", "litert", "openvino")
RUNTIMES = {"onnx": "onnxruntime", "litert": "ai-edge-litert", "openvino": "openvino"}


def module(format: str) -> ModuleType:
    return importlib.import_module(f"headstart.pipeline.export.formats.{format}")


def network(middle: keras.Layer | None = None, classes: int = 3) -> Deployable:
    """A network with the parts that converters treat differently: ReLU6, depthwise, a shortcut, a normalised head."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(16, 3, strides=2, use_bias=False)(inputs)
    x = shortcut = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Add()([layers.Conv2D(16, 1)(x), shortcut])
    x = layers.Concatenate()([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(x)])
    backbone = keras.Model(inputs, middle(x) if middle else x, name="backbone")
    features = keras.Input((32,))
    mean, variance = np.linspace(-1, 1, 32), np.full(32, 0.5)
    x = layers.Normalization(mean=mean, variance=variance, name="standardise")(features)
    x = layers.Dropout(0.5)(layers.Dense(8, activation="relu")(x))
    head = keras.Model(features, layers.Dense(1 if classes == 2 else classes, name="logits")(x), name="head")
    pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="pixels")
    maps = backbone(layers.Rescaling([1 / 127.5], [-1.0])(pixels), training=False)
    logits = head(layers.GlobalAveragePooling2D()(maps))
    return Deployable(deployable_model(keras.Model(pixels, logits), 0.7), METADATA, SIDE, NAMES[:classes])


def drawn_pixels(count: int) -> np.ndarray:
    """Images that differ: noise of another brightness and contrast each, uint8 [count, SIDE, SIDE, 3]."""
    draw = np.random.default_rng(1)
    scale = draw.uniform(5, 60, (count, 1, 1, 1))
    found = draw.normal(draw.uniform(40, 215, (count, 1, 1, 3)), scale, (count, SIDE, SIDE, 3))
    return np.clip(found, 0, 255).astype(np.uint8)


def written(format: str, folder: Path, precision: str = "float32", **options) -> tuple[Deployable, Path]:
    deployable, path = network(**options), folder / MODEL_FILES[format]
    module(format).write(deployable, path, precision, drawn_pixels(40) if precision == "int8" else None)
    return deployable, path


@pytest.mark.parametrize("classes", [3, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", FORMATS)
def test_float32_answers_like_keras_and_carries_the_metadata(format: str, classes: int, tmp_path: Path) -> None:
    deployable, path = written(format, tmp_path, classes=classes)
    run, batch = module(format).load(path), drawn_pixels(7)
    expected = np.asarray(deployable.model(batch))
    assert expected.std(axis=0).min() > 0.01
    for count in (1, 3, 7, 2):  # the batch is open
        found = run(batch[:count])
        assert (found.dtype, found.shape) == (np.float32, (count, classes))
        assert np.abs(found - expected[:count]).max() <= 1e-5
    first = run(batch[:1])
    before = first.copy()
    run(batch[1:2])
    assert (first == before).all()  # the answer does not lie in the runtime's own memory
    assert module(format).metadata(path) == METADATA


@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_same_network_gives_the_same_file(format: str, precision: str, tmp_path: Path) -> None:
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        _, path = written(format, tmp_path / name, precision)
        files.append({one.name: one.read_bytes() for one in path.parent.iterdir()})
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("classes", [3, 2])
def test_float16_and_int8_are_smaller_and_close(format: str, classes: int, tmp_path: Path) -> None:
    sizes, batch = {}, drawn_pixels(60)
    for precision, most in (("float32", 1e-5), ("float16", 5e-3), ("int8", 0.03)):
        folder = tmp_path / precision
        folder.mkdir()
        deployable, path = written(format, folder, precision, classes=classes)
        expected, found = np.asarray(deployable.model(batch)), module(format).load(path)(batch)
        apart = np.abs(found - expected)
        # Ranges that leave out rare values are off by more on these: so the mean decides.
        assert (apart.mean() if precision == "int8" else apart.max()) <= most
        assert np.allclose(found.sum(axis=1), 1, atol=1e-4)
        assert len(np.unique(found[:, 1])) > 30  # 256 levels of a probability would be fewer where they lie close
        assert module(format).metadata(path) == METADATA
        sizes[precision] = path.stat().st_size if format != "openvino" else path.with_suffix(".bin").stat().st_size
    assert sizes["float16"] < sizes["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_int8_computes_in_integers(format: str, tmp_path: Path) -> None:
    _, path = written(format, tmp_path, "int8")
    if format == "litert":
        from ai_edge_litert.interpreter import Interpreter

        kinds = [tensor["dtype"] for tensor in Interpreter(str(path)).get_tensor_details()]
        assert kinds.count(np.int8) > 10
    else:
        assert {"onnx": b"QuantizeLinear", "openvino": b"FakeQuantize"}[format] in path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_weight_that_float16_cannot_hold_is_refused(format: str, tmp_path: Path) -> None:
    deployable = network()
    kernel = next(weight for weight in deployable.model.weights if weight.path.endswith("kernel"))
    value = kernel.numpy()
    value.flat[0] = 1e5
    kernel.assign(value)
    with pytest.raises(ExportError, match="float16"):
        module(format).write(deployable, tmp_path / MODEL_FILES[format], "float16", None)


@pytest.mark.parametrize("format", ["litert", pytest.param("saved_model", marks=pytest.mark.slow)])
def test_float16_holds_a_network_with_random_state(format: str, tmp_path: Path) -> None:
    deployable = network(middle=keras.layers.GaussianNoise(0.1, seed=100_000))
    settings = {"size": SIDE, "resize": "stretch", "truncated": "reject", "bits": "auto"}
    deployable = replace(deployable, metadata=METADATA | {"preprocessing": json.dumps(settings)})
    path, batch = tmp_path / MODEL_FILES[format], drawn_pixels(3)
    module(format).write(deployable, path, "float16", None)
    assert np.abs(module(format).load(path)(batch) - np.asarray(deployable.model(batch))).max() <= 5e-3


@keras.saving.register_keras_serializable("tests")
class Unknown(keras.layers.Layer):
    """An operation that no converter knows."""

    def call(self, x):
        from headstart.features.tensorflow import tf

        return x + tf.raw_ops.Betainc(a=tf.abs(x) + 1.0, b=tf.abs(x) + 1.0, x=tf.sigmoid(x))

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_network_that_the_format_cannot_hold(format: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as raised:
        written(format, tmp_path, middle=Unknown())
    said = str(raised.value)
    assert said.startswith(f"--format {format}: ")
    assert "Betainc" in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "missing", "precision", "extra"),
    [
        ("onnx", "onnxruntime", "float32", "onnx"),
        ("onnx", "tf2onnx", "float32", "onnx"),
        ("litert", "ai_edge_litert.interpreter", "float32", "litert"),
        ("openvino", "nncf", "int8", "int8"),
    ],
)
def test_a_missing_extra_is_named(
    format: str, missing: str, precision: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExportError) as raised:
        written(format, tmp_path, precision)
    assert f'`pip install "headstart[{extra}]"`' in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("format", "missing", "precision", "extra"),
    [
        ("onnx", "onnxruntime", "float32", "onnx"),
        ("onnx", "tf2onnx", "float32", "onnx"),
        ("litert", "ai_edge_litert", "float32", "litert"),
        ("litert", "ai_edge_quantizer", "int8", "litert"),
        ("openvino", "nncf", "int8", "int8"),
    ],
)
def test_packages_that_are_not_installed_are_named(
    format: Format, missing: str, precision: ExportPrecision, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_packages(format, precision)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExportError) as raised:
        require_packages(format, precision)
    assert f'needs {missing}, which is not installed: `pip install "headstart[{extra}]"`' in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_quantiser_that_fails_is_told_in_a_line(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise IndexError("no\nsuch scale")

    monkeypatch.setattr(module(format), "_quantised", fail)
    with pytest.raises(ExportError, match=rf"--format {format}: .* can't convert this network \(no such scale\)"):
        written(format, tmp_path, "int8")


@pytest.mark.parametrize(
    ("of", "name", "arguments"),
    [
        ("tf2onnx.convert", "from_function", ("function", "input_signature", "opset", "output_path")),
        ("tf2onnx.tfonnx", "rewrite_constant_fold", ("g", "ops")),
        ("tf2onnx.graph", "get_value_attr", ("self", "external_tensor_storage")),
        ("tf2onnx.utils", "map_onnx_to_numpy_type", ("onnx_type",)),
        ("tf2onnx.utils", "make_name", ("name",)),
        ("keras.src.export.tf2onnx_lib", "patch_tf2onnx", ()),
        ("keras.src.export.onnx", "export_onnx", ("model", "filepath", "verbose", "opset_version")),
    ],
)
def test_the_calls_between_keras_and_tf2onnx_are_there(of: str, name: str, arguments: tuple[str, ...]) -> None:
    """Keras calls and replaces private functions of tf2onnx. If one is gone, this says which."""
    spec = importlib.util.find_spec(of)
    assert spec, f"{of} is gone"
    assert spec.origin
    code = ast.parse(Path(spec.origin).read_text())  # as written: in this process, Keras may have replaced it
    found = [node.args.args for node in ast.walk(code) if isinstance(node, ast.FunctionDef) and node.name == name]
    assert found, f"{of}.{name} is gone"
    assert set(arguments) <= {one.arg for one in found[0]}, f"{of}.{name} takes other arguments"


@pytest.mark.parametrize("format", FORMATS)
def test_files_from_elsewhere_have_no_metadata(format: str, tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILES[format]
    path.write_bytes(b"no model")
    with pytest.raises(ExportError, match="is no"):
        module(format).metadata(path)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_loading_starts_no_tensorflow(format: str, tmp_path: Path) -> None:
    _, path = written(format, tmp_path)
    code = f"""
import sys, numpy as np
from pathlib import Path
from headstart.pipeline.export.formats import {format} as format
found = format.load(Path({str(path)!r}))(np.zeros((2, {SIDE}, {SIDE}, 3), np.uint8))
assert format.metadata(Path({str(path)!r})) and found.shape == (2, 3)
assert not {{'tensorflow', 'keras'}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.network
@pytest.mark.parametrize("format", FORMATS)
def test_the_example_runs_in_an_environment_with_its_runtime_alone(format: str, tmp_path: Path) -> None:
    out, files = tmp_path / "out", [tmp_path / "one.png", tmp_path / "two.jpg"]
    out.mkdir()
    for file, image in zip(files, drawn_pixels(2), strict=True):
        Image.fromarray(image).resize((90, 70)).save(file)
    deployable, _ = written(format, out)
    settings = {"size": SIDE, "resize": "stretch", "truncated": "reject", "bits": "auto", "most_pixels": 10**6}
    labels = {"class_names": NAMES, "format": format, "model": MODEL_FILES[format], "preprocessing": settings}
    write_beside(out, format, labels | {"second_above": None}, "")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    text = (out / "example.py").read_text()
    command = text[text.index("`pip install ") + 1 :].split("`")[0].removeprefix("pip ")  # as its first line says
    assert command == f"install {RUNTIMES[format]} pillow"
    installed = subprocess.run(
        [python, "-m", "pip", *command.split()], env=environment, capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"pip can't install {command.removeprefix('install ')}: {installed.stderr[-300:]}")
    there = subprocess.run([python, "-c", "import tensorflow"], env=environment, capture_output=True, check=False)
    assert there.returncode
    done = subprocess.run(
        [python, out / "example.py", *files], env=environment, capture_output=True, text=True, check=True
    )
    batch = np.stack([pixels(file, **settings) for file in files])
    chances = np.asarray(deployable.model(batch))
    for file, row, line in zip(files, chances, done.stdout.splitlines(), strict=True):
        told, _, chance = line.rpartition(" ")
        assert told == f"{file}: {NAMES[row.argmax()]}"
        assert float(chance) == pytest.approx(row.max(), abs=1e-4)
