import io
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart import cli
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError
from headstart.features.store.maintain import open_stores
from headstart.features.store.store import FeatureStore
from headstart.pipeline.check import page as check_page
from headstart.pipeline.check.check import check
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.data.copies import same_image
from headstart.pipeline.data.examples import scan
from headstart.pipeline.featured import cache_features
from headstart.pipeline.near_duplicates import near_duplicates
from headstart.tests.browser import require_opens
from headstart.tests.conftest import SMALL_FLAGS, Cli
from PIL import Image
from typer.testing import CliRunner

_STREAM = FeatureStore.stream
SPLITS = {"train": 16, "val": 6, "test": 6}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """`{train,val,test}/{cat,dog}/` of photograph-like images, no two alike."""
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8))
                picture = coarse.resize((90, 80), Image.Resampling.BICUBIC)
                picture.save(tmp_path / "data" / split / name / f"{number}.jpg", quality=95)
    return tmp_path / "data"


@pytest.fixture
def config(tmp_path: Path) -> CheckConfig:
    return CheckConfig(store=tmp_path / "store")


def files(findings: Iterable[dict], data: Path) -> list[set[str]]:
    return [{os.path.relpath(file["path"], data) for file in finding["files"]} for finding in findings]


def plant(data: Path) -> None:
    """Two of each kind of finding."""
    for number in (0, 1):
        for source, target in (
            ("train/cat", f"train/cat/again{number}.jpg"),
            ("val/cat", f"val/dog/conflict{number}.jpg"),
            ("train/dog", f"test/dog/leak{number}.jpg"),
        ):
            shutil.copy(data / source / f"{number}.jpg", data / target)
    whole = (data / "train" / "dog" / "7.jpg").read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "cut": whole[:-300],
        "cut early": whole[:200],
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0",
        "photo of a phone": b"\0\0\0\x0cJXL " + bytes(100),
    }.items():
        (data / "train" / "dog" / f"{name}.jpg").write_bytes(content)
    (data / "train" / "dog" / "notes.txt").write_text("no image")


REASONS = {"empty": 1, "not-an-image": 2, "truncated": 2, "unsupported": 1}
FOUND = {
    "duplicates": [{"train/cat/0.jpg", "train/cat/again0.jpg"}, {"train/cat/1.jpg", "train/cat/again1.jpg"}],
    "conflicts": [{"val/cat/0.jpg", "val/dog/conflict0.jpg"}, {"val/cat/1.jpg", "val/dog/conflict1.jpg"}],
    "leaks": [{"train/dog/0.jpg", "test/dog/leak0.jpg"}, {"train/dog/1.jpg", "test/dog/leak1.jpg"}],
}


def test_a_clean_folder_has_no_findings(data: Path, tmp_path: Path, headstart: Cli) -> None:
    seen = headstart("check", data, "--store", tmp_path / "store")
    assert seen["examples"] == 56
    assert seen["classes"] == dict.fromkeys(("cat", "dog"), SPLITS)
    assert seen["splits"] == {split: 2 * count for split, count in SPLITS.items()}
    assert seen["formats"] == {"JPEG": 56}
    assert seen["sizes"] == {"width": [90, 90, 90], "height": [80, 80, 80]}
    assert seen["imbalance"] == {"largest": 16, "smallest": 16, "ratio": 1}
    assert (seen["rejected"], seen["reasons"], seen["ignored"], seen["rejects"]) == (0, {}, 0, [])
    assert seen["duplicates"] == seen["conflicts"] == seen["leaks"] == seen["tiny"] == []
    assert seen["near_duplicates"] is None
    assert seen["problems"] == []
    assert seen["reading"] == [f"{data}: read as split folders (test/, train/, val/) with 2 classes"]
    assert not (tmp_path / "store").exists()


def test_what_was_planted_is_found_and_nothing_else(data: Path, tmp_path: Path, headstart: Cli) -> None:
    plant(data)
    seen = headstart("check", data, "--store", tmp_path / "store", "--allow")
    assert {kind: files(seen[kind], data) for kind in FOUND} == FOUND
    assert seen["reasons"] == REASONS
    assert (seen["examples"], seen["rejected"], seen["ignored"]) == (62, 6, 1)
    rejected = {Path(reject["path"]).stem: reject["reason"] for reject in seen["rejects"]}
    assert rejected["cut"] == rejected["cut early"] == "truncated"


