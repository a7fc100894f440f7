import builtins
import gzip
import io
import json
import os
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, get_ident
from typing import Any

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.features.images.files.paths import member_at
from headstart.features.images.files.reading import read_references, reference_of
from headstart.features.images.scan_memory import ScanMemory
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Scan, scan
from headstart.pipeline.data.reading import read_data
from headstart.pipeline.data.tars import samples
from headstart.pipeline.data.tars.naming import kind_of, tars_of
from headstart.pipeline.featured import cache_features
from headstart.pipeline.labels.apply import apply
from headstart.pipeline.prepare.prepare import prepare
from headstart.tests.conftest import QUICK, SMALL, SMALL_FLAGS, Cli


def write_tar(tar: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as writing:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                writing.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            writing.addfile(info, io.BytesIO(content))
    return tar


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.fixture
def photos(drawn: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(drawn.glob("*/*.jpg")) if "broken" not in path.name]


def labels_of(scanned: Scan) -> dict[str, str]:
    """The class of each example, by its name in the tar."""
    found = {}
    for example in scanned.examples:
        member = member_at(example.image.path)
        assert member
        found[member.name] = scanned.class_names[example.label]
    return found


def test_classes_are_in_cls_files(photos: list[bytes], tmp_path: Path) -> None:
    files = {"./a.jpg": photos[0], "./a.cls": b"0\n", "./b.cls": b"10", "./b.seg.png": photos[1], "./b.jpg": photos[2]}
    tar = write_tar(tmp_path / "x.tar", {**files, "./c.jpg": photos[3], "./c.txt": b"a caption"})
    scanned = scan(tar)
    assert labels_of(scanned) == {"a.jpg": "0", "b.seg.png": "10", "b.jpg": "10"}
    assert [example.group for example in scanned.examples] == [None, f"{tar}/b", f"{tar}/b"]
    assert scanned.ignored_kinds == {"no image": 3, "without a label": 1}
    assert scanned.reading[0] == f"{tar}: a tar of 4 images in 2 classes, by .cls and .json"


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"label": "cat", "width": 3}, "cat"),
        ({"class": 7}, "7"),
        ({"class_name": "dog", "class": "dog"}, "dog"),
        (3, "3"),
    ],
)
def test_classes_are_in_json(row: object, label: str, photos: list[bytes], tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": photos[0], "a.json": json.dumps(row).encode()})
    assert labels_of(scan(tar)) == {"a.jpg": label}


def test_of_several_labels_one_is_named(photos: list[bytes], tmp_path: Path) -> None:
    row = json.dumps({"label": 3, "class_name": "cat", "kind": "pet"}).encode()
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": photos[0], "a.json": row})
    with pytest.raises(DataError, match=r"x.tar/a.json: has label and class_name; say with --label-column"):
        scan(tar)
    assert labels_of(scan(tar, config=DataConfig(label_column="kind"))) == {"a.jpg": "pet"}
    assert scan(tar, labelled=False, config=DataConfig(layout="none")).class_names == []
    both = write_tar(tmp_path / "y.tar", {"a.jpg": photos[0], "a.json": row, "a.cls": b"5"})
    assert labels_of(scan(both)) == {"a.jpg": "5"}
    assert labels_of(scan(both, config=DataConfig(label_column="class_name"))) == {"a.jpg": "cat"}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.cls", b"", "expected the number or name of a class"),
        ("a.cls", b"\xff\xfe", "not in UTF-8"),
        ("a.cls", b"x" * 5000, "too many for a label"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b'{"label": [1]}', "must be the number or name"),
        ("a.json", rb'{"label": "\ud800"}', r"must be the number or name of a class. Received: '\\ud800'"),
        ("a.json", b'{"label": "cat", "label": "dog"}', "a key stands twice"),
    ],
)
def test_a_label_that_can_not_be_read_is_told(
    name: str, content: bytes, why: str, photos: list[bytes], tmp_path: Path
) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": photos[0], name: content})
    with pytest.raises(DataError, match=why) as told:
        scan(tar)
    assert str(told.value).startswith(f"{tar}/{name}: ")


