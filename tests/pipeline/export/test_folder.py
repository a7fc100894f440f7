from pathlib import Path

import pytest
from headstart.pipeline.export.folder import read_labels, require_free, write_beside


def test_class_names_that_are_not_utf_8_can_be_read_again(tmp_path: Path) -> None:
    labels = {"format": "onnx", "class_names": ["☃", "d\udcffg"], "preprocessing": {}}
    write_beside(tmp_path, "onnx", labels, "card")
    assert "☃" in (tmp_path / "labels.json").read_text("utf-8")
    assert read_labels(tmp_path) == labels


def test_a_place_below_a_file_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as raised:
        require_free(tmp_path / "file" / "out", overwrite=False)
    assert raised.value.filename == str(tmp_path / "file" / "out")
