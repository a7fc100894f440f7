import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import ExportError, OptionError
from headstart.pipeline.export.comparison import compare
from headstart.pipeline.export.config import ExportPrecision, ModelExportConfig
from headstart.pipeline.export.formats import keras_file
from headstart.pipeline.export.measure import ASKED, DECODED, Asked, Measured, measured

RUN = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
LABELS = np.array([0, 1, 1, 0])
EXACT = Measured(RUN, RUN, np.zeros(4), 0.0, 100.0, 0.01)
UNREADABLE = {"unreadable": "x.tif", "why_unreadable": "cut off"}


def changed(*second: float) -> np.ndarray:
    return np.stack([1 - np.array(second), np.array(second)], axis=1)


def test_equal_answers() -> None:
    found = compare(RUN, EXACT, LABELS, None)
    assert (found.accuracy, found.accuracy_of_run, found.from_files.largest_difference) == (1, 1, 0)
    found.require_close(ModelExportConfig("onnx"))
    assert any("the same pixels as the run" in line for line in found.lines())


@pytest.mark.parametrize("second", [(0.1002, 0.6, 0.7, 0.2), (0.1, 0.6, np.nan, 0.2)])
def test_float32_must_have_the_probabilities_of_the_run(second: tuple[float, ...]) -> None:
    found = compare(RUN, replace(EXACT, of_decoded=changed(*second)), LABELS, None)
    with pytest.raises(ExportError, match="so nothing was written"):
        found.require_close(ModelExportConfig("onnx"))


def test_float32_may_change_no_label() -> None:
    near = np.array([[0.50001, 0.49999]])
    found = compare(near, Measured(near[:, ::-1], near, np.zeros(1), 0.0, 1.0, 1.0), np.array([0]), None)
    assert found.same_pixels.changed_labels == 1
    with pytest.raises(ExportError, match="changed labels: 1"):
        found.require_close(ModelExportConfig("onnx"))


def test_reduced_precision_may_lose_some_accuracy() -> None:
    worse = changed(0.6, 0.6, 0.7, 0.2)
    found = compare(RUN, replace(EXACT, of_decoded=worse, of_files=worse), LABELS, None)
    assert (found.accuracy, found.from_files.changed_labels) == (0.75, 1)
    found.require_close(ModelExportConfig("onnx", "int8", tolerance=0.25))
    with pytest.raises(ExportError, match=r"from 1\.0000 to 0\.7500 on 4 val images"):
        found.require_close(ModelExportConfig("onnx", "int8", tolerance=0.24))


def test_other_pixels_are_told_apart_from_other_arithmetic() -> None:
    levels = np.array([0, 3, np.nan, 0])
    of_files = changed(0.1, 0.45, np.nan, 0.2)
    found = compare(RUN, replace(EXACT, of_files=of_files, levels=levels, **UNREADABLE), LABELS, None)
    assert (found.same_pixels.largest_difference, found.from_files.changed_labels) == (0, 1)
    assert (found.differing, found.unreadable, found.accuracy) == (1, 1, pytest.approx(2 / 3))
    found.require_close(ModelExportConfig("onnx"))
    text = "\n".join(found.lines())
    assert "other pixels of 1 images, by 3 grey levels at most, and can't read 1 (x.tif: cut off)" in text
    assert "and can't read 1 (cut off)" in "\n".join(found.lines(named=False))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_export_is_refused_if_nothing_could_be_compared(precision: ExportPrecision) -> None:
    nothing = replace(EXACT, levels=np.full(4, np.nan), **UNREADABLE)
    with pytest.raises(ExportError, match=r"can read none of the 4 val images \(x.tif: cut off\)"):
        compare(RUN, nothing, LABELS, None).require_close(ModelExportConfig("onnx", precision))


def test_a_threshold_decides_labels() -> None:
    found = compare(RUN, EXACT, LABELS, 0.65)
    assert found.accuracy == 0.75


def test_settings_out_of_range() -> None:
    for wrong in ({"images": -1}, {"tolerance": 1.5}, {"calibration_images": 2}, {"precision": "int8"}):
        with pytest.raises(OptionError):
            ModelExportConfig("keras", **wrong)


def test_a_file_that_can_not_be_read_has_the_name_that_a_person_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_file, "load", lambda path: lambda batch: np.full((len(batch), 2), 0.5))
    np.save(tmp_path / DECODED, np.zeros((1, 8, 8, 3), np.uint8))
    asked = Asked("keras", "model.keras", [(str(tmp_path / "0"), 1)], ["s3://photos/a.jpg"], {"size": 8})
    (tmp_path / ASKED).write_text(json.dumps(asdict(asked)))
    found = measured(tmp_path)
    assert found.unreadable == "s3://photos/a.jpg"
    assert found.why_unreadable == "No such file or directory"