@pytest.mark.parametrize("kind", ["conflict", "leak"])
def test_conflicts_and_leaks_fail_unless_allowed(data: Path, tmp_path: Path, headstart: Cli, kind: str) -> None:
    target = {"conflict": "train/cat/x.jpg", "leak": "val/dog/x.jpg"}[kind]
    shutil.copy(data / "train" / "dog" / "3.jpg", data / target)
    arguments = ("check", data, "--store", tmp_path / "store")
    code, stdout, stderr = headstart.whole(*arguments)
    assert code == 1
    assert json.loads(stdout)["examples"] == 57
    assert [line for line in stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {data}: 1 images in several {'splits' if kind == 'leak' else 'classes'}; mend this, or --allow it"
    ]
    assert headstart("check", data, "--store", tmp_path / "store", "--allow")["examples"] == 57


def test_a_split_by_hash_never_leaks(data: Path, config: CheckConfig, tmp_path: Path) -> None:
    for split in SPLITS:
        shutil.copytree(data / split, tmp_path / "flat", dirs_exist_ok=True)
    for path in (tmp_path / "flat" / "cat").glob("*.jpg"):
        shutil.copy(path, path.with_stem(f"copy-{path.stem}"))
    result = check(tmp_path / "flat", config)
    assert result.leaks == []
    assert len(result.duplicates) == 16


def test_tiny_images_and_imbalance_are_told(data: Path, tmp_path: Path, headstart: Cli) -> None:
    for path in sorted((data / "train" / "dog").iterdir())[2:]:
        path.unlink()
    Image.new("RGB", (300, 10)).save(data / "train" / "cat" / "thin.png")
    text = headstart.text("check", data, "--store", tmp_path / "store", "--tiny", "11")
    assert "imbalanced: 17 images in train of the largest class, 2 of the smallest" in text
    assert "tiny (a side under 11 pixels): 1\n" in text
    assert "thin.png (train, cat)" in text
    assert "imbalanced" not in headstart.text("check", data, "--store", tmp_path / "store", "--imbalance", "9")


def copies(data: Path) -> dict[str, str]:
    """Copies of training images in val and test, encoded and scaled anew; the copy's path to its original's."""
    made = {}
    for number in range(6):
        source = data / "train" / "cat" / f"{number}.jpg"
        target = data / ("val", "test")[number % 2] / "cat" / f"copy{number}.{('jpg', 'webp')[number // 3]}"
        with Image.open(source) as picture:
            picture.resize((90 + 10 * number, 80 - 5 * number)).save(target, quality=60)
        made[str(target.relative_to(data))] = str(source.relative_to(data))
    return made


@pytest.mark.slow
def test_near_duplicates_are_found_where_there_are_features(
    data: Path, small: FeatureConfig, extraction: ExtractionConfig, headstart: Cli
) -> None:
    planted = copies(data)
    assert headstart("check", data, "--store", extraction.store)["near_duplicates"] is None
    headstart("features", data, "--store", extraction.store, *SMALL_FLAGS)
    assert "6 near-duplicates across splits" in headstart.whole("check", data, "--store", extraction.store)[2]
    seen = headstart("check", data, "--store", extraction.store, "--allow")
    assert seen["features"] == str(open_stores(extraction.store)[0].folder)
    pairs = [[os.path.relpath(file["path"], data) for file in pair["files"]] for pair in seen["near_duplicates"]]
    assert dict(pairs) == planted
    assert all(pair["cosine"] >= seen["similarity"] for pair in seen["near_duplicates"])
    assert all(pair["correlation"] >= seen["correlation"] for pair in seen["near_duplicates"])
    assert headstart("check", data, "--store", extraction.store, "--similarity", "1")["near_duplicates"] == []


