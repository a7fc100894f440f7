"""How an export that is served is found, and which class its threshold is for."""

import re
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import ExportError, OptionError
from headstart.pipeline.export.opened import OpenExport, open_export
from headstart.pipeline.places import Places
from headstart.pipeline.serve import of_export
from headstart.pipeline.serve.config import ServeConfig

SETTINGS = {"size": 4, "resize": "stretch", "truncated": "reject", "bits": "auto", "most_pixels": 100}


@pytest.mark.parametrize(
    ("kept", "given", "positive", "cut"),
    [
        ({"positive": "cat"}, 0.9, "cat", 0.1),
        ({"positive": "cat"}, None, "cat", 0.7),
        ({"positive": "dog"}, 0.9, "dog", 0.9),
        ({"positive": ["cow"]}, 0.9, "dog", 0.9),
        (None, None, "dog", 0.7),
    ],
    ids=str,
)
def test_a_threshold_is_for_the_class_of_the_run(
    kept: object, given: float | None, positive: str, cut: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, labels = ["cat", "dog"], {"threshold": kept}
    opened = OpenExport(Path("out"), "onnx", names, SETTINGS, 0.7, labels, lambda batch: np.full((len(batch), 2), 0.5))
    monkeypatch.setattr(of_export, "open_export", lambda path: opened)
    found = of_export.serve_export(Path("out"), ServeConfig(threshold=given), Places()).layout.threshold
    assert found
    assert (found.positive, found.second_above(names)) == (positive, pytest.approx(cut))


def test_an_export_has_no_neighbours() -> None:
    with pytest.raises(OptionError, match="--neighbours 9: is for runs, and out is an export"):
        of_export.serve_export(Path("out"), ServeConfig(neighbours=9), Places())


def test_only_a_model_stands_for_its_folder(tmp_path: Path) -> None:
    for name in ("labels.json", "model.onnx", "other.onnx"):
        (tmp_path / name).touch()
    assert of_export.is_export(tmp_path)
    assert of_export.is_export(tmp_path / "model.onnx")
    assert not any(of_export.is_export(tmp_path / name) for name in ("other.onnx", "model.keras", "gone"))


def test_an_export_may_have_the_name_of_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "saved_model"
    folder.mkdir()
    (folder / "labels.json").write_text("{")
    with pytest.raises(ExportError, match=re.escape(f"{folder}/labels.json")):
        open_export(folder)
