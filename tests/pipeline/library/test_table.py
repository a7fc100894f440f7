"""`headstart.features`: tables of features of folders and of single files."""

from pathlib import Path

import headstart
import numpy as np
import pytest
from headstart.tests.conftest import SMALL


def test_a_folder_gives_rows_with_labels_and_splits(prepared: Path, filled_store: Path) -> None:
    table = headstart.features(prepared, store=filled_store, max_rejects=1, **SMALL)
    assert table.X.dtype == np.float32
    assert table.X.shape == (len(table), 576)
    assert table.class_names == ["cat", "dog"]
    for path, label, split in zip(table.paths, table.y, table.splits, strict=True):
        assert Path(path).parts[-3:-1] == (split, table.class_names[label])
    train = table.split("train")
    assert set(train.splits) == {"train"}
    assert np.array_equal(train.X, table.X[table.splits == "train"])
    assert len(table.rejects) == 2
    assert f"{len(table)} x 576" in repr(table)
    with pytest.raises(headstart.OptionError, match="there are test, train, val"):
        table.split("validation")


def test_files_give_rows_in_their_order_without_labels(prepared: Path, filled_store: Path) -> None:
    table = headstart.features(prepared, store=filled_store, max_rejects=1, **SMALL)
    order = [7, 2, 30, 2]
    some = headstart.features([table.paths[at] for at in order], store=str(filled_store), **SMALL)
    assert np.array_equal(some.X, table.X[order])
    assert some.y.tolist() == [-1] * 4
    assert set(some.splits) == {""}
    assert not some.class_names


@pytest.mark.slow
def test_new_images_without_labels(prepared: Path, tmp_path: Path) -> None:
    files = sorted(prepared.glob("test/*/[cd]*.jpg"))[:3]
    (tmp_path / "new").mkdir()
    for number, file in enumerate(files):  # a name such as cat.1.jpg would be a label
        (tmp_path / "new" / f"{number}.jpg").write_bytes(file.read_bytes())
    table = headstart.features(tmp_path / "new", store=tmp_path / "store", **SMALL)
    assert (len(table), table.y.tolist(), table.class_names) == (3, [-1] * 3, [])
    own = headstart.features(
        [tmp_path / "new" / f"{number}.jpg" for number in range(3)], store=tmp_path / "store", **SMALL
    )
    assert np.array_equal(own.X, table.X[[table.paths.index(path) for path in own.paths]])
    maps = headstart.features(files, store=tmp_path / "store", cut="top_activation:map", **SMALL)
    assert maps.X.shape == (3, 2, 2, 576)
    np.testing.assert_allclose(maps.X.mean(axis=(1, 2)), own.X, atol=1e-5)


def test_a_dataset_of_tensorflow(prepared: Path, filled_store: Path) -> None:
    table = headstart.features(prepared, store=filled_store, max_rejects=1, **SMALL).split("train")
    plain = list(table.tf(batch_size=8).as_numpy_iterator())
    assert np.array_equal(np.concatenate([rows for rows, _ in plain]), table.X)
    first, again = (
        np.concatenate([labels for _, labels in table.tf(8, shuffle=True, seed=3).as_numpy_iterator()]) for _ in "ab"
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, table.y)
    files = headstart.features(np.array(table.paths[:2]), store=filled_store, **SMALL)
    assert next(iter(files.tf())).shape == (2, 576)
    for given in ({"batch_size": "x"}, {"batch_size": 0}, {"shuffle": "no"}, {"seed": 0.5}):
        with pytest.raises(headstart.OptionError, match="must be"):
            table.tf(**given)
    with pytest.raises(headstart.OptionError, match="split must be one"):
        table.split(["train", "val"])  # type: ignore[arg-type]


def test_environment_variables_hold_as_on_the_command_line(
    prepared: Path, filled_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_STORE", str(filled_store))
    monkeypatch.setenv("HEADSTART_BACKBONE", "mobilenet_v3_small")
    given = {name: value for name, value in SMALL.items() if name != "backbone"}
    assert headstart.features(prepared, max_rejects=1, **given).X.shape[1] == 576
    monkeypatch.setenv("HEADSTART_MEMORY", "much")
    with pytest.raises(headstart.OptionError, match="HEADSTART_MEMORY must be a number"):
        headstart.features(prepared)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backbon": "x"}, "backbon: there is no such option; did you mean backbone?"),
        ({"backbone": "x"}, "there is no 'x'"),
        ({"image_size": "big"}, "image_size: Expected `int`"),
        ({"image_size": 7}, "--image-size"),
        ({"precision": "half"}, "precision: Invalid"),
        ({"memory": 1e-9, "max_rejects": 1}, "over memory=1e-09"),
        ({"views": 2}, "views: only"),
        ({"data": [], "layout": "none"}, "a sequence of files has no layout"),
        ({"data": ["absent.jpg"], "max_rejects": 1}, "max_rejects: each file of a sequence must be usable"),
        ({"data": 5}, "data must be a folder, a list of images, or paths. Received: int 5"),
        ({"cut": ("top_activation", "top_activation:map")}, "maps can't lie side by side"),
        ({"data": []}, "names no file"),
        ({"data": [3]}, "must be paths of images. Received: int 3"),
        ({"data": ["absent.jpg"]}, "absent.jpg: vanished"),
        ({"data": ""}, "data is empty"),
        ({"data": ["absent.jpg", ""]}, "data is empty; give paths of images"),
        ({"data": b"photos"}, "Received: bytes"),
        ({"data": np.array("a.jpg")}, "Received: ndarray a.jpg"),
        ({"seed": "x"}, "seed must be a whole number from 0 to 2147483647. Received: str x"),
        ({"store": ""}, "store: is empty"),
        ({"data": [__file__]}, "is no image"),
        ({"data": "absent"}, "absent: no such folder"),
        ({"weights": "absent.h5"}, "absent.h5: no such file"),
    ],
)
def test_errors_are_one_line(given: dict, said: str, prepared: Path, filled_store: Path) -> None:
    with pytest.raises(headstart.HeadstartError) as error:
        headstart.features(**{"data": prepared, "store": filled_store, **SMALL, **given})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_too_many_features_are_told_before_extraction(prepared: Path, tmp_path: Path) -> None:
    for data, options in ((prepared, {"max_rejects": 1}), (sorted(prepared.glob("test/*/[cd]*.jpg")), {})):
        with pytest.raises(headstart.DataError, match="over memory"):
            headstart.features(data, store=tmp_path / "new", memory=1e-9, **options, **SMALL)
    assert not list((tmp_path / "new").rglob("shard-*"))
    assert not [one for one in (tmp_path / "new").rglob("*") if one.is_file() and one.stat().st_size > 50_000]


def test_a_broken_file_among_files_is_an_error(drawn: Path, tmp_path: Path) -> None:
    broken = next(drawn.glob("*/broken*.jpg"))
    with pytest.raises(headstart.DataError, match="broken"):
        headstart.features([next(drawn.glob("cat/cat*.jpg")), broken], store=tmp_path, **SMALL)
