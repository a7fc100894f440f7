import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features.errors import ExportError
from headstart.features.tensorflow import keras, tf
from headstart.pipeline.export.config import ModelExportConfig
from headstart.pipeline.export.export import export
from headstart.pipeline.export.formats import keras_file, saved_model
from headstart.pipeline.export.measure import Asked, measure
from headstart.pipeline.export.opened import open_export
from headstart.pipeline.export.preprocess import pixels
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.predict import predict
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.thresholds import Threshold
from headstart.tests.conftest import SMALL_FLAGS, Cli
from headstart.tests.pipeline.export.conftest import run_in_process

FIELDS = {
    "format", "precision", "path", "bytes", "images", "largest_difference", "mean_difference", "changed_labels",
    "same_pixels", "preprocessing", "accuracy", "accuracy_interval", "accuracy_of_run", "images_per_second", "latency",
}  # fmt: skip


def files_of(data: Path) -> list[Path]:
    return sorted((data / "val").rglob("*.jpg"))[:6]


def of_run(run: Path, files: list[Path], **options) -> np.ndarray:
    """The probabilities that `predict` gives."""
    found = predict(run, files, PredictConfig(**options)).predictions
    return np.array([list(one.probabilities.values()) for one in found])


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A `.keras` export, and what the command printed. Tests only read it."""
    out = tmp_path_factory.mktemp("exported") / "out"
    with pytest.MonkeyPatch.context() as patch:
        run_in_process(patch)
        return out, Cli()("export", trained_run, out, "--format=keras")


def test_a_keras_file_answers_like_predict(exported, trained_run: Path, prepared: Path) -> None:
    (out, found), files = exported, files_of(prepared)
    assert set(found) == FIELDS
    assert (found["format"], found["precision"], found["path"]) == ("keras", "float32", str(out / "model.keras"))
    assert found["bytes"] == (out / "model.keras").stat().st_size
    assert found["images"] == splits_of(trained_run).count("val")
    assert found["largest_difference"] <= 1e-4
    assert (found["changed_labels"], found["preprocessing"]["differing"]) == (0, 0)
    assert sorted(file.name for file in out.parent.rglob("*") if file.is_file()) == [
        "README.md", "example.py", "labels.json", "model.keras", "preprocess.py",
    ]  # fmt: skip
    model = keras.saving.load_model(out / "model.keras", compile=False, safe_mode=True)
    labels = json.loads((out / "labels.json").read_text())
    batch = np.stack([pixels(file, **labels["preprocessing"]) for file in files])
    chances = model.predict(batch, verbose=0)
    assert np.abs(chances - of_run(trained_run, files)).max() < 1e-5
    assert np.allclose(chances.sum(axis=1), 1)
    assert labels["class_names"] == ["cat", "dog"]
    assert labels["comparison"]["accuracy"] == found["accuracy"]
    assert json.loads(keras_file.metadata(out / "model.keras")["class_names"]) == ["cat", "dog"]


def test_the_model_card_tells_data_figures_and_limits(exported, trained_run: Path) -> None:
    text = (exported[0] / "README.md").read_text()
    for title in ("Use", "Data", "Figures", "Limits", "Licence"):
        assert f"\n## {title}\n\n" in text
    assert text.startswith("# Image classifier: cat, dog\n")
    counts = [splits_of(trained_run).count(split) for split in ("train", "val", "test")]
    assert f"| all | {' | '.join(map(str, counts))} |" in text
    assert "The run was not evaluated on test images" in text


def splits_of(run: Path) -> list[str]:
    return [line.rsplit(",", 1)[1] for line in (run / "examples.csv").read_text().split()]


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_same_export_gives_the_same_file(tiny_run: Path, tmp_path: Path) -> None:
    first, second = (
        Path(export(tiny_run, tmp_path / name, ModelExportConfig("keras", images=2)).path) for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_saved_model_holds_weights_once_and_reads_files(
    run: Path, drawn: Path, prepared: Path, tmp_path: Path
) -> None:
    found = export(run, tmp_path / "out", ModelExportConfig("saved_model"))
    weights = Run.open(run).load_model(run / "head.keras").count_params() * 4
    assert found.bytes < 1.6 * (keras_bytes(run, tmp_path) + weights)
    files = files_of(prepared)
    loaded = tf.saved_model.load(found.path)
    names = list(loaded.signatures)
    assert sorted(names) == ["files", "serving_default"]
    contents = tf.constant([file.read_bytes() for file in files])
    chances = loaded.signatures["files"](files=contents)["probabilities"].numpy()
    assert np.abs(chances - of_run(run, files)).max() < 1e-5
    assert json.loads(saved_model.metadata(Path(found.path))["class_names"]) == ["cat", "dog"]


def keras_bytes(run: Path, tmp_path: Path) -> int:
    return export(run, tmp_path / "keras", ModelExportConfig("keras", images=2)).bytes


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_files_are_turned_upright_by_the_saved_model(tiny_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    found = export(tiny_run, tmp_path / "out", ModelExportConfig("saved_model", images=2))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8))
    exif, turned = Image.Exif(), []
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        turned.append(tmp_path / f"{orientation}.jpg")
        picture.save(turned[-1], exif=exif)
    contents = tf.constant([file.read_bytes() for file in turned])
    chances = tf.saved_model.load(found.path).signatures["files"](files=contents)["probabilities"].numpy()
    assert np.abs(chances - of_run(tiny_run, turned)).max() < 1e-5
    assert len({tuple(row) for row in chances.round(6)}) > 4


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("format", ["keras", "saved_model"])
def test_float16_takes_half_the_space(run: Path, tmp_path: Path, format: str) -> None:
    whole, half = (
        export(run, tmp_path / precision, ModelExportConfig(format, precision)) for precision in ("float32", "float16")
    )
    assert half.bytes < 0.7 * whole.bytes
    assert 0 < half.comparison.from_files.largest_difference < 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_fine_tuned_run(headstart, tiny_tuned_run: Path, prepared: Path, tmp_path: Path) -> None:
    out, files = tmp_path / "out", files_of(prepared)
    headstart("export", tiny_tuned_run, out, "--format=keras", "--model=finetuned")
    opened = open_export(out)
    batch = np.stack([pixels(file, **opened.preprocessing) for file in files])
    assert np.abs(opened.probabilities(batch) - of_run(tiny_tuned_run, files, model="finetuned")).max() < 1e-5
    assert json.loads((out / "labels.json").read_text())["provenance"]["model"] == "finetuned"


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_threshold_decides_labels_of_the_export_too(tiny_run: Path, prepared: Path, tmp_path: Path) -> None:
    Run.open(tiny_run).keep_thresholds({"head": Threshold("cat", 0.999, "given")})
    export(tiny_run, tmp_path / "out", ModelExportConfig("keras"))
    opened = open_export(tmp_path / "out" / "model.keras")
    assert opened.second_above == pytest.approx(0.001)
    labels = [one.label for one in predict(tiny_run, files_of(prepared)).predictions]
    batch = np.stack([pixels(file, **opened.preprocessing) for file in files_of(prepared)])
    assert [opened.class_names[opened.label(row)] for row in opened.probabilities(batch)] == labels
    assert "threshold" in (tmp_path / "out" / "README.md").read_text().lower()


def test_an_out_that_exists_is_refused(headstart, exported, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    assert "out: exists; " in headstart.error("export", run, exported[0], "--format=keras")
    assert "is no export" in headstart.error("export", run, other, "--format=keras", "--overwrite")
    assert (other / "mine.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_overwrite_replaces_an_export(headstart, exported, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported[0], out)
    (out / "mine.txt").write_text("mine")
    headstart("export", tiny_run, out, "--format=keras", "--images=2", "--overwrite")
    assert not (out / "mine.txt").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_an_export_that_is_too_far_from_the_run_is_not_written(
    headstart, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = keras_file.load
    monkeypatch.setattr(keras_file, "load", lambda path: lambda batch: load(path)(batch)[:, ::-1])
    said = headstart.error("export", tiny_run, tmp_path / "out", "--format=keras", "--images=3")
    assert "no probability by over 0.0001, so nothing was written" in said
    assert {file.name for file in tmp_path.iterdir()} == {"tiny run", "tiny store"}


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_data_that_moved_and_files_that_are_gone(headstart, tiny_run: Path, prepared: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(prepared, moved)
    config = json.loads((tiny_run / "config.json").read_text())
    (tiny_run / "config.json").write_text(json.dumps({**config, "data": str(tmp_path / "gone")}))
    assert "its data" in headstart.error("export", tiny_run, tmp_path / "out", "--format=keras")
    gone = files_of(moved)[0]
    gone.unlink()
    code, out, told = headstart.whole("export", tiny_run, tmp_path / "out", "--format=keras", f"--data={moved}")
    assert code == 0
    assert json.loads(out)["images"] == sum(split == "val" for split in splits_of(tiny_run)) - 1
    assert "val images of the run are gone" in told
    shutil.rmtree(moved / "val")
    said = headstart.error("export", tiny_run, tmp_path / "out2", "--format=keras", f"--data={moved}")
    assert "none of the" in said
    assert "--data" in said


def test_wrong_options_name_the_remedy(headstart, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "litert, onnx, openvino hold it" in headstart.error(
        "export", run, out, "--format=keras", "--precision=int8", code=2
    )
    assert "from 0 to 1" in headstart.error("export", run, out, "--format=keras", "--tolerance=2", code=2)
    assert "--model finetuned: it has none" in headstart.error(
        "export", run, out, "--format=keras", "--model=finetuned"
    )
    assert "not a run folder" in headstart.error("export", tmp_path, out, "--format=keras")
    code, _, told = headstart.whole("export", run, out)
    assert (code, "--format" in told) == (2, True)
    assert not out.exists()


def test_a_missing_package_is_told_before_images_are_looked_for(
    headstart, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise AssertionError("the images are looked for")

    monkeypatch.setattr("headstart.pipeline.export.export.find_images", fail)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    said = headstart.error("export", run, tmp_path / "out", "--format=onnx")
    assert 'needs tf2onnx, which is not installed: `pip install "headstart[onnx]"`' in said


def test_a_damaged_export_is_refused(exported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported[0], out)
    labels = json.loads((out / "labels.json").read_text())
    damages = [
        {"class_names": ["cat"]}, {"format": "../../other"}, {"preprocessing": {}}, {"second_above": 2}, {"format": []},
        {"preprocessing": {**labels["preprocessing"], "size": 10**9}},
        {"preprocessing": {**labels["preprocessing"], "page": 3}},
    ]  # fmt: skip
    for damage in damages:
        (out / "labels.json").write_text(json.dumps({**labels, **damage}))
        with pytest.raises(ExportError, match="is damaged"):
            open_export(out)
    side = labels["preprocessing"]["size"] + 1
    for other, told in (
        ({"class_names": ["cat", "dog", "cow"], "second_above": None}, "does not give 3 probabilities"),
        ({"preprocessing": {**labels["preprocessing"], "size": side}}, "can't load it, or run it"),
    ):
        (out / "labels.json").write_text(json.dumps({**labels, **other}))
        with pytest.raises(ExportError, match=told):
            open_export(out)
    (out / "labels.json").write_text(json.dumps(labels))
    (out / "model.keras").write_bytes((out / "model.keras").read_bytes()[:5000])
    with pytest.raises(ExportError, match="can't load it"):
        open_export(out)
    with pytest.raises(ExportError, match="no export"):
        open_export(tmp_path)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.usefixtures("in_process")
def test_heads_on_several_cuts_and_networks(headstart, prepared: Path, filled_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled_store, store)
    train = ("head", prepared, f"--store={store}", "--weights=random", "--batch-size=8", "--precision=float32")
    small = ("--units=none", "--epochs=1", "--max-rejects=1")
    two = ("--backbone=mobilenet_v3_small", "--image-size=64", "--cut=expanded_conv_5_add+expanded_conv_7_add")
    headstart(*train, f"--run={tmp_path / 'cuts'}", *two, *small)
    found = headstart("export", tmp_path / "cuts", tmp_path / "out1", "--format=keras")
    assert found["largest_difference"] <= 1e-4
    both = ("--backbone=mobilenet_v3_small+efficientnet_lite0", "--image-size=64", "--resize=stretch")
    headstart(*train, f"--run={tmp_path / 'networks'}", *both, *small)
    found = headstart("export", tmp_path / "networks", tmp_path / "out2", "--format=saved_model")
    assert found["largest_difference"] <= 1e-4
    unequal = ("--backbone=mobilenet_v3_small+efficientnet_lite0", "--image-size=64")
    headstart(*train, f"--run={tmp_path / 'unequal'}", *unequal, *small)
    said = headstart.error("export", tmp_path / "unequal", tmp_path / "out3", "--format=keras")
    assert "take different images: mobilenet_v3_small takes 64 x 64 pixels by --resize stretch" in said


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_several_classes_and_a_reduced_run(headstart, drawn: Path, tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    for name in ("cat", "dog", "other"):
        shutil.copytree(drawn / ("cat" if name == "other" else name), data / name)
    for number, file in enumerate(sorted((data / "other").glob("*.jpg"))):
        file.write_bytes(file.read_bytes() + bytes([number]))
    flags = [flag for flag in SMALL_FLAGS if "precision" not in flag]
    headstart(
        "head", data, f"--run={tmp_path / 'run'}", f"--store={store}", *flags, "--precision=bfloat16", "--units=8",
        "--epochs=1", "--max-rejects=1",
    )  # fmt: skip
    code, out, told = headstart.whole("export", tmp_path / "run", tmp_path / "out", "--format=keras")
    assert code == 0, told
    assert "its features are bfloat16" in told
    model = keras.saving.load_model(tmp_path / "out" / "model.keras", compile=False)
    assert model.output_shape == (None, 3)
    assert {layer.compute_dtype for layer in model.layers} <= {"float32", "uint8"}
    assert json.loads(out)["changed_labels"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_fine_tuned_run_needs_no_weights(headstart, tuned_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned_run, run)
    config = json.loads((run / "config.json").read_text())
    config["features"] |= {"weights": str(tmp_path / "gone.weights.h5"), "store": str(tmp_path / "gone")}
    (run / "config.json").write_text(json.dumps(config))
    headstart("export", run, tmp_path / "out", "--format=keras", "--model=finetuned", "--images=3")
    assert "gone.weights.h5" in headstart.error("export", run, tmp_path / "o", "--format=keras", "--model=head")


@pytest.mark.slow
def test_a_runtime_that_fails_is_told_in_a_line(exported, tmp_path: Path) -> None:
    asked = Asked("keras", str(tmp_path / "gone.keras"), [], [], json.loads((exported[0] / "labels.json").read_text()))
    with pytest.raises(ExportError, match=r"--format keras: its runtime can't run the model: .*gone\.keras"):
        measure(tmp_path, asked)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["keras", pytest.param("saved_model", marks=pytest.mark.soak)])
def test_the_export_runs_in_a_process_of_its_own_and_so_does_the_example(
    headstart, tiny_run: Path, prepared: Path, tmp_path: Path, format: str
) -> None:
    out, files = tmp_path / "out", files_of(prepared)
    found = headstart("export", tiny_run, out, f"--format={format}")
    assert found["largest_difference"] <= 1e-4
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(out / "example.py"), *map(str, files)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    chances = of_run(tiny_run, files)
    lines = [line for line in done.stdout.splitlines() if ".jpg" in line]
    assert [line.split()[-2] for line in lines] == [["cat", "dog"][row.argmax()] for row in chances]
    assert np.abs(np.array([float(line.split()[-1]) for line in lines]) - chances.max(axis=1)).max() < 1e-3