@pytest.mark.parametrize("names", ["a.jpg a.cls a.jpg a.cls", "a.jpg a.cls a.CLS", "a.jpg b.jpg b.cls a.cls a.jpg"])
def test_a_file_that_is_twice_in_a_tar_gives_no_image_the_label_of_another(
    names: str, photos: list[bytes], tmp_path: Path
) -> None:
    tar = tmp_path / "x.tar"
    for number, name in enumerate(names.split()):
        content = photos[number] if name.endswith("jpg") else b"class %d" % number
        with tarfile.open(tar, "a") as writing:  # as `tar -r` does
            info = tarfile.TarInfo(name)
            info.size = len(content)
            writing.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"has a.\w+ twice, so labels are not clear"):
        scan(tar)
    assert len(scan(tar, labelled=False, config=DataConfig(layout="none")).examples) == names.count("jpg")


def test_bytes_of_a_damaged_tar_are_shown_in_part(photos: list[bytes], tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = len(photos[0])
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as writing:
        writing.addfile(info, io.BytesIO(photos[0]))
    with pytest.raises(DataError, match=r"damaged tar \(invalid literal") as told:
        scan(tmp_path / "x.tar")
    assert len(str(told.value)) < len(f"{tmp_path}/x.tar") + 160


def test_a_field_that_is_named_must_be_there(photos: list[bytes], tmp_path: Path) -> None:
    row = json.dumps({"label": 3, "class_name": "cat"}).encode()
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": photos[0], "a.json": row, "a.cls": b"5"})
    assert labels_of(scan(tar, config=DataConfig(label_column="label"))) == {"a.jpg": "3"}
    with pytest.raises(
        DataError, match=r"--label-column lable: no key.json has this field; there are class_name, label"
    ):
        scan(tar, config=DataConfig(label_column="lable"))
    plain = write_tar(tmp_path / "y.tar", {"a.jpg": photos[0], "a.cls": b"5"})
    with pytest.raises(DataError, match=r"--label-column lable: no key.json has this field; there are none"):
        scan(plain, config=DataConfig(label_column="lable"))


def test_clutter_in_tars_is_no_data(photos: list[bytes], tmp_path: Path) -> None:
    files = {"a.jpg": photos[0], "a.cls": b"1", "._a.jpg": b"x", "._a.cls": b"", ".thumbs/a.jpg": photos[1]}
    scanned = scan(write_tar(tmp_path / "x.tar", {**files, "__MACOSX/a.jpg": photos[2]}))
    assert labels_of(scanned) == {"a.jpg": "1"}
    assert not scanned.rejects
    assert scanned.ignored_kinds == {"system files": 3, "hidden": 1, "no image": 1}


def test_splits_are_in_the_names_of_tars(photos: list[bytes], tmp_path: Path) -> None:
    for number, name in enumerate(("train-0000", "train-0001", "data_val-0000", "test/0000")):
        write_tar(tmp_path / "shards" / f"{name}.tar", {"a.jpg": photos[number], "a.cls": b"cat"})
    scanned = scan(tmp_path / "shards")
    assert [example.split for example in scanned.examples] == ["val", "test", "train", "train"]
    assert f"{tmp_path / 'shards'}: tars by their names: 2 of train, 1 of val, 1 of test" in scanned.reading
    pattern = tmp_path / "shards" / "train-{0000..0001}.tar"
    assert [Path(tar).name for tar in tars_of(pattern).paths] == ["train-0000.tar", "train-0001.tar"]
    assert "all tars are of train, so their images count as not split yet" in scan(pattern).reading[1]
    write_tar(tmp_path / "shards" / "extra.tar", {"a.jpg": photos[5], "a.cls": b"cat"})
    with pytest.raises(DataError, match=r"extra.tar names no split, and others do \(test, train, val\)"):
        scan(tmp_path / "shards")
    assert len(scan(tmp_path / "shards", config=DataConfig(resplit=True)).examples) == 5


@pytest.mark.parametrize(
    "pattern", ["{train,val}/{0..1}.tar", "{train,val}/a/{0..1}.tar", "{train_,data-val}{0..1}.tar"]
)
def test_a_pattern_gives_the_splits_of_its_folder(pattern: str, photos: list[bytes], tmp_path: Path) -> None:
    data = tmp_path / "test" / pattern  # `test` lies before the braces
    words = pattern.partition("}")[0][1:].split(",")
    for number, photo in zip((0, 1), photos, strict=False):
        for word in words:
            name = pattern.replace(pattern.partition("}")[0] + "}", word).replace("{0..1}", str(number))
            write_tar(tmp_path / "test" / name, {f"{word}.jpg": photo, f"{word}.cls": b"cat"})
    splits = {example.image.path.rpartition("#")[0]: example.split for example in scan(data).examples}
    assert set(splits.values()) == {"train", "val"}
    assert splits == {one.image.path.rpartition("#")[0]: one.split for one in scan(tmp_path / "test").examples}


def test_patterns_stand_for_tars_that_must_exist(photos: list[bytes], tmp_path: Path) -> None:
    for name in ("a-8", "a-9", "a-10", "b-8"):
        write_tar(tmp_path / f"{name}.tar", {"x.jpg": photos[0], "x.cls": b"1"})
    assert [Path(tar).name for tar in tars_of(tmp_path / "a-{8..10}.tar").paths] == ["a-8.tar", "a-9.tar", "a-10.tar"]
    assert [Path(tar).name for tar in tars_of(tmp_path / "{a,b}-8.tar").paths] == ["a-8.tar", "b-8.tar"]
    with pytest.raises(DataError, match=r"there is no .*a-11.tar"):
        read_data(tmp_path / "a-{10..11}.tar", DataConfig())
    with pytest.raises(DataError, match="no such folder"):
        read_data(tmp_path / "c-{10..11}.tar", DataConfig())
    with pytest.raises(DataError, match=r"a-\{9..8\}.tar: \{9..8\} runs backwards; write the smaller number first"):
        read_data(tmp_path / "a-{9..8}.tar", DataConfig())


def test_class_folders_in_a_tar_are_read_as_in_a_folder(photos: list[bytes], tmp_path: Path) -> None:
    names = [
        f"{split}/{label}/{split}{number}.jpg" for split in ("train", "val") for label in "ab" for number in range(2)
    ]
    tar = write_tar(tmp_path / "x.tar", dict(zip(names, photos, strict=False)))
    scanned = scan(tar)
    assert labels_of(scanned) == {name: name.split("/")[1] for name in names}
    assert {example.split for example in scanned.examples} == {"train", "val"}
    flat = write_tar(tmp_path / "y.tar", {"a_x.jpg": photos[0], "b_x.jpg": photos[1]})
    with pytest.raises(DataError, match=r"no label in a key.cls or key.json .*, and none in names: .*--label-from"):
        scan(flat)
    assert labels_of(scan(flat, config=DataConfig(label_from=r"(?P<label>\w)_.*"))) == {"a_x.jpg": "a", "b_x.jpg": "b"}
    assert len(scan(flat, labelled=False).examples) == 2


def test_links_and_names_that_lead_out_are_rejects(photos: list[bytes], tmp_path: Path) -> None:
    files = {
        "a.jpg": photos[0],
        "a.cls": b"1",
        "../b.jpg": photos[1],
        "link.jpg": link("link.jpg", "/etc/passwd"),
        "c.jpg": b"",
        "c.cls": b"1",
    }
    scanned = scan(write_tar(tmp_path / "x.tar", files))
    assert len(scanned.examples) == 1
    found = {reject.path.rpartition("x.tar/")[2].partition("#")[0]: reject.detail for reject in scanned.rejects}
    assert found == {"../b.jpg": "a path out of the archive", "link.jpg": "a link or device", "c.jpg": "0 bytes"}
    assert not (tmp_path / "b.jpg").exists()


def test_a_tar_that_is_cut_off_is_named(photos: list[bytes], tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "s" / "b.tar", {"a.jpg": photos[0], "a.cls": b"1", "b.jpg": photos[1]})
    write_tar(tmp_path / "s" / "a.tar", {"a.jpg": photos[0], "a.cls": b"1"})
    content = tar.read_bytes()
    for size in (len(photos[0]) + 700, len(photos[0]) // 2, 100, 0):
        tar.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"b.tar: ") as told:
            scan(tmp_path / "s")
        assert "\n" not in str(told.value)


def test_what_is_no_tar_of_samples_is_told(photos: list[bytes], tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": photos[0], "a.cls": b"1"})
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(DataError, match=r"a compressed tar; decompress it, or `headstart prepare` it"):
        read_data(packed, DataConfig())
    (tmp_path / "y.tar").write_bytes(packed.read_bytes())
    with pytest.raises(DataError, match=r"y.tar: no plain tar \(gzip\)"):
        read_data(tmp_path / "y.tar", DataConfig())
    with pytest.raises(OptionError, match=r"DATA s3:/bucket/x.tar: is a URL"):
        read_data(Path("s3://bucket/x.tar"), DataConfig())
    with pytest.raises(OptionError, match=r"--path-column: means nothing for a tar of samples"):
        read_data(tar, DataConfig(path_column="file"))
    with pytest.raises(DataError, match=r"x.tar: holds samples, .*; without `prepare`, name the tars as DATA"):
        prepare(tar, tmp_path / "data")
    with pytest.raises(OptionError, match=r"--apply .*: labels in tars, as in .*x.tar, are not changed"):
        apply(tar, tmp_path / "labels.csv")
    nested = write_tar(tmp_path / "z.tar" / "x.tar", {"a.jpg": photos[0], "a.cls": b"1"})
    with pytest.raises(DataError, match="called like a tar; rename the folder"):
        read_data(nested, DataConfig())


def test_a_folder_with_images_is_no_folder_of_tars(photos: list[bytes], tmp_path: Path) -> None:
    write_tar(tmp_path / "s" / "backup.tar", {"a.jpg": photos[0], "a.cls": b"1"})
    assert kind_of(tmp_path / "s") == "tars"
    (tmp_path / "s" / "cat").mkdir()
    (tmp_path / "s" / "cat" / "1.jpg").write_bytes(photos[0])
    assert kind_of(tmp_path / "s") == "folder"


def test_what_lies_beside_tars_is_counted_or_refused(photos: list[bytes], tmp_path: Path) -> None:
    folder = tmp_path / "s"
    tar = write_tar(folder / "a.tar", {"a.jpg": photos[0], "a.cls": b"1"})
    (folder / "a.idx").write_bytes(b"0 1\n")
    (folder / ".DS_Store").write_bytes(b"x")
    assert scan(folder).ignored_kinds == {"beside tars": 1, "system files": 1, "no image": 1}
    for name, why in (
        ("b.tar.gz", r"b.tar.gz: a compressed tar; decompress it"),
        ("B.TAR", r"B.TAR: must end in .tar, in small letters; rename it"),
    ):
        (folder / name).write_bytes(tar.read_bytes())
        with pytest.raises(DataError, match=why):
            scan(folder)
        with pytest.raises(DataError, match=why):
            scan(folder / name)
        (folder / name).unlink()
    tar.rename(folder / "a.tgz")
    with pytest.raises(DataError, match=r"a.tgz: a compressed tar"):
        scan(folder)


@pytest.mark.parametrize("linked", [True, False])
def test_a_tar_beside_pictures_is_told(linked: bool, photos: list[bytes], tmp_path: Path) -> None:
    folder = tmp_path / "s"
    write_tar(folder / "backup.tar", {"a.jpg": photos[0], "a.cls": b"1"})
    for number, label in enumerate("ab"):
        (tmp_path / label).mkdir()
        # a picture without a suffix is one by its content
        (tmp_path / label / ("1.jpg" if linked else "1")).write_bytes(photos[number])
        if linked:
            (folder / label).symlink_to(tmp_path / label)
        else:
            (tmp_path / label).rename(folder / label)
    assert kind_of(folder) == "folder"
    if not linked:
        with pytest.raises(
            DataError, match=r"1 images lie beside these folders.*; .*: tars beside images are not read"
        ):
            scan(folder)
    scanned = scan(folder, config=DataConfig(layout="outer"))
    assert len(scanned.examples) == 2
    assert f"{folder}: tars beside images are not read; there are 1, backup.tar the first" in scanned.reading
    assert scanned.ignored_kinds == {"outside classes": 1}
    for label in "ab":
        (folder / label).rename(tmp_path / f"{label}-moved")
    (folder / "x.jpg").write_bytes(photos[2])
    with pytest.raises(DataError, match=r"no class folders; .*; .*: tars beside images are not read"):
        scan(folder)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a tar was opened or looked at, and how often anything was read from a tar."""
    seen = Counter[str]()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(first: Any, *others: Any, **options: Any) -> Any:
            seen[name] += name == "pread" or str(first).endswith(".tar")
            return call(first, *others, **options)

        return calling

    for name in ("open", "stat", "pread"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    monkeypatch.setattr(builtins, "open", counted("open", open))
    return seen


def test_a_tar_is_opened_once_for_many_members(photos: list[bytes], tmp_path: Path, calls: Counter[str]) -> None:
    samples = {
        f"{at}.{kind}": content
        for at, photo in enumerate(photos[:32])
        for kind, content in (("cls", b"1"), ("jpg", photo))
    }
    tar = write_tar(tmp_path / "x.tar", samples)
    os.utime(tar, (1e9, 1e9))
    calls.clear()
    first = scan(tar, memory=ScanMemory(tmp_path / "scans", tar))
    assert calls["open"] == 2  # to list the files, and to read the images
    assert calls["pread"] <= 2 * 32 + 8  # of a sample: its headers with its label, and its image
    known = calls.copy()
    calls.clear()
    assert scan(tar, memory=ScanMemory(tmp_path / "scans", tar)).examples == first.examples
    assert (calls["open"], calls["pread"]) == (1, known["pread"] - 32)
    assert calls["stat"] < 16
    calls.clear()
    references = np.array([reference_of(one.image) for one in first.examples], object)
    assert read_references(references).tolist() == photos[:32]
    assert dict(calls) == {"open": 1, "pread": 32}


def test_several_tars_of_a_far_disk_are_listed_at_once(
    photos: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, photo in enumerate(photos[:8]):
        write_tar(tmp_path / "s" / f"{number}.tar", {f"{number}.cls": b"1", f"{number}.jpg": photo})
    near, readers, pread = read_data(tmp_path / "s", DataConfig()), set[int](), os.pread

    def far(*arguments: int) -> bytes:
        readers.add(get_ident())
        time.sleep(0.005)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", far)
    assert read_data(tmp_path / "s", DataConfig()) == near
    assert len(readers) > 2


def test_a_tar_that_is_replaced_is_read_anew(photos: list[bytes], tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.cls": b"1", "a.jpg": photos[0]})
    before = len(os.listdir("/proc/self/fd"))
    old = scan(tar).examples[0].image
    write_tar(tmp_path / "y.tar", {"a.cls": b"2", "a.jpg": photos[1]}).rename(tar)
    new = scan(tar)
    assert new.class_names == ["2"]
    assert new.examples[0].image.digest != old.digest
    assert read_references(np.array([reference_of(new.examples[0].image)], object)).tolist() == [photos[1]]
    assert not old.is_unchanged()
    until = time.monotonic() + 10  # a thread may still hold the last tar for a moment
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.slow
def test_features_of_tars_and_of_files_are_equal_to_the_bit(tmp_path: Path) -> None:
    from headstart.pipeline.demo.drawing import draw_demo

    draw_demo(tmp_path / "drawn", 200, seed=5)
    files = [path for path in sorted((tmp_path / "drawn").glob("*/*.jpg")) if "broken" not in path.name]
    for path in (tmp_path / "drawn").glob("*/broken*"):
        path.unlink()
    for number in range(3):
        samples: dict[str, bytes] = {}
        for at, path in enumerate(files[number::3]):
            samples |= {f"{at:06}.jpg": path.read_bytes(), f"{at:06}.cls": path.parent.name.encode()}
        write_tar(tmp_path / "shards" / f"{number:04}.tar", samples)
    config = FeatureConfig(**SMALL)
    of_files = cache_features(tmp_path / "drawn", config, ExtractionConfig(store=tmp_path / "a", **QUICK))
    of_tars = cache_features(tmp_path / "shards", config, ExtractionConfig(store=tmp_path / "b", **QUICK))
    assert of_tars.class_names == ["cat", "dog"]
    assert of_tars.extracted.extracted == of_files.extracted.extracted == 200
    by_digest = {one.image.digest: (one.label, one.split) for one in of_files.examples}
    assert by_digest == {one.image.digest: (one.label, one.split) for one in of_tars.examples}
    assert of_tars.fingerprints() == of_files.fingerprints()
    assert np.array_equal(of_files.features(list(by_digest)), of_tars.features(list(by_digest)))
    again = cache_features(tmp_path / "shards", config, ExtractionConfig(store=tmp_path / "a", **QUICK))
    assert again.extracted.extracted == 0  # members are known by their digests


def test_large_tars_are_left_when_reading_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("first", "damaged", "large")  # the first one is read in the calling thread
    tars = [write_tar(tmp_path / f"{name}.tar", {"a.jpg": b"x", "a.cls": b"0"}) for name in names]
    read, begun, ended = samples.read_tar, Event(), list[bool]()

    def slow(tar: str, *given: Any) -> samples.TarImages:
        if Path(tar).stem == "large":
            begun.set()
            ended.append(given[-1].wait(20))
        if Path(tar).stem == "damaged":
            begun.wait(20)
            raise DataError(f"{tar}: is damaged")
        return read(tar, *given)

    monkeypatch.setattr(samples, "read_tar", slow)
    with pytest.raises(DataError, match="is damaged"):
        samples.read_tars([str(tar) for tar in tars], "", True)
    assert ended == [True]
    stop = Event()
    stop.set()
    with pytest.raises(DataError, match=r"large\.tar: not read to its end"):
        read(str(tars[2]), "", True, stop)


def test_labels_of_a_large_tar_are_left_when_reading_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar, stop = write_tar(tmp_path / "a.tar", {"a.jpg": b"", "a.cls": b"0", "b.jpg": b"", "b.cls": b"0"}), Event()
    monkeypatch.setattr(samples, "_label", lambda *_: stop.set() or "0")
    with pytest.raises(DataError, match=r"a\.tar: not read to its end"):
        samples.read_tar(str(tar), "", True, stop)


def test_tars_without_labels_have_no_likely_label_errors(drawn: Path, tmp_path: Path, headstart: Cli) -> None:
    images = sorted((drawn / "cat").glob("cat*.jpg"))[:3]
    tar = write_tar(tmp_path / "a.tar", {one.name: one.read_bytes() for one in images})
    line = headstart.error("labels", tar, "--layout=none", f"--store={tmp_path / 'store'}", *SMALL_FLAGS)
    assert "a.tar: no classes; expected at least two" in line
