import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import StoreError
from headstart.features.store import kept_index
from headstart.features.store import store as store_module
from headstart.features.store.store import FeatureStore
from headstart.tests.features.store.test_store import digest, fill, store_in, vectors

SHARDS = 8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a store with an index of eight shards of three digests. Each module needs an index from four."""
    monkeypatch.setattr(kept_index, "LARGE", 4)
    monkeypatch.setattr(store_module, "LARGE", 4)
    store = store_in(tmp_path)
    for shard in range(SHARDS):
        fill(store, [3 * shard, 3 * shard + 1, 3 * shard + 2])
    store.update_merged()
    return store.folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards whose digests are read one after the other."""
    found: list[Path] = []
    original = store_module.read_digests

    def read(path: Path, form) -> np.ndarray:
        found.append(path)
        return original(path, form)

    monkeypatch.setattr(store_module, "read_digests", read)
    return found


def names(numbers: range) -> list[str]:
    return [digest(number) for number in numbers]


def test_a_store_is_opened_by_its_index_and_reads_only_what_is_new(folder: Path, opened: list[Path]) -> None:
    store = FeatureStore.open(folder)
    assert store.missing(names(range(30))) == names(range(24, 30))
    assert opened == []
    new = fill(store_in(folder.parent), [24, 25])
    assert store.missing(names(range(30))) == names(range(26, 30))
    assert opened == [new]
    np.testing.assert_array_equal(store.read(names(range(26))), vectors(list(range(26))))


def test_an_index_of_shards_that_are_gone_finds_the_rest(folder: Path) -> None:
    store = store_in(folder.parent)
    gone = store.shard_of(digest(4))
    gone.unlink()
    assert FeatureStore.open(folder).missing(names(range(24))) == names(range(3, 6))
    fill(store, [3, 4, 5])
    np.testing.assert_array_equal(FeatureStore.open(folder).read(names(range(24))), vectors(list(range(24))))


def test_an_index_is_written_anew_when_much_is_new_and_the_old_one_goes_after_a_day(folder: Path) -> None:
    (first,) = folder.glob("index-*")
    store = store_in(folder.parent)
    fill(store, [24])
    store.update_merged()
    assert list(folder.glob("index-*")) == [first]  # 24 of 25 digests are in it
    fill(store, list(range(25, 40)))
    store.update_merged()
    assert len(list(folder.glob("index-*"))) == 2
    os.utime(first / "replaced", (time.time() - 90_000,) * 2)
    fill(store, list(range(40, 80)))
    store.update_merged()
    assert first not in folder.glob("index-*")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "damage",
    [
        "no json",
        "no list",
        "outside",
        "another shard",
        "cut off",
        "pickle",
        "pipe",
        "gone",
        "a shard too many",
        "minus",
    ],
)
def test_an_index_that_is_damaged_or_hostile_is_ignored(folder: Path, damage: str) -> None:
    (place,) = folder.glob("index-*")
    listed = place / "shards.json"
    content = json.loads(listed.read_text())
    changes = {
        "no json": "{", "no list": "[1]", "outside": {**content, "names": ["../" + content["names"][0]] * SHARDS},
        "another shard": {**content, "names": content["names"][:-1]}, "a shard too many": {**content, "lengths": [24]},
    }  # fmt: skip
    if damage in changes:
        listed.write_text(changes[damage] if isinstance(changes[damage], str) else json.dumps(changes[damage]))
    file = place / "rows.npy"
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "pickle":
        np.save(file, np.array([print] * 24, object), allow_pickle=True)
    elif damage == "minus":
        np.save(file, np.full(24, -1, np.int32))
    elif damage in ("pipe", "gone"):
        file.unlink()
        if damage == "pipe":
            os.mkfifo(file)
    store = FeatureStore.open(folder)
    assert store.missing(names(range(25))) == names(range(24, 25))
    np.testing.assert_array_equal(store.read(names(range(24))), vectors(list(range(24))))


def test_an_index_that_lies_never_yields_the_features_of_another_image(folder: Path) -> None:
    (place,) = folder.glob("index-*")
    rows = np.load(place / "rows.npy")
    np.save(place / "rows.npy", np.where(rows == 2, 0, rows + 1).astype(np.int32))
    with pytest.raises(StoreError, match=r"other images than the index says; delete .*index-"):
        FeatureStore.open(folder).read(names(range(24)))
