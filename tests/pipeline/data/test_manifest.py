"""Lists of images as data, and labels from names."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Scan, scan
from headstart.pipeline.data.manifest import read_manifest
from headstart.pipeline.prepare.prepare import prepare
from headstart.tests.conftest import SMALL_FLAGS
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty images `photos/train/NUMBER.png`, without classes."""
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    for number in range(30):
        Image.new("RGB", (40, 40), (number, 100, 7)).save(folder / f"{number}.png")
    return folder.parent


def breed(number: int) -> str:
    return ("pug", "boxer", "afghan hound")[number % 3]


def listed(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def labels(found: Scan) -> Counter[str]:
    return Counter(found.class_names[example.label] for example in found.examples)


EXPECTED = {"pug": 10, "boxer": 10, "afghan hound": 10}
ROWS = [f"train/{number}.png,{breed(number)}" for number in range(30)]


def test_a_list_is_data(photos: Path) -> None:
    found = scan(listed(photos / "labels.csv", "path,label\n" + "\n".join(ROWS)))
    assert labels(found) == EXPECTED
    assert {(label, split) for label in range(3) for split in ("train", "val", "test")} == {
        (example.label, example.split) for example in found.examples
    }
    assert found.reading[0].endswith("labels.csv: a list of 30 images in 3 classes")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.tsv", "path\tlabel\n" + "\n".join(row.replace(",", "\t") for row in ROWS)),
        ("x.csv", "\ufeffpath;label\r\n" + "\r\n".join(row.replace(",", ";") for row in ROWS)),
        ("x.jsonl", "\n".join(json.dumps(dict(zip(("path", "label"), row.split(","), strict=True))) for row in ROWS)),
    ],
)
def test_kinds_of_lists(photos: Path, name: str, text: str) -> None:
    assert labels(scan(listed(photos / name, text))) == EXPECTED


def test_parquet(photos: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    paths, names = zip(*(row.split(",") for row in ROWS), strict=True)
    parquet.write_table(pyarrow.table({"path": list(paths), "label": list(names)}), photos / "x.parquet")
    assert labels(scan(photos / "x.parquet")) == EXPECTED
    (photos / "y.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"y\.parquet: can't be read as Parquet"):
        scan(photos / "y.parquet")


def test_kaggles_ids_and_breeds(photos: Path) -> None:
    rows = "\n".join(f"{number},{breed(number)}" for number in range(30))
    file = listed(photos / "labels.csv", f"id,breed\n{rows}\n")
    config = DataConfig(path_format="train/{id}.png", label_column="breed")
    assert labels(scan(file, config=config)) == EXPECTED
    with pytest.raises(DataError, match="no column path, label; it has id, breed"):
        scan(file)


def test_splits_and_groups_of_a_list(photos: Path) -> None:
    rows = [f"{row},{'Testing' if number < 6 else 'train'},g{number // 2}" for number, row in enumerate(ROWS)]
    found = scan(listed(photos / "x.csv", "path,label,split,group\n" + "\n".join(rows)))
    counts = Counter(example.split for example in found.examples)
    assert counts["test"] == 6
    assert counts["val"] > 0
    splits = {}
    for example in found.examples:
        assert splits.setdefault(example.group, example.split) == example.split
    again = scan(photos / "x.csv", config=DataConfig(resplit=True))
    assert any("dissolved" in line for line in again.reading)


def test_rows_without_files_and_files_without_rows_are_counted_and_named(photos: Path) -> None:
    found = scan(listed(photos / "x.csv", "path,label\ntrain/gone.png,pug\n" + "\n".join(ROWS[3:])))
    assert [(Path(reject.path).name, reject.reason) for reject in found.rejects] == [("gone.png", "vanished")]
    assert found.ignored_kinds == {"without a row": 3}
    assert any("3 images beside them have no row" in line and "train/0.png" in line for line in found.reading)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column path, label; it has none"),
        ("path,label\n", "has no rows"),
        ("file,label\na.png,x\n", "no column path; it has file, label"),
        ("path,label\ntrain/0.png,\n", "row 1: label is empty for train/0.png"),
        ("path,label\n,x\n", "row 1: path is empty"),
        ("path,label\n../secret.png,x\n", "row 1: ../secret.png leads out of the list's folder"),
        ("path,label\n/etc/passwd,x\n", "leads out of"),
        ("path,label\na/../../b.png,x\n", "leads out of"),
        ("path,label\ntrain/0.png,pug\ntrain/./0.png,boxer\n", "row 2: train/0.png is 'boxer' , and was 'pug'"),
        ("path,label,split\ntrain/0.png,pug,elsewhere\n", "split is 'elsewhere'; expected train, val or test"),
        ("path,label\na.png,x,more\n", "row 1: has more fields than the header"),
        ('path,label\n"' + "x" * 200_000 + '",y\n', "can't be read as CSV"),
    ],
)
def test_bad_lists_are_told_in_one_line(photos: Path, text: str, said: str) -> None:
    with pytest.raises(DataError) as refused:
        scan(listed(photos / "x.csv", text))
    assert said in str(refused.value)
    assert str(photos / "x.csv") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_encodings_and_broken_json(photos: Path) -> None:
    file = photos / "x.csv"
    file.write_bytes("path,label\ntrain/0.png,caf\u00e9\ntrain/1.png,tea\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not utf-8 .*in position 26.*; say with --encoding"):
        scan(file)
    assert scan(file, config=DataConfig(encoding="latin-1")).class_names == ["caf\u00e9", "tea"]
    with pytest.raises(OptionError, match="--encoding nonsense"):
        scan(file, config=DataConfig(encoding="nonsense"))
    with pytest.raises(DataError, match="row 2: not JSON"):
        scan(listed(photos / "x.jsonl", '{"path": "train/0.png", "label": 1}\n{"path":\n'))
    with pytest.raises(DataError, match="row 1: expected a JSON object"):
        scan(listed(photos / "y.jsonl", "[1]\n"))


