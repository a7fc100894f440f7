from pathlib import PurePosixPath

import pytest
from headstart.pipeline.data.layouts import classes_of


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["cat/1.jpg", "dog/a/1.jpg", "readme.txt"], ["cat", "dog", None]),
        (["PetImages/cat/1.jpg", "PetImages/dog/1.jpg", "readme.txt"], ["cat", "dog", None]),
        (["cat.0.jpg", "dog.0.jpg", "1.jpg"], ["cat", "dog", None]),
        (["cat/dog.0.jpg", "dog/cat.0.jpg"], ["cat", "dog"]),
        (["train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg", "names.csv"], ["cat", "dog", None, None]),
        (["train/cat/1.jpg", "Validation/dog/1.jpg", "test/1.jpg"], ["cat", "dog", None]),
        (["train/cat/1.jpg", "extra/dog/1.jpg"], ["train", "extra"]),
        (["train", ".", "train/cat.0.jpg", "test/1.jpg"], [None, None, "cat", None]),
        ([], []),
    ],
)
def test_classes_follow_from_names(paths: list[str], classes: list[str | None]) -> None:
    assert classes_of([PurePosixPath(path) for path in paths]) == classes
