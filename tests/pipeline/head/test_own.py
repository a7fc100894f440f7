"""A head of one's own code: trained, searched, kept without its code, and every way in which the code can be wrong."""

# ruff: noqa: E501 a case is a line

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features.errors import DivergedError, HeadstartError, OptionError
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import fit_head
from headstart.pipeline.head.own import OwnHead
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.runs import Run
from headstart.tests.conftest import SMALL_FLAGS

CODE = """
import keras
from beside import UNITS

def wide(features, classes):
    return keras.Sequential([
        keras.layers.Dense(UNITS, "gelu", kernel_regularizer="l2", bias_initializer=keras.initializers.Constant(0.1)),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1 if classes == 2 else classes),
    ])
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "beside.py").write_text("UNITS = 8\n")
    file = tmp_path / "mine" / "heads.py"
    file.write_text(CODE)
    return file


def features(classes: int = 2, count: int = 60) -> LabelledFeatures:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, count)
    rows = rng.normal(size=(count, 6)).astype(np.float32) + 2 * labels[:, np.newaxis].astype(np.float32)
    return LabelledFeatures(rows, labels, classes, {"cut": slice(0, 6)})  # type: ignore[dict-item]


@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_head_is_the_same_for_a_seed_and_learns(classes: int, code: Path) -> None:
    data, config = features(classes), HeadConfig(own=OwnHead.read(f"{code}:wide"), epochs=12, learning_rate=0.01)
    first, again = fit_head(data, data, config, seed=3), fit_head(data, data, config, seed=3)
    assert first.history == again.history
    assert first.val["accuracy"] > 0.6
    assert fit_head(data, data, config, seed=4).history != first.history
    own = first.model.get_layer("own")
    moved = own.layers[1] if hasattr(own.layers[1], "moving_mean") else own.layers[2]
    assert np.abs(moved.moving_mean.numpy()).max() > 0  # of batch normalisation


def test_a_regulariser_counts() -> None:
    from headstart.features.tensorflow import keras

    def with_penalty(strength: float) -> OwnHead:
        penalty = keras.regularizers.L2(strength)
        return OwnHead.of(
            lambda features, classes: keras.Sequential([keras.layers.Dense(1, kernel_regularizer=penalty)])
        )

    data = features()
    sizes = []
    for strength in (0.0, 1.0):
        trained = fit_head(data, data, HeadConfig(own=with_penalty(strength), epochs=20, learning_rate=0.05)).model
        sizes.append(float(np.abs(trained.get_layer("own").layers[-1].kernel.numpy()).sum()))
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.slow
def test_a_run_needs_its_code_no_more(
    headstart: Any, code: Path, prepared: Path, filled_store: Path, tmp_path: Path
) -> None:
    given = [f"--store={filled_store}", "--max-rejects=1", *SMALL_FLAGS, f"--head={code}:wide", "--epochs=3"]
    headstart("head", prepared, f"--run={tmp_path / 'run'}", *given)
    headstart("head", prepared, f"--run={tmp_path / 'again'}", *given)
    run = Run.open(tmp_path / "run")
    assert run.history() == Run.open(tmp_path / "again").history()
    kept = run.config()["head"]
    assert kept["own"] == {"file": str(code), "function": "wide", "digest": OwnHead.read(f"{code}:wide").digest}
    assert "Dense" not in run.config_file.read_text()
    assert (kept["units"], kept["dropout"]) == ([], 0.0)
    code.write_text("raise SystemExit('the code was run')\n")
    assert headstart("evaluate", run.path)["head"]["accuracy"] >= 0
    assert headstart("predict", run.path, next(prepared.glob("test/cat/cat*.jpg")))["predictions"]
    assert headstart("evaluate", run.path, "--folds=3", "--repeats=1")["accuracy"] >= 0
    headstart("finetune", run.path, "--epochs=1")


@pytest.mark.slow
def test_a_search_leaves_the_layers_to_the_code(
    headstart: Any, code: Path, prepared: Path, filled_store: Path, tmp_path: Path
) -> None:
    study, store = tmp_path / "study.db", [f"--store={filled_store}", "--max-rejects=1", *SMALL_FLAGS]
    given = ["sweep", prepared, f"--study={study}", f"--run={tmp_path / 'run'}", *store]
    found = headstart(*given, f"--head={code}:wide", "--trials=3", "--jobs=2")
    assert found["trials"] == 3
    head = Run.open(tmp_path / "run").config()["head"]
    assert head["own"]["function"] == "wide"
    assert head["learning_rate"] > 0
    assert "--head was" in headstart.error(*given, "--overwrite", "--trials=3", code=2)
    (tmp_path / "space.toml").write_text("units = [3]\n")
    other = ["--overwrite", f"--space={tmp_path / 'space.toml'}", f"--head={code}:wide"]
    assert "sets units, but" in headstart.error(*given, *other, code=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("absent.py:wide", "absent.py: no such file"),
        (".:wide", "is a folder"),
        ("heads.py", "must be FILE.py:FUNCTION"),
        ("heads.py:1", "must be FILE.py:FUNCTION"),
    ],
)
def test_code_that_is_not_there(headstart: Any, text: str, said: str, prepared: Path, tmp_path: Path) -> None:
    assert said in headstart.error("head", prepared, f"--run={tmp_path / 'run'}", f"--head={text}", code=2)


def test_options_of_the_default_layers_do_not_go_with_it(headstart: Any, code: Path, prepared: Path) -> None:
    said = headstart.error("head", prepared, "--run=new", f"--head={code}:wide", "--units=7", code=2)
    assert "leave --units out" in said


DENSE = "keras.Sequential([keras.Input((features,)), {}keras.layers.Dense({})])"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def other(f, c): pass", "the file has no head; it has other"),
        ("head = 3", "head is a int, and no function"),
        ("def head(features classes): pass", "raised SyntaxError in line 2"),
        ("import nothing_like_it", "raised ModuleNotFoundError in line 2"),
        ("raise SystemExit('bye')", "raised SystemExit in line 2: bye"),
        ("def head(features, classes):\n    raise ValueError('bad\\nday')", "function raised ValueError in line 3: bad day"),
        ("def head(features): pass", "function raised TypeError"),
        ("def head(features, classes): return 1", "returned int, and not a keras.Model"),
        (f"def head(features, classes): return {DENSE.format('', 2)}", "yields float32 (None, 2) for 2 classes"),
        ("def head(features, classes): return keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])", "takes float32 (None, 5)"),
        (f"def head(features, classes): return {DENSE.format('', '1, activation=chr(115) + chr(105) + `gmoid`').replace('`', chr(39))}", "activation sigmoid; it must yield logits"),
        (f"def head(features, classes): return {DENSE.format('keras.layers.Lambda(lambda x: x), ', 1)}", "uses a lambda"),
        (f"def head(features, classes): return {DENSE.format('keras.layers.Dense(3, lambda x: x), ', 1)}", "uses a lambda"),
        (f"def twice(x): return 2 * x\ndef head(features, classes): return {DENSE.format('keras.layers.Dense(3, twice), ', 1)}", "uses twice"),
        (f"@keras.saving.register_keras_serializable()\nclass Mine(keras.layers.Dense): pass\ndef head(features, classes): return {DENSE.format('Mine(3), ', 1)}", "uses Mine"),
        ("class Mine(keras.Model): pass\ndef head(features, classes): return Mine()", "a Mine without a graph"),
        ("def head(features, classes): return keras.Sequential([keras.Input((features,)), keras.layers.Reshape((features,))])", "yields float32 (None, 6)"),
    ],
)  # fmt: skip
def test_code_that_is_wrong_is_told_in_one_line(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(f"import keras\n{body}\n")
    with pytest.raises(OptionError) as error:
        OwnHead.read(f"{file}:head").build(6, 2)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"--head {file}:head: ")


def test_a_head_that_diverges_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    layers = "keras.layers.Rescaling(float('nan')), "
    file.write_text(f"import keras\ndef head(features, classes):\n    return {DENSE.format(layers, 1)}\n")
    with pytest.raises(DivergedError, match="no finite loss"):
        fit_head(features(), features(), HeadConfig(own=OwnHead.read(f"{file}:head"), epochs=2))
    assert issubclass(DivergedError, HeadstartError)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"def head(features, classes): return keras.Sequential([{DENSE.format('', 1)}, keras.layers.Softmax()])", "activation Softmax"),
        (f"def head(features, classes): return keras.Sequential([keras.Input((features,)), {DENSE.format('', '1, activation=`sparsemax`').replace('`', chr(39))}])", "activation sparsemax"),
        ("def head(features, classes):\n    x = keras.Input((features,))\n    y = keras.layers.Dense(1, 'log_sigmoid')(keras.layers.Dense(2)(x))\n    return keras.Model(x, y)", "activation log_sigmoid"),
        ("def head(features, classes):\n    x = keras.Input((features,))\n    y = keras.layers.Dense(4, name='early')(x)\n    return keras.Model(x, keras.layers.Dense(1)(keras.ops.stop_gradient(y)))", "its weight early/kernel has no gradient"),
        ("def head(features, classes): return keras.Sequential([keras.layers.Dense(1, name='my layer')])", r"TensorFlow can't train it \(.*my layer.* is not a valid .*\); change its layers or their names$"),
    ],
)  # fmt: skip
def test_models_that_can_not_be_trained_on_logits(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(f"import keras\n{body}\n")
    with pytest.raises(OptionError, match=said):
        OwnHead.read(f"{file}:head").build(6, 2)


def test_code_is_run_as_a_module(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    body = "import keras\nfrom dataclasses import dataclass\n@dataclass\nclass Size:\n    units: 'int' = 1\n"
    annotated = (
        "assert Size.__annotations__ == {'units': 'int'}\ndef f(x: int): pass\nassert f.__annotations__['x'] is int\n"
    )
    file.write_text(f"{body}{annotated}def head(features, classes): return {DENSE.format('', 'Size().units')}\n")
    assert OwnHead.read(f"{file}:head").build(6, 2)


def test_modules_beside_the_file_are_read_anew(code: Path) -> None:
    first = OwnHead.read(f"{code}:wide")
    assert first.build(6, 2).layers[-4].units == 8
    (code.parent / "beside.py").write_text("UNITS = 123\n")
    again = OwnHead.read(f"{code}:wide")
    assert again.digest != first.digest
    assert again.build(6, 2).layers[-4].units == 123
    assert "beside" not in sys.modules


def test_a_search_refuses_a_function_it_can_not_use() -> None:
    named = OwnHead.of(features)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="other processes can't get"):
        named.require_searchable(several=True)
    with pytest.raises(OptionError, match="has no source"):
        OwnHead.of(partial(features, 2)).require_searchable(several=False)  # type: ignore[arg-type]


def test_wrong_code_is_told_before_the_scan(headstart: Any, prepared: Path, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("def other(): pass\n")
    store, text = f"--store={tmp_path / 'store'}", f"--head={file}:head"
    for command in (
        ["head", f"--run={tmp_path / 'run'}"],
        ["sweep", f"--run={tmp_path / 'run'}", f"--study={tmp_path / 's.db'}"],
    ):
        assert "the file has no head" in headstart.error(command[0], prepared, *command[1:], store, text, code=2)
    file.write_text("def head(features, classes): return 1\n")
    said = headstart.error(
        "head", prepared, f"--run={tmp_path / 'run'}", store, text, *SMALL_FLAGS, "--max-rejects=1", code=2
    )
    assert "returned int" in said
    assert not list((tmp_path / "store").rglob("*.hs*")) + list((tmp_path / "store").rglob("shard*"))