def test_a_list_may_name_files_elsewhere_if_asked(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    rows = "\n".join(f"../photos/{row}" for row in ROWS)
    file = listed(tmp_path / "lists" / "x.csv", f"path,label\n{rows}")
    assert labels(scan(file, config=DataConfig(allow_outside=True))) == EXPECTED


def test_labels_from_names(photos: Path) -> None:
    for number in range(30):
        os.rename(photos / "train" / f"{number}.png", photos / "train" / f"{breed(number)}_{number}.png")
    with pytest.raises(DataError, match=r"may hold 3 classes .*--label-from"):
        scan(photos)
    pattern = r"(?P<label>.+)_\d+\.png"
    assert labels(scan(photos, config=DataConfig(label_from=pattern))) == EXPECTED
    with pytest.raises(DataError, match="finds no label in the names of 20 of 30 images"):
        scan(photos, config=DataConfig(label_from=r"(?P<label>pug)_\d+\.png"))
    with pytest.raises(OptionError, match=r"--label-from must have a group"):
        DataConfig(label_from=".*")
    with pytest.raises(OptionError, match="not a regular expression"):
        DataConfig(label_from="(?P<label>")
    with pytest.raises(OptionError, match="leave --classes and --layout out"):
        DataConfig(label_from=pattern, classes="pug")


def test_groups_from_paths(photos: Path) -> None:
    rows = "\n".join(ROWS)
    file = listed(photos / "x.csv", f"path,label\n{rows}")
    found = scan(file, config=DataConfig(group=r"/(\d)"))
    splits: dict[str | None, str] = {}
    for example in found.examples:
        assert splits.setdefault(example.group, example.split) == example.split
    assert any("9 groups by --group" in line or "10 groups by --group" in line for line in found.reading)
    with pytest.raises(DataError, match="--group patient matches no path"):
        scan(file, config=DataConfig(group="patient"))


@pytest.mark.slow
def test_features_need_no_labels_and_heads_do(photos: Path, tmp_path: Path, headstart) -> None:
    flags = (*SMALL_FLAGS, f"--store={tmp_path / 's'}")
    done = headstart("features", photos, *flags)
    assert (done["examples"], done["extracted"]) == (30, 30)
    assert "no class folders" in headstart.error("head", photos, *flags, f"--run={tmp_path / 'r'}")
    file = listed(photos / "x.csv", "path,label\n" + "\n".join(ROWS))
    headstart("head", file, *flags, f"--run={tmp_path / 'r'}", "--units=none", "--epochs=1")
    assert headstart("evaluate", tmp_path / "r")["n"] == 3


def test_prepare_takes_lists(photos: Path, tmp_path: Path) -> None:
    result = prepare(listed(photos / "x.csv", "path,label\n" + "\n".join(ROWS)), tmp_path / "data")
    assert (result.train, result.val, result.test) == (24, 3, 3)
    assert {folder.name for folder in (tmp_path / "data" / "train").iterdir()} == set(EXPECTED)


def test_settings_that_mean_nothing_for_the_data_are_refused(photos: Path, tmp_path: Path) -> None:
    file = listed(photos / "x.csv", "path,label\n" + "\n".join(ROWS))
    for config in (DataConfig(classes="pug"), DataConfig(layout="outer"), DataConfig(layout="v1")):
        with pytest.raises(OptionError, match="means nothing for a list of images"):
            scan(file, config=config)
    with pytest.raises(OptionError, match="--label-column: means nothing for a folder"):
        scan(photos, config=DataConfig(label_column="breed"))
    with pytest.raises(OptionError, match="near-duplicates: is for `headstart prepare`"):
        scan(file, config=DataConfig(group="near-duplicates"))
    assert DataConfig(label_column="breed", classes="a").fitted("folder") == DataConfig(classes="a")


def test_rows_without_a_label_are_taken_where_labels_are_not_needed(photos: Path) -> None:
    rows = [*ROWS[:-2], ROWS[-2].partition(",")[0] + ",", ROWS[-1].partition(",")[0] + ","]
    file = listed(photos / "x.csv", "path,label\n" + "\n".join(rows))
    with pytest.raises(DataError, match="label is empty"):
        scan(file)
    found = scan(file, labelled=False)
    assert sum(example.label == -1 for example in found.examples) == 2
    assert len(found.examples) == len(ROWS)
    bare = listed(photos / "y.csv", "path\n" + "\n".join(row.partition(",")[0] for row in ROWS))
    assert {example.label for example in scan(bare, labelled=False).examples} == {-1}


def test_a_pattern_that_misses_a_row_leaves_it_out(photos: Path) -> None:
    for number in range(30):
        os.rename(photos / "train" / f"{number}.png", photos / "train" / f"{breed(number)}_{number}.png")
    names = [f"train/{breed(number)}_{number}.png" for number in range(30)]
    (photos / "train" / "other.png").write_bytes((photos / names[0]).read_bytes() + b"x")
    file = listed(photos / "x.csv", "path\n" + "\n".join([*names, "train/other.png"]))
    found = scan(file, config=DataConfig(label_from=r"(?P<label>.+)_\d+\.png"))
    assert len(found.examples) == 30
    assert min(example.label for example in found.examples) == 0
    assert found.ignored_kinds["without a label"] == 1


def test_a_row_that_is_no_image_is_a_reject(photos: Path) -> None:
    (photos / "notes").write_text("no image")
    file = listed(photos / "x.csv", "path,label\n" + "\n".join([*ROWS, "notes,pug", "absent,pug"]))
    assert {reject.path: reject.reason for reject in scan(file).rejects} == {
        str(photos / "notes"): "not-an-image",
        str(photos / "absent"): "vanished",
    }


def test_a_list_of_training_images_alone_is_not_split_yet(photos: Path) -> None:
    file = listed(photos / "x.csv", "path,label,split\n" + "\n".join(f"{row},train" for row in ROWS))
    found = scan(file)
    assert {example.split for example in found.examples} == {"train", "val", "test"}
    assert any("not split yet" in line for line in found.reading)


def test_labels_that_differ_in_unicode_form_are_one_class(photos: Path) -> None:
    labels_ = ["Caf\u00e9", "Cafe\u0301", "tea"]
    rows = [f"{row.partition(',')[0]},{labels_[number % 3]}" for number, row in enumerate(ROWS)]
    assert len(scan(listed(photos / "x.csv", "path,label\n" + "\n".join(rows))).class_names) == 2


def test_an_encoding_without_its_mark_and_a_pattern_on_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "x.csv").write_bytes("path,label".encode("utf-16-le"))
    with pytest.raises(DataError, match="not utf-16"):
        scan(photos / "x.csv", config=DataConfig(encoding="utf-16"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        scan(tmp_path / "empty", config=DataConfig(group="x"), labelled=False)


def test_absolute_paths_within_the_folder_are_taken_and_odd_ones_refused(photos: Path) -> None:
    rows = [f"{photos}/{row}" for row in ROWS]
    assert labels(scan(listed(photos / "x.csv", "path,label\n" + "\n".join(rows)))) == EXPECTED
    for name, said in (("\\ud800.png", "can't be the path of a file"), ("x\\u0000.png", "it has a zero byte")):
        with pytest.raises(DataError, match=said):
            scan(listed(photos / "y.jsonl", f'{{"path": "{name}", "label": "a"}}\n'))


@pytest.mark.parametrize(
    "text", [r"\ud800", r"\udfff", r"\udcc3\udca9"]
)  # UTF-8 holds the last one, but as another letter
@pytest.mark.parametrize("column", ["label", "group"])
def test_labels_and_groups_that_no_file_can_hold_are_refused(photos: Path, column: str, text: str) -> None:
    row = {"path": "train/0.png", "label": "a", "group": "b"} | {column: json.loads(f'"{text}"')}
    with pytest.raises(DataError, match=f"row 1: {column} .* can't be written in UTF-8"):
        scan(listed(photos / "y.jsonl", json.dumps(row) + "\n"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.csv", "path,path,label\ntrain/0.png,train/1.png,a\n", "two columns path"),
        ("x.jsonl", '{"path": "train/0.png", "label": "a", "label": "b"}\n', "a key stands twice"),
        ("x.csv", 'path,label\ntrain/0.png,"a\ntrain/1.png,b\n', "can't be read as CSV"),
    ],
)
def test_lists_that_could_be_read_in_two_ways_are_refused(photos: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        scan(listed(photos / name, text))


def test_a_pattern_too_large_to_compile_is_refused() -> None:
    with pytest.raises(OptionError, match="not a regular expression"):
        DataConfig(group="a{99999999999}")


@pytest.mark.parametrize(
    "url", ["http://me:secret@host/x.jpg", "s3://me:secret@bucket/x.jpg", "ftp://me:secret@host/x"]
)
def test_a_password_in_a_url_is_not_told_again(tmp_path: Path, url: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"path,label\n{url},cat\n")
    with pytest.raises(DataError, match="row 1") as found:
        read_manifest(file, DataConfig())
    assert "secret" not in str(found.value)