@pytest.mark.slow
def test_likeness_does_not_depend_on_how_many_are_compared_at_a_time(
    data: Path, small: FeatureConfig, extraction: ExtractionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies(data)
    (store,) = cache_features(data, small, extraction).stores.values()
    examples = scan(data).examples
    whole = near_duplicates(examples, store, 0.3)
    monkeypatch.setattr("headstart.pipeline.near_duplicates.BLOCK", 32)
    monkeypatch.setattr(type(store), "stream", lambda self, digests: _STREAM(self, digests, None, 4096))
    parts = near_duplicates(examples, store, 0.3)
    assert [(one.image, one.like) for one in parts] == [(one.image, one.like) for one in whole]
    np.testing.assert_allclose([one.cosine for one in parts], [one.cosine for one in whole], rtol=1e-5)


def test_a_store_that_can_not_be_opened_is_told(data: Path, tmp_path: Path, headstart: Cli) -> None:
    folder = tmp_path / "store" / "some-features"
    folder.mkdir(parents=True)
    (folder / "fingerprint.json").write_text("{")
    arguments = ("check", data, "--store", tmp_path / "store", "--allow")
    assert f"left out: {folder}: no features of headstart" in headstart.whole(*arguments)[2]
    assert headstart(*arguments)["features"] is None


def test_what_has_features_is_not_decoded_again(
    data: Path, small: FeatureConfig, extraction: ExtractionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_features(data, small, extraction)
    monkeypatch.setattr(
        "headstart.features.images.batches.decoded_batches", lambda images, *_: iter([]) if not images else 1 / 0
    )
    assert len(check(data, CheckConfig(store=extraction.store, similarity=1)).examples) == 56


def test_the_page_shows_the_findings_and_trusts_no_name(data: Path, tmp_path: Path, headstart: Cli) -> None:
    plant(data)
    wild = data / "train" / "cat" / "<script>alert('x')</script>"[:-9]
    wild.mkdir()
    shutil.copy(data / "train" / "cat" / "5.jpg", wild / os.fsdecode(b"\xff'\"&\xe2\x80\xaegpj.jpg"))
    line = headstart.error("check", data, "--html", tmp_path, code=2)
    assert "is a folder" in line
    (tmp_path / "file").touch()
    assert "file: not a folder" in headstart.error("check", data, "--store", tmp_path / "file")
    page = tmp_path / "check.html"
    headstart("check", data, "--store", tmp_path / "store", "--allow", "--html", page)
    text = page.read_text()
    assert text.count("<img src='data:image/jpeg;base64,") == 14 + 24  # of findings, and of two classes
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)/\\udcff&#x27;&quot;&amp;\\u202egpj.jpg" in text
    assert "<h2>2 conflicting labels" in text
    assert "<h2>0 " not in text
    assert "tiny" not in text
    assert "cut early.jpg" in text
    assert "http:" not in text
    assert "https:" not in text


@pytest.mark.slow
def test_the_page_opens_in_a_browser(data: Path, config: CheckConfig, tmp_path: Path) -> None:
    plant(data)
    check_page.write_page(check(data, config), tmp_path / "x.html")
    require_opens(tmp_path / "x.html")


def test_a_page_of_many_findings_stays_small_and_says_so(
    data: Path, config: CheckConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(data)
    for limit in ("SHOWN", "FILES", "ROWS", "SHEETS", "ON_A_SHEET"):
        monkeypatch.setattr(check_page, limit, 1)
    check_page.write_page(check(data, config), tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert text.count("<figure>") == 3
    assert text.count("<img ") == 4
    assert text.count("and 1 more <") == 6  # findings of three kinds, and the files of each
    assert text.count("and 1 more classes") == 2
    assert "and 5 more" in text


def test_the_page_of_an_empty_folder_says_what_is_wrong(tmp_path: Path, config: CheckConfig) -> None:
    (tmp_path / "data" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "train" / "cat" / "text.jpg").write_text("hello")
    result = check(tmp_path / "data", replace(config, html=tmp_path / "x.html"))
    assert result.failure() is not None
    assert "one class only" in (tmp_path / "x.html").read_text()


def test_what_training_refuses_is_named_at_once_and_first(data: Path, tmp_path: Path, headstart: Cli) -> None:
    (data / "train" / "bird").mkdir()
    for split in ("train", "val"):
        (data / split / "fox").mkdir()
        Image.effect_noise((80, 80), 80).save(data / split / "fox" / "0.png")
    shutil.rmtree(data / "val" / "dog")
    for number in range(5):
        (data / "train" / "cat" / f"text{number}.jpg").write_text("hello")
    flags = ("check", data, "--store", tmp_path / "store")
    code, stdout, stderr = headstart.whole(*flags)
    assert code == 1
    problems = json.loads(stdout)["problems"]
    assert len(problems) == 4
    for problem, part in zip(problems, ("'bird'", "'fox'", "val split", "5 of 57 images"), strict=True):
        assert part in problem
        assert problem in stderr
    lines = headstart.text(*flags, "--allow").splitlines()
    assert "read as split folders" in lines[0]
    assert [line.startswith("training refuses: ") for line in lines[1:6]] == [True] * 4 + [False]
    assert len(headstart(*flags, "--allow", "--max-rejects", "0.2")["problems"]) == 3


def test_how_the_folder_was_read_comes_first(data: Path, config: CheckConfig) -> None:
    result = replace(check(data, config), reading=["class folders in split folders"])
    assert result.lines()[0] == "class folders in split folders"
    assert result.fields()["reading"] == ["class folders in split folders"]


def test_copies_are_looked_for_at_the_last_cut(
    data: Path, small: FeatureConfig, extraction: ExtractionConfig, headstart: Cli
) -> None:
    stores = open_stores(extraction.store)
    fingerprint = replace(stores[0].fingerprint, cut="block1", shape=(3,))
    digests = [example.image.digest for example in scan(data).examples]
    for store in (stores[0], FeatureStore(extraction.store, fingerprint).create()):
        rows = np.random.default_rng(0).standard_normal((len(digests), *store.form.shape))
        store.write_shard(digests, rows)
    assert len(open_stores(extraction.store)) == 2
    assert headstart("check", data, "--store", extraction.store)["features"] == str(stores[0].folder)
    text = headstart.text("check", data, "--store", extraction.store, "--fingerprint", fingerprint.folder_name)
    assert f"looked for among 56 of 56 images, by {extraction.store / fingerprint.folder_name}" in text.replace(
        "\n", ""
    )


def test_a_file_that_changes_while_it_is_looked_at_is_named(
    data: Path, config: CheckConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = data / "train" / "dog" / "3.jpg"

    def scan_and_change(*arguments: Any, **more: Any) -> object:
        seen = scan(*arguments, **more)
        changing.write_bytes(changing.read_bytes() + b"x")
        (data / "train" / "dog" / "4.jpg").unlink()
        return seen

    monkeypatch.setattr("headstart.pipeline.check.check.scan", scan_and_change)
    result = check(data, config)
    assert [(Path(one.path).name, one.reason) for one in result.rejects] == [
        ("3.jpg", "vanished"), ("4.jpg", "vanished"),
    ]  # fmt: skip


def test_options_are_checked(data: Path, small: FeatureConfig, extraction: ExtractionConfig, headstart: Cli) -> None:
    for flags in (
        ("--similarity", "0"),
        ("--max-rejects", "2"),
        ("--tiny", "-1"),
        ("--imbalance", "0.5"),
        ("--max-pixels", "0"),
    ):
        assert flags[0] in headstart.error("check", data, *flags, code=2)
    assert "none begins with 'x'" in headstart.error(
        "check", data, "--store", extraction.store, "--fingerprint", "x", code=2
    )
    with pytest.raises(OptionError, match="--similarity"):
        CheckConfig(similarity=1.1)


def test_training_says_which_label_each_image_gets(
    data: Path, small: FeatureConfig, extraction: ExtractionConfig, headstart: Cli
) -> None:
    shutil.copy(data / "train" / "cat" / "1.jpg", data / "train" / "dog" / "same.jpg")
    code, _, stderr = headstart.whole(
        "head", data, "--run", data.parent / "run", "--store", extraction.store, *SMALL_FLAGS, "--epochs", "1"
    )
    assert code == 0
    assert "1 images are in several classes" in stderr
    assert f"{data}/train/cat/1.jpg as cat, {data}/train/dog/same.jpg as dog" in stderr


def test_names_that_are_not_utf_8_are_told(data: Path, tmp_path: Path, headstart: Cli) -> None:
    name = os.fsdecode(b"\xff.jpg")
    for target in (data / "train" / "cat" / name, data / "val" / "cat" / name):
        shutil.copy(data / "train" / "cat" / "1.jpg", target)
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "GIF")
    (data / "train" / "dog" / os.fsdecode(b"\xfe.jpg")).write_bytes(buffer.getvalue()[:-9])
    seen = headstart("check", data, "--store", tmp_path / "store", "--allow")
    assert {file["path"] for file in seen["leaks"][0]["files"]} >= {str(data / "train" / "cat" / name)}
    assert "\\udcff.jpg (val, cat)" in headstart.text("check", data, "--store", tmp_path / "store", "--allow")


def test_a_copy_is_found_among_few_images_and_when_its_original_leaks(
    data: Path, small: FeatureConfig, extraction: ExtractionConfig
) -> None:
    for path in [*data.glob("train/*/[6-9].jpg"), *data.glob("train/*/1?.jpg"), *data.glob("[vt][ae][ls]*/*/*.jpg")]:
        path.unlink()
    planted = copies(data)
    shutil.copy(data / "train" / "cat" / "0.jpg", data / "val" / "cat" / "leak.jpg")
    (store,) = cache_features(data, small, extraction).stores.values()
    examples = scan(data).examples
    found = near_duplicates(examples, store, 0.3)
    assert {os.path.relpath(one.image.image.path, data) for one in found} == set(planted)
    (leak,) = same_image(examples)
    assert near_duplicates(leak, store, 0.3) == []


def test_copies_of_a_file_that_went_are_told_why(data: Path, config: CheckConfig, monkeypatch) -> None:
    shutil.copy(data / "train" / "dog" / "3.jpg", data / "train" / "dog" / "other.jpg")

    def scan_and_remove(*arguments: Any, **more: Any) -> object:
        seen = scan(*arguments, **more)
        for name in ("3.jpg", "other.jpg"):
            (data / "train" / "dog" / name).rename(data / f"{name}.moved")
        (data / "other.jpg.moved").rename(data / "train" / "dog" / "3.jpg")
        return seen

    monkeypatch.setattr("headstart.pipeline.check.check.scan", scan_and_remove)
    rejects = {Path(one.path).name: one for one in check(data, config).rejects}
    assert set(rejects) == {"3.jpg", "other.jpg"}
    assert {one.reason for one in rejects.values()} == {"vanished"}


@pytest.fixture
def flat(data: Path, tmp_path: Path) -> Path:
    """Ten images without classes, a copy of one, and a tiny one."""
    (tmp_path / "flat").mkdir()
    for number in range(10):
        shutil.copy(data / "train" / "cat" / f"{number}.jpg", tmp_path / "flat" / f"{number}.jpg")
    shutil.copy(tmp_path / "flat" / "3.jpg", tmp_path / "flat" / "again.jpg")
    Image.new("RGB", (9, 9)).save(tmp_path / "flat" / "tiny.png")
    return tmp_path / "flat"


def test_images_that_plainly_have_no_classes_are_fine(flat: Path, tmp_path: Path, headstart: Cli) -> None:
    flags = ("--store", tmp_path / "store", "--html", tmp_path / "x.html")
    seen = headstart("check", flat, *flags)
    assert (seen["problems"], seen["classes"], sum(seen["splits"].values())) == ([], {}, 12)
    (group,) = seen["duplicates"]
    assert [file["label"] for file in group["files"]] == [None, None]
    text = headstart.text("check", flat, *flags)
    assert re.search(r"again.jpg \((train|val|test)\)", text.replace("\n", ""))
    assert re.search(r"tiny.png \((train|val|test)\)", text.replace("\n", ""))
    page = (tmp_path / "x.html").read_text()
    assert "(without a class)" in page
    assert "<h2>Classes" not in page
    (tmp_path / "above").mkdir()
    flat.rename(tmp_path / "above" / "images")
    assert headstart("check", tmp_path / "above", *flags)["problems"] == []


def write_list(data: Path, labels: dict[str, str]) -> Path:
    rows = "".join(f"{name},{label}\n" for name, label in labels.items())
    (data / "list.csv").write_text(f"path,label\n{rows}")
    return data / "list.csv"


def test_images_without_a_label_among_labelled_ones_are_a_problem(flat: Path, tmp_path: Path, headstart: Cli) -> None:
    names = sorted(path.name for path in flat.iterdir())
    labels = {name: ("cat", "dog")[number % 2] for number, name in enumerate(names)}
    labels |= dict.fromkeys(("3.jpg", "5.jpg", "tiny.png"), "")
    flags = (write_list(flat, labels), "--store", tmp_path / "store", "--html", tmp_path / "x.html")
    assert headstart.whole("check", *flags)[0] == 1
    seen = headstart("check", *flags, "--allow")
    assert seen["problems"][0] == "3 images have no label, 3.jpg the first"
    assert (len(seen["problems"]), seen["conflicts"]) == (1, [])
    assert [(file["label"], Path(file["path"]).name) for file in seen["tiny"]] == [(None, "tiny.png")]
    text = headstart.text("check", *flags, "--allow")
    assert re.search(r"tiny.png \((train|val|test)\)", text.replace("\n", ""))
    assert "(without a class)" in text
    page = (tmp_path / "x.html").read_text()
    assert "(without a class)</bdi> <small>3</small>" in page
    assert "3 without a class" in page


def test_a_list_whose_labels_are_empty_is_a_problem(flat: Path, tmp_path: Path, headstart: Cli) -> None:
    file = write_list(flat, {"1.jpg": "", "2.jpg": ""})
    code, stdout, _ = headstart.whole("check", file, "--store", tmp_path / "store")
    assert code == 1
    (problem,) = json.loads(stdout)["problems"]
    assert "label is empty for 1.jpg" in problem
    assert headstart("check", file, "--store", tmp_path / "store", "--layout", "none")["problems"] == []


def test_a_tree_that_can_be_read_in_two_ways_is_a_problem(flat: Path, tmp_path: Path, headstart: Cli) -> None:
    for number in range(8):
        place = tmp_path / "tree" / ("p1", "p2")[number % 2] / ("left", "right")[number // 2 % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(flat / f"{number}.jpg", place)
    flags = ("check", tmp_path / "tree", "--store", tmp_path / "store")
    code, stdout, stderr = headstart.whole(*flags)
    assert code == 1
    (problem,) = json.loads(stdout)["problems"]
    assert "--layout outer or --layout inner" in problem
    assert f"error: {tmp_path / 'tree'}: p1/" in stderr
    text = headstart.text(*flags, "--allow")
    assert "training refuses: p1/" in text
    assert "nothing wrong was found" not in text
    assert headstart(*flags, "--layout", "none")["problems"] == []


def test_a_leak_is_told_once(data: Path, tmp_path: Path, headstart: Cli) -> None:
    shutil.copy(data / "train" / "dog" / "3.jpg", data / "val" / "dog" / "x.jpg")
    text = headstart.text("check", data, "--store", tmp_path / "store", "--allow")
    assert text.count("x.jpg") == 1
    assert "copies are in several splits" not in text


def test_control_characters_in_names_are_shown_as_escapes(data: Path, tmp_path: Path, headstart: Cli) -> None:
    names = ("\x1b]0;title\x07.jpg", "\x9b31m.jpg", "\r\x7f.jpg", "a\nwarning b.jpg")
    for name in names:
        shutil.copy(data / "train" / "dog" / "3.jpg", data / "train" / "cat" / name)
        (data / "train" / "cat" / f"cut{name}").write_bytes((data / "train" / "dog" / "3.jpg").read_bytes()[:300])
    arguments = ("check", data, "--store", tmp_path / "store")
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert "\\x1b]0;title" in result.stdout
    assert "\\x9b31m" in result.stdout
    assert "\nwarning b" not in result.stdout
    assert not set(result.stdout + result.stderr) & {"\x1b", "\x9b", "\x07", "\x7f", "\r"}


def test_a_folder_in_place_of_the_page_is_told_at_once(data: Path, tmp_path: Path, headstart: Cli) -> None:
    assert "--html" in headstart.error("check", data, "--store", tmp_path / "store", "--html", tmp_path, code=2)
