import csv
import io
import os
import signal
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.archives import entries
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import scan
from headstart.pipeline.data.splits import SPLITS
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from PIL import Image

HALVES = PrepareConfig(val=0.3, test=0.3)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def files(classes: Mapping[str, str], count: int = 20) -> dict[str, bytes]:
    """`count` images a class; each value of `classes` is a pattern of the path."""
    return {
        pattern.format(number): picture(1000 * index + number)
        for index, pattern in enumerate(classes.values())
        for number in range(count)
    }


LAYOUTS = {
    "class folders": files({"cat": "cat/{}.png", "dog": "dog/{}.png"}),
    "nested class folders": files({"cat": "cat/a/b/{}.png", "dog": "dog/{}.png"}),
    "names": files({"cat": "cat.{}.jpg", "dog": "dog.{}.jpg"}),
    "Kaggle's train": files({"cat": "train/cat.{}.jpg", "dog": "train/dog.{}.jpg"}),
    "the competition": {
        **files({"cat": "train/cat.{}.jpg", "dog": "train/dog.{}.jpg"}),
        "test1/1.jpg": picture(9000),
        "test1/2.jpg": picture(9001),
        "sampleSubmission.csv": b"id,label",
    },
    "Microsoft's": {
        **files({"cat": "PetImages/cat/{}.jpg", "dog": "PetImages/dog/{}.jpg"}),
        "PetImages/cat/Thumbs.db": b"x",
        "readme[1].txt": b"read me",
    },
    "split already": {
        **files({"cat": "train/cat/{}.jpg", "dog": "validation/dog/{}.jpg"}),
        "validation/cat/x.jpg": picture(9000),
        "train/dog/x.jpg": picture(9001),
    },
}


