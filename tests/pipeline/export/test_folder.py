from pathlib import Path

from headstart.pipeline.export.folder import read_labels, write_beside


def test_class_names_that_are_not_utf_8_can_be_read_again(tmp_path: Path) -> None:
    labels = {"format": "onnx", "class_names": ["☃", "d\udcffg"], "preprocessing": {}}
    write_beside(tmp_path, "onnx", labels, "card")
    assert "☃" in (tmp_path / "labels.json").read_text("utf-8")
    assert read_labels(tmp_path) == labels
