"""`headstart predict --output`: what is in the file, and how a repeated command goes on with it."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from headstart.features.errors import DataError
from headstart.pipeline.predict import output, parquet
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.items import Layout, Scored
from headstart.pipeline.predict.trust import Trust

SUFFIXES = ("csv", "jsonl", "parquet")


def rows_of(file: Path) -> list[dict]:
    """The rows of a file, whatever its kind."""
    if file.suffix == ".parquet":
        return list(pyarrow.parquet.read_table(file).to_pylist())
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_bytes().splitlines()]
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture
def images(drawn: Path, tmp_path: Path) -> Path:
    """Six images and a broken one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        shutil.copy(drawn / "cat" / f"cat.{number}.jpg", folder)
    (folder / "broken.jpg").write_bytes((drawn / "cat" / "cat.0.jpg").read_bytes()[:-200])
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_holds_what_is_printed(headstart, run: Path, images: Path, tmp_path: Path, suffix: str) -> None:
    said = headstart("predict", run, images, "--max-rejects=1", "--top=2")
    file = tmp_path / f"out.{suffix}"
    done = headstart("predict", run, images, "--max-rejects=1", "--top=2", "--output", file)
    assert {name: done[name] for name in ("written", "skipped", "rejected", "output", "model")} == {
        "written": 6,
        "skipped": 0,
        "rejected": 1,
        "output": str(file),
        "model": "head",
    }
    assert done["images_per_second"] > 0
    assert set(done["spent"]) == {"start", "network", "images"}
    assert done["seconds"] == pytest.approx(sum(done["spent"].values()))
    broken, *rows = rows_of(file)
    assert (broken["path"], broken["rejected"]) == (str(images / "broken.jpg"), "truncated")
    for row, item in zip(rows, said["predictions"], strict=True):
        assert (row["path"], row["label"]) == (item["path"], item["label"])
        assert float(row["probability"]) == pytest.approx(item["probability"], abs=1e-5)
        assert row["model"].startswith("head ")
        if suffix == "jsonl":
            assert row["top"] == item["top"]
            assert row["probabilities"] == item["probabilities"]
        else:
            assert row["label_2"] == item["top"][1]["label"]
            assert float(row["p:dog"]) == pytest.approx(item["probabilities"]["dog"], abs=1e-5)
    assert sorted(path.name for path in tmp_path.glob("out*")) == [file.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_gone_on_with(headstart, run: Path, images: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"out.{suffix}"
    predict = ("predict", run, images, "--max-rejects=1", "--output", file)
    headstart(*predict)
    assert "exists; --append" in headstart.error(*predict)
    shutil.copy(images / "cat.0.jpg", images / "another.jpg")
    done = headstart(*predict, "--append")
    assert (done["written"], done["skipped"], done["rejected"]) == (1, 7, 0)
    paths = [row["path"] for row in rows_of(file)]
    assert sorted(paths) == sorted(str(path) for path in images.iterdir())
    assert (headstart(*predict, "--append")["written"], len(rows_of(file))) == (0, 8)
    twice = headstart("predict", run, images, images, "--max-rejects=1", "--output", tmp_path / f"b.{suffix}")
    assert twice["written"] == 7


@pytest.mark.parametrize("cut", [1, 10, 120, 10_000])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_line_that_was_cut_off_is_written_again(
    headstart, run: Path, images: Path, tmp_path: Path, suffix: str, cut: int
) -> None:
    file = tmp_path / f"out.{suffix}"
    (images / 'half "quoted\nname.jpg').write_bytes((images / "cat.1.jpg").read_bytes())
    predict = ("predict", run, images, "--max-rejects=1", "--output", file, "--append")
    headstart(*predict)
    whole, rows = file.read_bytes(), rows_of(file)
    file.write_bytes(whole[:-cut])
    done = headstart(*predict)
    assert done["written"] + done["skipped"] + done["rejected"] == 8
    assert [row["path"] for row in rows_of(file)] == [row["path"] for row in rows]
    assert len(file.read_bytes().splitlines()) == len(whole.splitlines())


@pytest.mark.parametrize("where", [b"\n", b",", b"cat.1"])
def test_a_quote_too_many_removes_no_line(headstart, run: Path, images: Path, tmp_path: Path, where: bytes) -> None:
    file = tmp_path / "out.csv"
    predict = ("predict", run, images, "--max-rejects=1", "--output", file, "--append")
    headstart(*predict)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = (b"\n" + lines[3]).replace(where, where + b'"', 1)[1:]
    file.write_bytes(b"".join(lines))
    assert f"{file}: line 4 " in headstart.error(*predict)
    assert file.read_bytes() == b"".join(lines)


def test_a_line_of_something_else_is_not_cut_off(headstart, run: Path, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text('{"shopping": "list"}')
    assert f"{file}: line 1 is not" in headstart.error("predict", run, images, "--output", file, "--append")
    assert file.read_text() == '{"shopping": "list"}'


def test_parts_outlast_a_kill(
    headstart, run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.parquet"
    predict = ("predict", run, images, "--max-rejects=1", "--output", file)
    monkeypatch.setattr(parquet, "_PART_ROWS", 2)
    monkeypatch.setattr(parquet, "_join", lambda *given: None)  # as after a kill
    headstart(*predict)
    parts = parquet.parts_folder(file)
    assert len(list(parts.iterdir())) == 4
    assert "exists; --append" in headstart.error(*predict)
    next(parts.glob("*3.parquet")).unlink()
    monkeypatch.undo()
    kept = tmp_path / "kept"
    shutil.copytree(parts, kept)
    done = headstart(*predict, "--append")
    assert (done["written"], done["skipped"], parts.exists()) == (1, 6, False)
    shutil.copytree(kept, parts)  # as after a kill between joining and removing
    assert headstart(*predict, "--append")["written"] == 0
    assert len({row["path"] for row in rows_of(file)}) == len(rows_of(file)) == 7


DAMAGES = {"footer": slice(-600, -8), "page": slice(4, 60), "no row": slice(60, -8)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_parquet_file_is_an_error(tmp_path: Path, damage: str) -> None:
    file, layout = tmp_path / "out.parquet", Layout(["cat", "dog"], top=1, every=True, model="head")
    with output.open_output(PredictConfig(output=file), layout) as opened:
        for number in range(100):
            opened.write(Scored(f"{number}.jpg", np.array([0.25, 0.75])))
    content = bytearray(file.read_bytes())
    content[DAMAGES[damage]] = bytes(255 - byte for byte in content[DAMAGES[damage]])
    file.write_bytes(content)
    left = tmp_path / f".{socket.gethostname()}-999999999-1.partial.out.parquet"
    left.touch()
    os.utime(left, (0, 0))
    again = output.open_output(PredictConfig(output=file, append=True), layout)
    with pytest.raises(DataError, match=f"{file}: no Parquet file, or damaged"), again:
        pass
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (bytes(content), [file])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_something_else_is_refused(headstart, run: Path, images: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"out.{suffix}"
    predict = ("predict", run, images, "--max-rejects=1", "--output", file)
    headstart(*predict)
    before = file.read_bytes()
    for options in (("--top=2",), ("--probabilities=none",), ("--views=2",)):
        assert str(file) in headstart.error(*predict, *options, "--append")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "class_names": ["cat", "fox"]}))
    assert str(file) in headstart.error(*predict, "--append")
    assert file.read_bytes() == before
    (run / "config.json").write_text(json.dumps(config))
    for content in (b"shopping list\n", os.urandom(100_000), b"[" * 100_000 + b"\n"):
        file.write_bytes(content)
        assert str(file) in headstart.error(*predict, "--append")
        assert file.read_bytes() == content
    assert sorted(path.name for path in tmp_path.glob("out*")) == [file.name]


def test_places_that_hold_no_file(headstart, run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "absent" / "out.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    for given, said in (
        ("link.csv", "is no regular file"),
        ("pipe.csv", "is no regular file"),
        ("/proc/out.csv", "no file can be written there"),
        ("absent/out.csv", "there is no folder"),
        ("out.txt", "--output must be a file that ends in .csv, .jsonl or .parquet"),
        ("folder.csv", "is a folder"),
    ):
        assert said in headstart.error("predict", run, images, "--output", tmp_path / given, code=2)
    assert "name it with --output" in headstart.error("predict", run, images, "--append", code=2)
    assert not (tmp_path / "absent").exists()


def test_without_pyarrow(headstart, run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = headstart.error("predict", run, images, "--output", tmp_path / "out.parquet", code=2)
    assert "pip install 'headstart[parquet]'" in said


def test_names_do_not_become_formulas(headstart, run: Path, images: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(images)
    for name in ("=1+1.jpg", "'=1+1.jpg", "'plain.jpg"):
        shutil.copy("cat.0.jpg", name)
    file = tmp_path / "out.csv"
    predict = ("predict", run, "=1+1.jpg", "'=1+1.jpg", "'plain.jpg", "--output", file, "--append")
    assert headstart(*predict)["written"] == 3
    assert [row["path"] for row in rows_of(file)] == ["'=1+1.jpg", "''=1+1.jpg", "'plain.jpg"]
    assert headstart(*predict)["skipped"] == 3


def test_names_that_are_not_text(headstart, run: Path, images: Path, tmp_path: Path) -> None:
    (images / "cat.0.jpg").rename(images / os.fsdecode(b"caf\xe9.jpg"))
    for suffix in SUFFIXES:
        predict = ("predict", run, images, "--max-rejects=1", "--output", tmp_path / f"out.{suffix}", "--append")
        assert headstart(*predict)["written"] == 6
        assert headstart(*predict)["skipped"] == 7


def test_many_classes_have_no_columns_unless_asked() -> None:
    names = [f"class {number}" for number in range(31)]
    assert not Layout.of(PredictConfig(), names, "head", Trust()).every
    assert Layout.of(PredictConfig(), names[:30], "head", Trust()).every
    assert Layout.of(PredictConfig(probabilities="all"), names, "head", Trust()).every
    assert not Layout.of(PredictConfig(probabilities="none"), names[:2], "head", Trust()).every


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_processes_do_not_write_one_file(headstart, run: Path, images: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"out.{suffix}"
    layout = Layout(["cat", "dog"], top=1, every=True, model="head")
    with output.open_output(PredictConfig(output=file), layout):
        said = headstart.error("predict", run, images, "--output", file, "--append")
    assert "another process writes to it" in said
    assert [path.name for path in tmp_path.glob("out*")] == [file.name]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [SUFFIXES[0], *(pytest.param(one, marks=pytest.mark.soak) for one in SUFFIXES[1:])])
def test_every_image_once_after_two_kills(
    headstart,
    start_headstart: Callable[..., subprocess.Popen],
    tiny_run: Path,
    drawn: Path,
    tmp_path: Path,
    suffix: str,
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    images = 2400 if suffix == "parquet" else 800  # a part of a Parquet file has 1,024 rows
    for number in range(images):
        os.link(drawn / "cat" / f"cat.{number % 20}.jpg", folder / f"{number}.jpg")
    file = tmp_path / f"out.{suffix}"
    predict = ("predict", tiny_run, folder, f"--store={tmp_path / 'none'}", "--output", file, "--append")
    growing = parquet.parts_folder(file) if suffix == "parquet" else file
    for _ in range(2):
        process = start_headstart(*predict)
        size = _size(growing)
        while process.poll() is None and _size(growing) <= size:
            time.sleep(0.05)
        process.kill()
        process.wait()
    done = headstart(*predict)
    assert done["skipped"] > 0
    assert done["written"] + done["skipped"] == images
    assert sorted(row["path"] for row in rows_of(file)) == sorted(map(str, folder.iterdir()))


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(part.stat().st_size for part in path.glob("part-*"))
    return path.stat().st_size if path.exists() else 0


def test_parquet_is_imported_late() -> None:
    code = "import headstart.cli, sys; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