def write_folder(folder: Path, content: Mapping[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, content: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def found_in(data: Path) -> dict[bytes, tuple[str, str]]:
    """Content to (split, class) of every image."""
    return {path.read_bytes(): (path.parts[-3], path.parts[-2]) for path in data.glob("*/*/*")}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_every_layout_gives_the_same_splits(tmp_path: Path, layout: str, kind: str) -> None:
    content = LAYOUTS[layout]
    source = write_folder(tmp_path / "s", content) if kind == "folder" else write_zip(tmp_path / "s.zip", content)
    result = prepare(source, tmp_path / "data", HALVES)
    assert (result.train + result.val + result.test) in (40, 42)
    assert result.rejected == 0
    again = prepare(write_folder(tmp_path / "plain", LAYOUTS["class folders"]), tmp_path / "again", HALVES)
    if result.train + result.val + result.test == 40:
        assert again.fields() == result.fields()
        assert found_in(tmp_path / "data") == found_in(tmp_path / "again")


def test_the_zip_inside_the_competition_s_zip(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "train.zip", LAYOUTS["Kaggle's train"])
    outer = write_zip(tmp_path / "outer.zip", {"train.zip": inner.read_bytes(), "sampleSubmission.csv": b"id"})
    prepare(outer, tmp_path / "data", HALVES)
    prepare(inner, tmp_path / "again", HALVES)
    assert found_in(tmp_path / "data") == found_in(tmp_path / "again")
    written = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert written == ["prepared.json", "rejects.csv", *sorted(SPLITS)]


def test_a_killed_prepare_leaves_nothing(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "train.zip", LAYOUTS["Kaggle's train"])
    (tmp_path / "in").mkdir()
    outer = write_zip(tmp_path / "in" / "outer.zip", {"train.zip": inner.read_bytes()})
    code = f"""
import os, signal
from pathlib import Path
from headstart.pipeline.prepare.sources import opened_source
with opened_source(Path({str(outer)!r}), Path({str(tmp_path / "in" / "data")!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert list((tmp_path / "in").iterdir()) == [outer]


def test_members_of_one_name_are_all_read(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "s.zip", LAYOUTS["class folders"])
    with zipfile.ZipFile(source, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("cat/0.png", picture(9000))
    assert prepare(source, tmp_path / "data", HALVES).added == 41
    assert {picture(0), picture(9000)} <= set(found_in(tmp_path / "data"))


def test_rejects_of_other_sources_are_kept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, number in (("a", 0), ("b", 3000)):
        content = files({"cat": f"cat/{name}{{}}.png", "dog": f"dog/{name}{{}}.png"})
        content = {path: picture(number + place) for place, path in enumerate(content)}
        source = write_folder(tmp_path / name, {**content, f"cat/{name}, broken.png": b"broken", "dog/gone.png": b""})
        prepare(source, tmp_path / "data", HALVES)
    (tmp_path / "a" / "cat" / "a, broken.png").write_bytes(picture(9000))
    prepare(tmp_path / "a", tmp_path / "data", HALVES)
    with (tmp_path / "data" / "rejects.csv").open(newline="") as file:
        rows = [(os.path.relpath(row[0], tmp_path), row[1]) for row in list(csv.reader(file))[1:]]
    assert rows == [("b/cat/b, broken.png", "not-an-image"), ("b/dog/gone.png", "empty"), ("a/dog/gone.png", "empty")]


def test_every_option_has_help() -> None:
    assert [field.name for field in fields(PrepareConfig) if not field.metadata.get("help")] == []


def test_images_keep_their_split_when_others_are_added(tmp_path: Path) -> None:
    content = LAYOUTS["class folders"]
    source = write_folder(tmp_path / "s", content)
    prepare(source, tmp_path / "data", HALVES)
    before = found_in(tmp_path / "data")
    write_folder(source, files({"cat": "cat/more{}.png", "dog": "dog/more{}.png", "eel": "eel/{}.png"}, 30))
    prepare(source, tmp_path / "data", HALVES)
    after = found_in(tmp_path / "data")
    assert {data: after[data][0] for data in before} == {data: split for data, (split, _) in before.items()}
    assert len(after) > len(before)


def test_equal_images_never_straddle_and_clashing_names_are_kept_apart(tmp_path: Path) -> None:
    content = {**LAYOUTS["class folders"], **{f"cat/copy/{n}.png": picture(n) for n in range(20)}}
    content |= {f"dog/other/{n}.png": picture(5000 + n) for n in range(20)}
    with pytest.raises(DataError, match="--layout outer"):
        prepare(write_folder(tmp_path / "s", content), tmp_path / "data", HALVES)
    result = prepare(tmp_path / "s", tmp_path / "data", HALVES, reading=DataConfig(layout="outer"))
    assert result.train + result.val + result.test == 80
    seen: dict[bytes, set[str]] = {}
    for path in (tmp_path / "data").glob("*/*/*"):
        seen.setdefault(path.read_bytes(), set()).add(path.parts[-3])
    assert all(len(splits) == 1 for splits in seen.values())
    assert len(seen) == 60


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    first = prepare(source, tmp_path / "data", HALVES)
    listing = {path: path.stat().st_ino for path in (tmp_path / "data").glob("*/*/*")}
    assert prepare(source, tmp_path / "data", HALVES) == replace(first, added=0)
    assert {path: path.stat().st_ino for path in (tmp_path / "data").glob("*/*/*")} == listing


def test_files_are_linked_or_copied_or_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    prepare(source, tmp_path / "linked", HALVES)
    assert all(path.stat().st_nlink == 2 for path in (tmp_path / "linked").glob("*/*/*"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("other file system")))
        prepare(source, tmp_path / "copied", HALVES)
    assert found_in(tmp_path / "copied") == found_in(tmp_path / "linked")
    prepare(source, tmp_path / "moved", replace(HALVES, move=True))
    assert found_in(tmp_path / "moved") == found_in(tmp_path / "linked")
    assert not list(source.glob("*/*.png"))


def test_another_seed_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    prepare(source, tmp_path / "data", HALVES)
    before = found_in(tmp_path / "data")
    with pytest.raises(DataError, match="made with --seed 0, and now is asked for 1"):
        prepare(source, tmp_path / "data", HALVES, seed=1)
    assert found_in(tmp_path / "data") == before


def test_a_split_that_comes_out_empty_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", files({"cat": "cat/{}.png", "dog": "dog/{}.png"}, 2))
    with pytest.raises(DataError, match=r"'cat' \(2 images\) has none in test; 'dog'"):
        prepare(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_split_of_nothing_is_not_made(tmp_path: Path) -> None:
    result = prepare(write_folder(tmp_path / "s", LAYOUTS["names"]), tmp_path / "data", PrepareConfig(0.3, 0))
    assert result.test == 0
    assert not (tmp_path / "data" / "test").exists()


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5), (0, 1)])
def test_impossible_fractions_are_refused(fractions: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match="--val and --test"):
        PrepareConfig(*fractions)


def test_broken_images_are_listed_and_left_out(tmp_path: Path, drawn: Path) -> None:
    with pytest.raises(DataError, match=r"4 of 46 images can't be used, over --max-rejects 0\.05: .*\.csv has all"):
        prepare(drawn, tmp_path / "data", HALVES)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["rejects.csv"]
    result = prepare(drawn, tmp_path / "data", replace(HALVES, max_rejects=0.1))
    assert result.rejected == 4
    assert len((tmp_path / "data" / "rejects.csv").read_text().splitlines()) == 5
    assert not list((tmp_path / "data").glob("*/*/broken.text.jpg"))
    assert len(scan(tmp_path / "data").rejects) == 0


def test_a_class_without_usable_images_is_an_error(tmp_path: Path) -> None:
    content = {**LAYOUTS["class folders"], "eel/1.jpg": b"broken", "eel/2.jpg": b""}
    with pytest.raises(DataError, match=r"'eel' \(0 images\) has none in train, val, test"):
        prepare(write_folder(tmp_path / "s", content), tmp_path / "data", HALVES)
    assert not (tmp_path / "data").exists()


def test_a_move_that_is_cut_off_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    link = os.link
    with monkeypatch.context() as patch:
        count = iter(range(30))
        patch.setattr(os, "link", lambda *names: link(*names) if next(count, None) is not None else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(source, tmp_path / "data", replace(HALVES, move=True))
    result = prepare(source, tmp_path / "data", replace(HALVES, move=True))
    assert result.train + result.val + result.test == len(found_in(tmp_path / "data")) == 40
    assert not list(source.glob("*/*.png"))


def test_a_damaged_zip_around_the_images_is_an_error(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "train.zip", LAYOUTS["Kaggle's train"]).read_bytes()
    outer = write_zip(tmp_path / "outer.zip", {"train.zip": inner})
    data = bytearray(outer.read_bytes())
    data[data.index(inner) + 100] ^= 1
    outer.write_bytes(data)
    with pytest.raises(DataError, match=r"train\.zip: can't be unpacked"):
        prepare(outer, tmp_path / "data", HALVES)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("group", ["", r"/(\d)"])
def test_nothing_outside_of_data_is_written(tmp_path: Path, group: str) -> None:
    content = {
        **LAYOUTS["class folders"],
        "../evil.png": picture(7000),
        "cat/../../evil.png": picture(7001),
        "/evil.png": picture(7002),
    }
    (tmp_path / "in").mkdir()
    source = write_zip(tmp_path / "in" / "s.zip", content)
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    result = prepare(source, tmp_path / "in" / "data", replace(HALVES, max_rejects=0.1), 0, DataConfig(group=group))
    assert result.rejected == 4
    assert not list(tmp_path.glob("evil*"))
    assert not list(tmp_path.glob("in/evil*"))
    assert len(found_in(tmp_path / "in" / "data")) == 40
    assert not any(path.is_symlink() for path in (tmp_path / "in" / "data").rglob("*"))


def test_a_damaged_member_is_rejected_and_the_rest_kept(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "s.zip", LAYOUTS["class folders"])
    data = bytearray(source.read_bytes())
    data[data.index(picture(3)) + 20] ^= 255
    source.write_bytes(data)
    result = prepare(source, tmp_path / "data", HALVES)
    assert result.rejected == 1
    assert "cat/3.png,corrupt" in (tmp_path / "data" / "rejects.csv").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x.png": picture(0)}, "no class folders"),
        ({}, "no class folders"),
        (files({"cat": "cat.{}.jpg"}), "one class only"),
        (files({"cat": "cat/{}.jpg"}), "one class only"),
    ],
)
def test_sources_without_classes(tmp_path: Path, content: dict[str, bytes], message: str) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(DataError, match=message):
        prepare(write_folder(tmp_path / "s", content), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_bad_places(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["names"])
    archive = write_zip(tmp_path / "s.zip", LAYOUTS["names"])
    (tmp_path / "file").write_text("hello")
    with pytest.raises(DataError, match="no such file"):
        prepare(tmp_path / "gone", tmp_path / "data")
    with pytest.raises(DataError, match="neither a folder nor an archive"):
        prepare(tmp_path / "file", tmp_path / "data")
    with pytest.raises(DataError, match="not a folder"):
        prepare(source, tmp_path / "file")
    with pytest.raises(DataError, match="lies in"):
        prepare(source, source / "data")
    with pytest.raises(OptionError, match="--move"):
        prepare(archive, tmp_path / "data", PrepareConfig(move=True))


def test_a_bomb_among_the_members_is_rejected_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "SMALL_BYTES", 10_000)
    content = {**LAYOUTS["class folders"], **{f"cat/noise{n}.jpg": os.urandom(3000) for n in range(40)}}
    source = write_zip(tmp_path / "s.zip", content)
    with zipfile.ZipFile(source, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/bomb.bmp", b"BM" + bytes(3_000_000))
    read = zipfile.ZipFile.read
    opened: list[str] = []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, info: opened.append(info.filename) or read(self, info))
    prepare(source, tmp_path / "data", replace(HALVES, max_rejects=1.0))
    assert "cat/bomb.bmp,too-large" in (tmp_path / "data" / "rejects.csv").read_text()
    assert "cat/bomb.bmp" not in opened


@pytest.mark.parametrize(("limit", "value"), [("MAX_ENTRIES", 39), ("MAX_TOTAL_BYTES", 1000), ("SMALL_BYTES", 0)])
def test_an_archive_that_is_a_bomb_as_a_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    source = write_zip(tmp_path / "s.zip", LAYOUTS["class folders"])
    monkeypatch.setattr(entries, limit, value)
    if limit == "SMALL_BYTES":
        with zipfile.ZipFile(source, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("cat/bomb.bmp", bytes(9_000_000))
    with pytest.raises(DataError, match=r"s\.zip: 4[01] files of .* are unpacked"):
        prepare(source, tmp_path / "data", HALVES)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_names_of_any_kind_and_length(tmp_path: Path, kind: str) -> None:
    long = "\u732b" * 80  # 240 bytes
    names = ["ünï cödé.png", "line\nbreak.png", "猫.png", f"{long}.png", f"{'x' * 251}.png", "a,b'\"c.png"]
    content = {f"{folder}/{name}": picture(10 * number + len(folder)) for folder in ("cat", "hound")
               for number, name in enumerate(names)}  # fmt: skip
    config = PrepareConfig(val=0, test=0)
    source = write_folder(tmp_path / "s", content) if kind == "folder" else write_zip(tmp_path / "s.zip", content)
    prepare(source, tmp_path / "data", config)
    prepare(source, tmp_path / "data", config)
    assert set(found_in(tmp_path / "data")) == set(content.values())
    assert len(scan(tmp_path / "data").examples) == 12


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    content = {f"{folder}/{os.fsdecode(bytes([200 + n]))}.png": picture(10 * n + len(folder)) for folder in ("a", "bc")
               for n in range(20)} | {f"a/{os.fsdecode(bytes([255]))}.jpg": b"broken"}  # fmt: skip
    result = prepare(write_folder(tmp_path / "s", content), tmp_path / "data", HALVES)
    assert (result.train + result.val + result.test, result.rejected) == (40, 1)
    assert b"\xff.jpg,not-an-image" in (tmp_path / "data" / "rejects.csv").read_bytes()


@pytest.mark.parametrize("name", ["../evil.png", "/abs.png"])
def test_a_path_out_of_a_zip_does_not_change_what_the_classes_are(tmp_path: Path, name: str) -> None:
    content = files({"cat": "photos/cat/{}.png", "dog": "photos/dog/{}.png"})
    result = prepare(write_zip(tmp_path / "s.zip", {**content, name: picture(7000)}), tmp_path / "data", HALVES)
    assert result.rejected == 1
    assert {label for _, label in found_in(tmp_path / "data").values()} == {"cat", "dog"}


def test_a_member_that_unpacks_to_more_than_the_list_says_is_not_unpacked(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "s.zip", LAYOUTS["class folders"])
    with zipfile.ZipFile(source, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/liar.bmp", b"BM" + bytes(200_000_000))
    data = source.read_bytes()
    source.write_bytes(data.replace((200_000_002).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    tracemalloc.start()
    prepare(source, tmp_path / "data", HALVES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert "cat/liar.bmp,corrupt" in (tmp_path / "data" / "rejects.csv").read_text()


def test_new_images_and_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", LAYOUTS["class folders"])
    (source / "cat" / "notes.txt").write_text("no image")
    (source / "cat" / "Thumbs.db").write_text("clutter")
    first = prepare(source, tmp_path / "data", HALVES)
    total = first.train + first.val + first.test
    assert (first.added, first.ignored) == (total, 1)
    assert not any("were there" in line for line in first.lines())
    assert "1 files in class folders are no images, and are left out" in first.lines()
    (source / "cat" / "new.png").write_bytes(picture(9999))
    again = prepare(source, tmp_path / "data", HALVES)
    assert again.added == 1
    assert f"1 of these are new, {total} were there" in again.lines()


def test_a_folder_in_place_of_the_rejects_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "data" / "rejects.csv").mkdir(parents=True)
    with pytest.raises(DataError, match=r"rejects\.csv: a folder"):
        prepare(write_folder(tmp_path / "source", LAYOUTS["class folders"]), tmp_path / "data", HALVES)
    assert os.listdir(tmp_path / "data") == ["rejects.csv"]
