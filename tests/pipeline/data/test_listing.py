"""Clutter is told from data, in folders and archives alike, and counted by kind."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from headstart.features.errors import DataError
from headstart.pipeline.data import listing
from headstart.pipeline.data.clutter import clutter_kind, clutter_kinds
from headstart.pipeline.data.listing import files_below, list_files
from headstart.pipeline.prepare.sources import opened_source
from headstart.tests.pipeline.prepare.test_archives import tar_bytes, write
from headstart.tests.pipeline.prepare.test_prepare import picture, write_folder, write_zip

HEX = "0123456789abcdef"
STORE = (
    f"net-cut-0123456789ab/shard-{HEX}.h5",
    f"net-cut-0123456789ab/shard-{HEX}.h5.retired",
    "net-cut-0123456789ab/fingerprint.json",
    "net-cut-0123456789ab/features.h5",
    f"scans/{HEX}.npz",
    "backbones.json",
    "rejects.csv",
)
RUN = ("config.json", "head.keras", "metrics.json", "logs/head/train/events.out.tfevents.1.vm", "page/thumb.png")
DATA = ["cats/1.png", "cats/deep/2.png", "dogs/1.png", "recycled/1.png", "store/1.png", "thumbs/a.png"]
CLUTTER = {
    "thumbnails": ["cats/Thumbs.db", "cats/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "dogs/.@__thumb/s1.png"],
    "recycle bin": ["#recycle/cats/1.png", "@Recycle/2.png", "$RECYCLE.BIN/S-1-5/$R1.png", ".Trash-1000/files/1.png"],
    "notebook checkpoints": ["cats/.ipynb_checkpoints/1-checkpoint.png"],
    "system files": [
        *("lost+found/1.png", "System Volume Information/x.dat", "__MACOSX/cats/._1.png", "cats/._1.png"),
        *("cats/desktop.ini", ".DS_Store", "dogs/.picasa.ini", "@tmp/1.png"),
    ],
    "hidden": [".git/config", "cats/.hidden.png"],
    "headstart": [f"my features/{name}" for name in STORE] + [f"out/best/{name}" for name in RUN],
}


def everything() -> dict[str, bytes]:
    names = [*DATA, *(name for names in CLUTTER.values() for name in names)]
    return {name: picture(place) for place, name in enumerate(names)}


def test_clutter_is_counted_by_kind(tmp_path: Path) -> None:
    found = list_files(write_folder(tmp_path / "s", everything()))
    assert found.files == sorted(DATA)
    assert found.ignored == {kind: len(names) for kind, names in CLUTTER.items()}
    assert found.unreadable == []


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_one_rule_holds_for_folders_and_archives(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "folder":
        source = write_folder(tmp_path / "s", everything())
    else:
        source = tmp_path / "s"
        write_zip(source, everything()) if kind == "zip" else write(source, tar_bytes(everything()))
    with opened_source(source, tmp_path / "data") as members:
        assert sorted(member.name for member in members) == sorted(DATA)
    total = sum(map(len, CLUTTER.values()))
    assert f"{source}: {total} files ignored: 12 headstart, 8 system files, 4 recycle bin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (STORE, True),
        (STORE[4:], True),  # of a store before its first shard
        (STORE[2:3], True),
        (RUN, True),
        ([f"a/{name}" for name in RUN] + [f"b/{name}" for name in RUN], True),  # runs/
        (["trial-0/events.out.tfevents.1.vm", "trial-1/fold-0/events.out.tfevents.2.vm"], True),  # of a study
        ([*STORE, "1.png"], False),
        ([*STORE, "cats/1.png"], False),
        (["config.json", "1.png"], False),
        (["fingerprint.json", "cats/1.png"], False),
        (["1.png"], False),
        ([".DS_Store", "@eaDir/1.png"], False),
        ([], False),
    ],
)
def test_folders_of_headstart_are_known_by_what_is_in_them(tmp_path: Path, names: list[str], expected: bool) -> None:
    write_folder(tmp_path / "cats", dict.fromkeys(names, b""))
    found = list_files(tmp_path)
    assert (found.ignored["headstart"] > 0 and not len(found.files)) == expected


@pytest.mark.parametrize("name", ["recycled", "Thumbs", "trash", "eaDir", "..", ".", "cats", "run", "System"])
def test_names_that_may_be_those_of_classes(name: str) -> None:
    assert clutter_kind(name) is None


def test_links_are_followed_once_and_never_into_clutter_first(tmp_path: Path) -> None:
    write_folder(tmp_path / "s", {"cats/1.png": b"x", ".Trash/2.png": b"x"})
    (tmp_path / "elsewhere").mkdir()
    write_folder(tmp_path / "elsewhere", {"3.png": b"x"})
    for name, target in {".last": "cats", "dogs": "../elsewhere", "more": "../elsewhere", "up": ".."}.items():
        (tmp_path / "s" / name).symlink_to(target)
    (tmp_path / "s" / "gone.png").symlink_to("nowhere")
    found = list_files(tmp_path / "s")
    assert found.files == ["cats/1.png", "dogs/3.png", "gone.png"]
    assert found.ignored == {"recycle bin": 1}


def test_folders_that_may_not_be_read_are_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "s", {f"{name}/1.png": b"x" for name in ("a", "b", "c", "lost+found")})
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if folder.endswith(("/a", "/c", "/lost+found")):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    found = list_files(source)
    assert (found.files, found.unreadable, found.ignored) == (["b/1.png"], ["a", "c"], {"system files": 1})
    with pytest.raises(DataError, match=r"s: 2 of its folders can't be read: a, c; change"):
        files_below(source)
    with pytest.raises(DataError, match="2 of its folders"), opened_source(source, tmp_path / "data"):
        pass
    with pytest.raises(OSError, match="No such file"):
        list_files(tmp_path / "gone")


def test_names_of_255_bytes_and_not_utf_8(tmp_path: Path) -> None:
    names = [f"cats/{'x' * 251}.png", f"cats/{os.fsdecode(bytes([255]))}.png", "cats/line\nbreak.png"]
    assert list_files(write_folder(tmp_path / "s", dict.fromkeys(names, b""))).files == sorted(names)


def test_camera_raw_beside_the_same_picture_is_ignored_and_alone_is_not() -> None:
    names = ["cat/IMG_1.CR2", "cat/IMG_1.JPG", "cat/IMG_2.CR2", "dog/IMG_1.CR2", "dog/IMG_2.jpg", "dog/IMG_2.xmp"]
    kind = "camera raw beside pictures"
    assert clutter_kinds(names) == [kind, None, None, None, None, None]


def test_many_names_take_little_time() -> None:
    names = [f"cats/{number}.png" for number in range(100_000)]
    start = time.process_time()
    assert Counter(clutter_kinds(names)) == {None: 100_000}
    assert time.process_time() - start < 1
