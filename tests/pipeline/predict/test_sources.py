"""`headstart predict`: the files that it finds in folders and in lists."""

import io
import os
import shutil
import sys
from pathlib import Path

import pytest
from headstart.features.errors import DataError
from headstart.pipeline.predict import sources
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.predict import predict, predicting
from headstart.pipeline.predict.sources import find_files


def test_folders_within_folders_and_lists(
    run: Path, drawn: Path, tmp_path: Path, headstart, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "images" / "inner"
    inner.mkdir(parents=True)
    for number, folder in enumerate((inner, inner.parent)):
        shutil.copy(drawn / "cat" / f"cat.{number}.jpg", folder)
    (inner.parent / "notes.txt").write_text("no image, and nobody said so")

    def names(*arguments: object) -> list[str]:
        return [Path(one["path"]).name for one in headstart("predict", run, *arguments)["predictions"]]

    assert names(inner.parent) == ["cat.1.jpg", "cat.0.jpg"]
    assert names(inner.parent, "--no-recursive") == ["cat.1.jpg"]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{inner}\r\n\n{tmp_path / 'gone.jpg'}\n{inner.parent / 'notes.txt'}")
    found = headstart("predict", run, "--from", listed, "--max-rejects=1")
    assert [Path(one["path"]).name for one in found["predictions"]] == ["cat.0.jpg"]
    assert [(Path(one["path"]).name, one["reason"]) for one in found["rejects"]] == [
        ("gone.jpg", "vanished"),
        ("notes.txt", "not-an-image"),
    ]
    ended = os.fsencode(inner / "cat.0.jpg") + b"\0" + os.fsencode(inner.parent / "cat.1.jpg") + b"\0"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ended)))
    found = predict(run, [], PredictConfig(listed=Path("-")))
    assert [Path(item.path).name for item in found.predictions] == ["cat.0.jpg", "cat.1.jpg"]
    assert "--from" in headstart.error("predict", run, "--from", tmp_path / "absent", code=2)
    assert "Not a directory" in headstart.error("predict", run, "--from", listed / "x", code=2)
    assert "--from" in headstart.error("predict", run, code=2)


def test_a_list_with_nuls_names_any_file(drawn: Path, tmp_path: Path) -> None:
    listed, name = tmp_path / "list", str(tmp_path / "cat\r")
    listed.write_bytes(os.fsencode(name) + b"\0 \0")
    assert sources.find_files([], listed).files == [name, " "]


def test_progress_ends_with_the_last_file(run: Path, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    shutil.copy(drawn / "cat" / "cat.0.jpg", tmp_path / "cat.jpg")
    (tmp_path / "notes" / "notes.txt").write_text("no image, and nobody said so")
    begun, steps = predicting(run, [tmp_path / "cat.jpg", tmp_path / "notes"], PredictConfig()), []
    assert len(list(begun.items(steps.append))) == 1
    assert sum(steps) == len(begun.sources.files) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.jpg\n".encode("utf-16"), "is in UTF-16; save it in UTF-8"),
        (b"a.jpg\n" * 20_000 + b"b\0.jpg\n", "a line holds a NUL"),
    ],
)
def test_lists_that_hold_no_paths_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=said):
        find_files([], tmp_path / "list.txt")


def test_the_mark_at_the_beginning_of_a_list_is_no_part_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.jpg\nb.jpg\n")
    assert find_files([], tmp_path / "list.txt").files == ["a.jpg", "b.jpg"]
