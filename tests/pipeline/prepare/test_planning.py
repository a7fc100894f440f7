"""What `prepare` refuses, keeps and drops: labels from lists, groups, copies, splits that are given, other settings."""

import io
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import DataError
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.prepare.prepare import prepare
from headstart.pipeline.prepare.targets import claimed
from PIL import Image

from .test_prepare import HALVES, LAYOUTS, files, found_in, picture, write_folder, write_zip

NEAR = DataConfig(group="near-duplicates")


def photo(name: str, quality: int = 95) -> bytes:
    """A picture that is like no other, smooth enough to be known again at any quality."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8), "RGB")
    buffer = io.BytesIO()
    small.resize((96, 96), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def photos(folder: str = "", quality: int = 95, count: int = 10) -> dict[str, bytes]:
    names = [f"{label}/{number}" for label in ("cat", "dog") for number in range(count)]
    return {f"{name.replace('/', f'/{folder}')}.jpg": photo(name, quality) for name in names}


def manifest(folder: Path, rows: list[tuple[str, ...]], header: str = "path,label") -> Path:
    file = folder / "list.csv"
    file.write_bytes("\n".join([header, *(",".join(row) for row in rows)]).encode(errors="surrogateescape"))
    return file


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("../../../evil", "it has a slash"),
        ("/proc/evil", "it has a slash"),
        ("a/b", "it has a slash"),
        ("..", "leads elsewhere"),
        (".", "leads elsewhere"),
        (".hidden", r"are ignored \(hidden\)"),
        ("@eaDir", r"are ignored \(thumbnails\)"),
        ("lost+found", r"are ignored \(system files\)"),
        ("a\0b", "zero byte"),
        ("猫" * 86, "258 bytes, over 255"),
        ("x" * 256, "256 bytes, over 255"),
    ],
)
def test_a_label_that_can_be_no_folder_is_refused_before_anything_is_written(
    tmp_path: Path, label: str, why: str
) -> None:
    source = write_folder(tmp_path / "in" / "s", LAYOUTS["class folders"])
    rows = [(name, "cat" if name.startswith("cat") else label) for name in LAYOUTS["class folders"]]
    if "\0" in label:
        lines = [json.dumps({"path": path, "label": label}) for path, label in rows]
        (file := source / "list.jsonl").write_text("\n".join(lines))
    else:
        file = manifest(source, rows)
    with pytest.raises(DataError, match=rf"list\.\w+: the label .* of .*dog/0\.png can't be .*{why}.*; give") as told:
        prepare(file, tmp_path / "in" / "data", HALVES)
    assert "\n" not in str(told.value)
    assert sorted(path.name for path in tmp_path.rglob("*") if "in/s" not in str(path)) == ["in"]


def test_a_label_from_a_path_leads_nowhere_else(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    with pytest.raises(DataError, match=r"the label 'cat/' of .*a slash"):
        prepare(source, tmp_path / "data", HALVES, reading=DataConfig(label_from=r"(?P<label>\w+/)\d+\.png"))
    assert not (tmp_path / "data").exists()
    long = "x" * 255
    rows = [(name, name.split("/")[0].replace("dog", long)) for name in LAYOUTS["class folders"]]
    prepare(manifest(source, rows), tmp_path / "data", HALVES)
    assert {label for _, label in found_in(tmp_path / "data").values()} == {"cat", long}


def test_patients_stay_together_with_near_duplicates(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", {**photos(), "cat/again.jpg": photo("cat/0", 60)})
    patients = {name: f"p{name[:3]}{int(name[4]) // 2}" for name in photos()}
    rows = [(name, name[:3], patient) for name, patient in patients.items()]
    rows.append(("cat/again.jpg", "cat", patients["cat/9.jpg"]))
    for seed in range(6):
        data = tmp_path / f"data{seed}"
        prepare(manifest(source, rows, "path,label,group"), data, HALVES, seed, NEAR)
        found = found_in(data)
        splits = {patient: {found[(source / path).read_bytes()][0] for path, _, mine in rows if mine == patient}
                  for patient in patients.values()}  # fmt: skip
        assert all(len(one) == 1 for one in splits.values())
        assert splits["pcat0"] == splits["pcat4"]  # their photographs are near-duplicates


@pytest.mark.parametrize("seed", range(3))
def test_new_near_duplicates_go_where_the_data_folder_has_the_old_ones(tmp_path: Path, seed: int) -> None:
    prepare(write_folder(tmp_path / "old", photos()), tmp_path / "data", HALVES, seed, NEAR)
    before = found_in(tmp_path / "data")
    prepare(write_folder(tmp_path / "new", photos("a", 60)), tmp_path / "data", HALVES, seed, NEAR)
    after = found_in(tmp_path / "data")
    assert {content: after[content] for content in before} == before
    for name, content in photos().items():
        assert after[content] == after[photos("a", 60)[name.replace("/", "/a")]]


@pytest.mark.parametrize("place", ["the same source", "another source"])
def test_dropped_copies_are_the_new_ones(tmp_path: Path, place: str) -> None:
    config = replace(HALVES, drop_duplicates=True)
    source = write_folder(tmp_path / "s", photos())
    prepare(source, tmp_path / "data", config)
    before = everything(tmp_path / "data")
    new = {**photos("+", 60, count=4), **{f"{label}/+x{number}.jpg": photo(f"x{label}{number}") for number in range(3)
           for label in ("cat", "dog")}}  # fmt: skip
    result = prepare(
        write_folder(source if place == "the same source" else tmp_path / "new", new), tmp_path / "data", config
    )
    assert result.dropped == 8
    after = everything(tmp_path / "data")
    images = {name for name in before if name.endswith("jpg")}
    assert {name: after.get(name) for name in images} == {name: before[name] for name in images}
    assert len(found_in(tmp_path / "data")) == 26
    assert len({path.name for path in (tmp_path / "data").glob("*/*/+x*")}) == 3


def test_a_dropped_copy_of_another_class_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "s", {**photos(), "dog/z.jpg": photo("cat/3"), "dog/y.jpg": photo("cat/4", 60)})
    assert prepare(source, tmp_path / "data", replace(HALVES, drop_duplicates=True)).dropped == 2
    said = capsys.readouterr().err
    assert f"warning: 2 images are in several classes, and the label of the dropped copy is lost: {source}" in said
    assert f"{source}/dog/y.jpg as dog, {source}/cat/4.jpg as cat; ..." in said


GIVEN = {
    **files({"cat": "train/cat/{}.png", "dog": "train/dog/{}.png"}, 8),
    **{f"test/{label}/p{number}.png": picture(6000 + 100 * place + number)
       for place, label in enumerate(("cat", "dog")) for number in range(4)},
}  # fmt: skip
VAL = {f"val/{label}/{n}.png": picture(7000 + 100 * place + n) for place, label in enumerate(("cat", "dog"))
       for n in range(4)}  # fmt: skip


@pytest.mark.parametrize("more", [VAL, {}], ids=["val is given", "val is drawn"])
def test_given_splits_stay_when_groups_or_copies_straddle_them(
    tmp_path: Path, more: Mapping[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    content = {**GIVEN, **more, "train/cat/p0.png": picture(8000), "test/dog/copy.png": GIVEN["train/dog/3.png"]}
    source = write_folder(tmp_path / "s", content)
    reading = DataConfig(group=r"/(p\d)\.")
    prepare(source, tmp_path / "data", HALVES, reading=reading)
    there = {path.relative_to(tmp_path / "data") for path in (tmp_path / "data").glob("*/*/*")}
    assert {path for path in there if path.parts[0] == "test"} == {Path(name) for name in content if "test/" in name}
    if more:
        assert there == set(map(Path, content))
    said = capsys.readouterr().err
    assert "1 groups are in several splits, as these are given: p0 in " in said
    assert f"1 images with copies are in several splits, as these are given: {source}/" in said
    assert "1 images moved" not in said
    before = everything(tmp_path / "data")
    result = prepare(source, tmp_path / "data", HALVES, reading=reading)
    assert result.moved == 0
    assert everything(tmp_path / "data") == before


@pytest.mark.parametrize("more", [VAL, {}], ids=["val is given", "val is drawn"])
@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_a_copy_across_given_splits_does_not_keep_an_interrupted_prepare_from_going_on(
    tmp_path: Path, more: Mapping[str, bytes], split: str
) -> None:
    content = {**GIVEN, **more, "test/dog/copy.png": GIVEN["train/dog/3.png"]}
    source = write_folder(tmp_path / "s", content)
    prepare(source, tmp_path / "data", HALVES)
    whole = {path.relative_to(tmp_path / "data") for path in (tmp_path / "data").glob("*/*/*")}
    for path in (tmp_path / "data" / split).glob("*/*"):
        path.unlink()
    (tmp_path / "data" / "prepared.json").unlink()
    prepare(source, tmp_path / "data", HALVES)
    assert {path.relative_to(tmp_path / "data") for path in (tmp_path / "data").glob("*/*/*")} == whole


def test_an_image_that_the_data_folder_has_in_another_split_is_refused(tmp_path: Path) -> None:
    prepare(write_folder(tmp_path / "s", GIVEN), tmp_path / "data", HALVES)
    moved = {**GIVEN, "train/dog/p0.png": GIVEN["test/dog/p0.png"]}
    del moved["test/dog/p0.png"]
    with pytest.raises(DataError, match=r"p0\.png: is in train of the source, and in test of the data folder"):
        prepare(write_folder(tmp_path / "other", moved), tmp_path / "data", HALVES)


def test_copy_parts_what_was_linked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    prepare(source, tmp_path / "data", HALVES)
    before = found_in(tmp_path / "data")
    prepare(source, tmp_path / "data", replace(HALVES, copy=True))
    assert "40 files that were linked are copies now" in capsys.readouterr().err
    inodes = {path.stat().st_ino for path in source.rglob("*")}
    for path in (tmp_path / "data").glob("*/*/*"):
        assert path.stat().st_ino not in inodes
        assert os.access(path, os.W_OK)
        assert path.stat().st_mode & 0o200
    assert found_in(tmp_path / "data") == before
    listing = everything(tmp_path / "data")
    prepare(source, tmp_path / "data", replace(HALVES, copy=True))
    assert everything(tmp_path / "data") == listing


def test_another_resplit_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", {**GIVEN, **VAL})
    prepare(source, tmp_path / "data", HALVES)
    with pytest.raises(DataError, match="was made without --resplit, and now is asked for with --resplit; repeat"):
        prepare(source, tmp_path / "data", HALVES, reading=DataConfig(resplit=True))
    written = json.loads((tmp_path / "data" / "prepared.json").read_text())
    assert written.pop("resplit") is False
    (tmp_path / "data" / "prepared.json").write_text(json.dumps(written))  # as earlier versions did
    prepare(source, tmp_path / "data", HALVES)
    with pytest.raises(DataError, match="was made without --resplit"):
        prepare(source, tmp_path / "data", HALVES, reading=DataConfig(resplit=True))
    prepare(source, tmp_path / "anew", HALVES, reading=DataConfig(resplit=True))
    with pytest.raises(DataError, match="was made with --resplit, and now is asked for without --resplit"):
        prepare(source, tmp_path / "anew", HALVES)


def test_too_many_rejects_are_listed_and_nothing_else_is_written(headstart, tmp_path: Path) -> None:
    broken = {f"cat/broken{number}.jpg": b"broken" for number in range(60)}
    source = write_folder(tmp_path / "s", {**LAYOUTS["class folders"], **broken})
    line = headstart.error("prepare", source, tmp_path / "data")
    assert "60 of 100 images can't be used, over --max-rejects 0.05: " in line
    assert len((tmp_path / "data" / "rejects.csv").read_text().splitlines()) == 61
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["rejects.csv"]
    assert headstart("prepare", source, tmp_path / "data", "--max-rejects=0.6")["rejected"] == 60
    assert "--max-rejects must be" in headstart.error("prepare", source, tmp_path / "x", "--max-rejects=2", code=2)


def test_a_given_test_split_may_lack_a_class_and_this_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = {f"train/{label}/{n}.png": picture(100 * at + n) for at, label in enumerate("ab") for n in range(20)}
    source = write_folder(tmp_path / "s", content | {f"test/a/{n}.png": picture(900 + n) for n in range(5)})
    result = prepare(source, tmp_path / "data", HALVES)
    assert (result.train, result.val, result.test) == (28, 12, 5)
    assert "1 classes have no images in test: b" in capfd.readouterr().err


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    (source / "fox").mkdir()
    (source / "fox" / ".DS_Store").write_bytes(b"x")
    with pytest.raises(DataError, match=r"'fox' \(0 images\) has none in train"):
        prepare(source, tmp_path / "data", HALVES)
    assert not (tmp_path / "data").exists()


def test_links_in_the_data_folder_lead_nothing_out_of_it(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    (tmp_path / "out").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to("../out")
    with pytest.raises(DataError, match="a link to a folder; images would be written outside"):
        prepare(source, tmp_path / "data", HALVES)
    assert not list((tmp_path / "out").iterdir())


def test_sources_that_are_no_files_are_refused_and_links_to_themselves_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        prepare(tmp_path / "pipe", tmp_path / "data", HALVES)
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    (source / "self").symlink_to("self")
    assert sum(prepare(source, tmp_path / "data", HALVES).fields()[split] for split in ("train", "val", "test")) == 40


def test_a_row_of_a_list_that_is_no_image_is_a_reject(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"] | {"notes": b"no image"})
    rows = [(str(path.relative_to(source)), path.parent.name) for path in sorted(source.glob("*/*.png"))]
    result = prepare(manifest(source, [*rows, ("notes", "cat")]), tmp_path / "data", HALVES)
    assert result.rejected == 1
    assert "notes,not-an-image" in (tmp_path / "data" / "rejects.csv").read_text()


def test_a_zip_whose_directory_is_cut_short_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "s.zip", LAYOUTS["class folders"])
    data = bytearray(source.read_bytes())
    at = -1
    for _ in range(20):
        at = data.index(b"PK\1\2", at + 1)
    data[at + 32 : at + 34] = (60_000).to_bytes(2, "little")  # the length of this entry's comment
    source.write_bytes(data)
    with pytest.raises(DataError, match=r"a damaged zip \(\d+ of 40 entries can be read\)|damaged zip"):
        prepare(source, tmp_path / "data", HALVES)


def test_a_folder_that_another_process_fills_is_left_to_it(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    with claimed(tmp_path / "a" / "data"), pytest.raises(DataError, match="another `headstart prepare` fills it"):
        prepare(source, tmp_path / "a" / "data", HALVES)
    assert not (tmp_path / "a").exists()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    for data in (tmp_path / "dangling", tmp_path / "file" / "data"):
        with pytest.raises(DataError, match="can't be made a folder"):
            prepare(source, data, HALVES)
