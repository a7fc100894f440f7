"""What is refused of an export that was changed by hand."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features.errors import ExportError
from headstart.pipeline.export.config import MODEL_FILES, Format
from headstart.pipeline.export.formats import onnx
from headstart.pipeline.export.opened import open_export

SETTINGS = {"size": 64, "resize": "stretch", "truncated": "reject", "bits": "auto", "most_pixels": 100}


def an_export(folder: Path, format: Format = "onnx", names: Any = ("cat", "dog")) -> Path:
    labels = {"class_names": list(names), "format": format, "preprocessing": SETTINGS, "second_above": None}
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder / MODEL_FILES[format]


def giving(*row: float) -> Callable[[Path], Callable[[np.ndarray], np.ndarray]]:
    return lambda path: lambda batch: np.array([row] * len(batch), np.float32)


@pytest.mark.parametrize("row", [(0, 0), (-0.5, 1.5), (0.7, 0.7), (1, np.nan), (3.0, -2.0), (1e30, 1e30)])
def test_a_model_that_gives_no_probabilities(row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    an_export(tmp_path).write_bytes(b"model")
    monkeypatch.setattr(onnx, "load", giving(*row))
    with pytest.raises(ExportError, match="does not give 2 probabilities"):
        open_export(tmp_path)
    monkeypatch.setattr(onnx, "load", giving(0.301, 0.7))  # rounded
    assert open_export(tmp_path).class_names == ["cat", "dog"]


@pytest.mark.parametrize("names", [("cat", "cat"), ("cat", "")])
def test_class_names_that_name_no_class(names: tuple[str, ...], tmp_path: Path) -> None:
    an_export(tmp_path, names=names).write_bytes(b"model")
    with pytest.raises(ExportError, match=r"labels\.json: is damaged"):
        open_export(tmp_path)


@pytest.mark.parametrize(
    ("format", "pipe"),
    [("onnx", "model.onnx"), ("openvino", "model.bin"), ("saved_model", "saved_model/variables/index")],
)
def test_a_pipe_in_place_of_a_file_is_not_opened(format: Format, pipe: str, tmp_path: Path) -> None:
    model = an_export(tmp_path, format)
    if format == "openvino":
        model.write_text("model")
    (tmp_path / pipe).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(ExportError, match=r"is no regular file|has no model"):
        open_export(tmp_path)


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    an_export(tmp_path).mkdir()
    with pytest.raises(ExportError, match=r"has no model\.onnx"):
        open_export(tmp_path)
    an_export(tmp_path, "saved_model").write_text("model")
    with pytest.raises(ExportError, match="has no saved_model"):
        open_export(tmp_path)
