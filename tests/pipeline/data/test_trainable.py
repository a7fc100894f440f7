import shutil
from pathlib import Path
from typing import Any

import pytest
from headstart.features.errors import DataError
from headstart.features.images.scan import ImageFile, Reject
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.trainable import require_few_rejects, require_trainable, too_many_rejects, untrainable
from headstart.tests.conftest import SMALL_FLAGS


def examples(*counts: tuple[int, int, int]) -> list[Example]:
    """Examples with the given numbers of images in train, val and test for each class."""
    image = ImageFile("x.jpg", "00" * 32, 1, 0, 1, 9, 9, "JPEG")
    places = [(label, split, n) for label, row in enumerate(counts) for split, n in zip(SPLITS, row, strict=True)]
    return [Example(image, label, split) for label, split, count in places for _ in range(count)]


SPLITS = ("train", "val", "test")


@pytest.mark.parametrize(
    ("counts", "problems"),
    [
        ([(1, 1, 1), (1, 1, 1)], []),
        ([(1, 1, 0), (1, 1, 0)], []),  # there is no test split
        ([(3, 1, 0), (3, 1, 1)], []),  # a class that is not in test can be trained
        ([(9, 9, 9)], ["one class only, 'a'"]),
        ([(9, 9, 9), (0, 0, 0)], ["no usable images of class 'b'"]),
        ([(9, 9, 9), (1, 1, 0)], ["fewer images than the 3 splits of class 'b'"]),
        ([(9, 9, 9), (9, 0, 9), (0, 9, 9)], ["the train split has no usable images of class 'c'", "of class 'b'"]),
        ([(9, 0, 9), (9, 0, 9)], ["the val split has no usable images;"]),
        ([(0, 0, 0), (1, 0, 0), (9, 9, 9), (9, 0, 9)], ["class 'a'", "class 'b'", "class 'd'"]),
        ([], ["no classes", "the train split", "the val split"]),
    ],
)
def test_all_that_training_refuses_is_named(counts: list[tuple[int, int, int]], problems: list[str]) -> None:
    found = untrainable(examples(*counts), "abcdef"[: len(counts)])
    assert len(found) == len(problems), found
    assert all(part in " ".join(found) for part in problems)


def test_a_training_that_needs_no_val() -> None:
    assert untrainable(examples((3, 0, 1), (2, 0, 1)), "ab", needs_val=False) == []
    (problem,) = untrainable(examples((9, 0, 1), (0, 9, 9)), "ab", needs_val=False)
    assert problem.startswith("the train split has no usable images of class 'b'; every class needs some in train: ")


def test_many_classes_are_counted_and_all_problems_are_one_error() -> None:
    with pytest.raises(
        DataError, match=r"^data: no usable .*'2', '3', '4', '5', '6', 3 more: .*; fewer .*'1'"
    ) as error:
        require_trainable(examples((9, 9, 9), (1, 0, 0)), list("0123456789"), Path("data"))
    assert "\n" not in str(error.value)


def test_rejects_count_against_the_files_found() -> None:
    rejects = [Reject(f"{number}.jpg", "corrupt", "") for number in range(5)]
    assert too_many_rejects(rejects, 100, 0.05) == ""
    assert too_many_rejects(rejects, 5, 1) == ""
    require_few_rejects([], 0, 0)
    with pytest.raises(DataError, match=r"5 of 99 .* --max-rejects 0.05: 0.jpg \(corrupt\); .*; \.\.\.$"):
        require_few_rejects(rejects, 99, 0.05)


@pytest.mark.parametrize("command", ["head", "study", "labels"])
def test_data_that_can_not_be_trained_on_are_refused_before_extraction(
    headstart: Any, drawn: Path, tmp_path: Path, command: str
) -> None:
    shutil.copytree(drawn / "cat", tmp_path / "data" / "cat")
    more = (f"--run={tmp_path / 'run'}",) if command == "head" else ()
    store = tmp_path / "store"
    said = headstart.error(command, tmp_path / "data", *more, f"--store={store}", *SMALL_FLAGS, "--max-rejects=1")
    assert "one class only" in said
    assert not list(store.rglob("shard-*"))
