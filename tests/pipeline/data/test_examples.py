import csv
import io
import shutil
from collections import Counter
from pathlib import Path

import pytest
from headstart.features.errors import DataError
from headstart.features.images.scan import Reject
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import scan
from headstart.pipeline.data.splits import split_of
from headstart.pipeline.data.trainable import require_few_rejects, require_trainable
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from headstart.pipeline.rejects import write_rejects
from headstart.tests.conftest import Cli
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

digests = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(digest=digests, seed=st.integers(0, 100), val=st.floats(0, 0.5), test=st.floats(0, 0.49))
def test_split_is_a_function_of_digest_and_seed(digest: str, seed: int, val: float, test: float) -> None:
    split = split_of(digest, seed, val, test)
    assert split == split_of(digest, seed, val, test)
    assert split != "val" or val > 0
    assert split != "test" or test > 0
    if split == "test":  # a larger test split only takes more in
        assert split_of(digest, seed, val, 0.5) == "test"


def test_splits_have_their_size_and_differ_between_seeds() -> None:
    names = [f"{number:064x}" for number in range(4000)]
    for seed in (0, 1):
        found = [split_of(name, seed) for name in names]
        assert 330 < found.count("val") < 470
        assert 330 < found.count("test") < 470
    assert [split_of(name, 0) for name in names] != [split_of(name, 1) for name in names]


def test_counts_of_a_scan_add_up(drawn: Path) -> None:
    found = scan(drawn)
    assert found.class_names == ["cat", "dog"]
    assert (len(found.examples), len(found.rejects), found.ignored) == (42, 4, 0)
    assert {reject.reason for reject in found.rejects} == {"empty", "not-an-image", "truncated"}
    assert {example.label for example in found.examples if "/cat/" in example.image.path} == {0}
    assert {example.label for example in found.examples if "/dog/" in example.image.path} == {1}


def test_clutter_is_counted_once_as_ignored(drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    before = scan(data)
    (data / "cat" / ".DS_Store").write_bytes(b"x")
    (data / "cat" / "Thumbs.db").write_bytes(b"x")
    (data / "cat" / "notes.txt").write_text("not an image")
    (data / "readme.md").write_text("not an image")
    (data / ".git").mkdir()
    (data / ".git" / "x.jpg").write_bytes((drawn / "cat" / "cat.0.jpg").read_bytes())
    after = scan(data)
    assert after.ignored == 5
    assert (after.examples, after.rejects) == (before.examples, before.rejects)


def test_linked_class_folders_and_dangling_links(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).symlink_to(drawn / name)
    assert scan(tmp_path / "data").ignored == 0
    assert len(scan(tmp_path / "data").examples) == 42
    (tmp_path / "data" / "eel").mkdir()
    (tmp_path / "data" / "eel" / "x.jpg").symlink_to(tmp_path / "gone.jpg")
    found = scan(tmp_path / "data")
    assert found.ignored == 0
    assert [reject.reason for reject in found.rejects if "eel" in reject.path] == ["vanished"]


def test_an_image_without_the_right_name_is_an_example(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "data")
    (tmp_path / "data" / "cat" / "picture").write_bytes((drawn / "cat" / "cat.0.jpg").read_bytes())
    assert len(scan(tmp_path / "data").examples) == 43


def test_split_folders_are_taken_as_they_are(prepared: Path) -> None:
    for example in scan(prepared, seed=7).examples:
        assert Path(example.image.path).parts[-3] == example.split


def test_class_folders_are_split_as_prepare_would(drawn: Path, tmp_path: Path) -> None:
    prepare(drawn, tmp_path / "data", PrepareConfig(max_rejects=1.0), seed=7)
    then = {example.image.digest: example.split for example in scan(tmp_path / "data").examples}
    assert {example.image.digest: example.split for example in scan(drawn, seed=7).examples} == then


def test_v1_reads_and_splits_as_versions_before_did(drawn: Path, tmp_path: Path) -> None:
    for example in scan(drawn, seed=7, config=DataConfig(layout="v1")).examples:
        assert example.split == split_of(example.image.digest, 7)
    shutil.copytree(drawn, tmp_path / "Train")
    found = scan(tmp_path, config=DataConfig(layout="v1"))
    assert found.class_names == ["Train"]


@pytest.mark.parametrize("kind", ["gone", "file", "empty", "only files", "empty classes"])
def test_folders_without_images_are_errors(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    if kind == "file":
        data.write_text("")
    elif kind != "gone":
        data.mkdir()
    if kind == "only files":
        (data / "x.txt").write_text("")
    if kind == "empty classes":
        (data / "cat").mkdir()
    with pytest.raises(DataError, match=str(data)):
        scan(data)


def test_what_can_not_be_trained_on(drawn: Path) -> None:
    found = scan(drawn)
    with pytest.raises(DataError, match="one class only, 'cat'"):
        require_trainable(found.examples, ["cat"], drawn)
    train = [example for example in found.examples if example.split == "train"]
    with pytest.raises(DataError, match="val split has no usable images;"):
        require_trainable(train, found.class_names, drawn)
    some = [example for example in found.examples if example.split == "train" or example.label == 0]
    with pytest.raises(DataError, match="val split has no usable images of class 'dog'"):
        require_trainable(some, found.class_names, drawn)


def test_too_many_rejects_are_an_error_that_names_the_first() -> None:
    rejects = [Reject(f"{number}.jpg", "corrupt", "") for number in range(5)]
    require_few_rejects(rejects, 100, 0.05)
    require_few_rejects(rejects, 5, 1)
    with pytest.raises(
        DataError, match=r"5 of 99 .* 0\.jpg \(corrupt\); 1\.jpg \(corrupt\); 2\.jpg \(corrupt\); \.\.\."
    ):
        require_few_rejects(rejects, 99, 0.05)


def test_rejects_are_written_as_csv(tmp_path: Path) -> None:
    write_rejects(tmp_path, [Reject('a, "b".jpg', "corrupt", "line\nbreak")])
    with (tmp_path / "rejects.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["path", "reason", "detail"], ['a, "b".jpg', "corrupt", "line\nbreak"]]


def test_links_to_folders_are_followed_but_never_round_in_circles(drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    shutil.copytree(drawn / "cat", tmp_path / "elsewhere" / "more")
    (data / "cat" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "more" / "loop").symlink_to(tmp_path / "elsewhere")
    (data / "cat" / "up").symlink_to(data)
    (data / "dog" / "self").symlink_to(data / "dog")
    plain, linked = scan(drawn), scan(data, config=DataConfig(layout="outer"))
    cats = [example for example in plain.examples if example.label == 0]
    assert len(linked.examples) == len(plain.examples) + len(cats)
    assert Counter(example.label for example in linked.examples) == {
        0: 2 * len(cats),
        1: len(plain.examples) - len(cats),
    }


@pytest.mark.slow
def test_twenty_thousand_files_in_one_folder(tmp_path: Path, headstart: Cli) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    for number in range(20_000):  # what follows the picture makes another image of it
        (tmp_path / "data" / "cat" / f"{number}.png").write_bytes(buffer.getvalue() + str(number).encode())
    (tmp_path / "data" / "dog" / "1.png").write_bytes(buffer.getvalue())
    seen = headstart("check", tmp_path / "data", "--store", tmp_path / "store", "--allow")
    assert seen["examples"] == 20_001
    assert seen["duplicates"] == seen["conflicts"] == []
