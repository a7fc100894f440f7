import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import StoreError
from headstart.features.store import kept_index
from headstart.features.store import store as store_module
from headstart.features.store.index import Segment
from headstart.features.store.kept_index import IndexCheck, remove_segment
from headstart.features.store.maintain import verify
from headstart.features.store.shards import read_digests
from headstart.features.store.store import FeatureStore
from headstart.tests.features.store.test_store import digest, fill, store_in, vectors

SHARDS = 8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a store with an index of eight shards of three digests. An index is kept from four shards."""
    monkeypatch.setattr(kept_index, "LARGE", 4)
    monkeypatch.setattr(kept_index, "NEW", 2)
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


def segments(folder: Path) -> list[int]:
    """The number of digests of each segment on disk that was not replaced, the longest first."""
    current = [place for place in folder.glob("index-*") if not (place / "replaced").exists()]
    return sorted((len(np.load(place / "rows.npy")) for place in current), reverse=True)


def test_new_shards_make_segments_and_short_ones_are_merged(folder: Path) -> None:
    store, expected = store_in(folder.parent), [24]
    steps = [
        ([1], [24]),  # too few to be worth a segment
        ([1], [24, 2]),
        ([2, 2], [24, 6]),
        ([1, 1], [24, 6, 2]),
        ([1, 1], [24, 10]),
        ([1, 1], [36]),
    ]
    (first,) = folder.glob("index-*")
    number = 24
    for lengths, expected in steps:
        for length in lengths:
            fill(store, list(range(number, number + length)))
            number += length
        store.update_merged()
        assert segments(folder) == expected
        np.testing.assert_array_equal(store.read(names(range(number))), vectors(list(range(number))))
        np.testing.assert_array_equal(
            FeatureStore.open(folder).read(names(range(number))), vectors(list(range(number)))
        )
        assert store.count() == number
    os.utime(first / "replaced", (time.time() - 90_000,) * 2)
    store.update_merged()
    assert first not in folder.glob("index-*")


def test_a_process_maps_what_it_or_another_has_kept(folder: Path, opened: list[Path]) -> None:
    store = store_in(folder.parent)
    for number in range(24, 30):
        fill(store, [number])
        assert store.missing(names(range(31))) == names(range(number + 1, 31))
    assert len(opened) == 6
    store_in(folder.parent)
    assert segments(folder) == [24, 6]
    assert store.missing(names(range(31))) == names(range(30, 31))
    assert all(segment.source for segment in store._index.segments)
    assert len(opened) == 6


def test_a_segment_of_shards_that_are_mostly_gone_is_written_anew(folder: Path) -> None:
    store = store_in(folder.parent)
    kept = {store.shard_of(digest(number)) for number in (0, 3)}
    store.retire([shard for shard in store.shards() if shard not in kept])
    fill(store, [24, 25])
    fill(store, [26])
    store.update_merged()
    assert segments(folder) == [9]
    assert FeatureStore.open(folder).missing(names(range(27))) == names(range(6, 24))


def test_segments_of_two_processes_that_overlap_count_once(folder: Path) -> None:
    store, (first,) = store_in(folder.parent), folder.glob("index-*")
    shutil.copytree(first, folder / "index-0")
    for number in (24, 25, 26, 27):
        fill(store, [number])
    kept_index._kept(folder, [Segment.of({one.name: read_digests(one, store.form) for one in store.shards()[2:7]})])
    opened = FeatureStore.open(folder)
    assert opened.count() == len(opened.digests()) == 28
    np.testing.assert_array_equal(opened.read(names(range(28))), vectors(list(range(28))))
    store.update_merged()
    assert {place.parent for place in folder.glob("index-*/replaced")} & {first, folder / "index-0"}


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
        "another length",
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
    elif damage == "another length":
        np.save(file, np.full(23, -1, np.int32))
    elif damage in ("pipe", "gone"):
        file.unlink()
        if damage == "pipe":
            os.mkfifo(file)
    store = FeatureStore.open(folder)
    assert store.missing(names(range(25))) == names(range(24, 25))
    np.testing.assert_array_equal(store.read(names(range(24))), vectors(list(range(24))))


LIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "other rows": lambda rows: np.where(rows == 2, 0, rows + 1),
    "negative": lambda rows: rows - 3,
    "too large": lambda rows: rows + 3,
    "the largest": lambda rows: np.full_like(rows, 2**31 - 1),
}


def lie(folder: Path, field: str, kind: str) -> None:
    for place in folder.glob("index-*"):
        file = place / f"{field}.npy"
        np.save(file, LIES[kind](np.load(file)).astype(np.int32))


@pytest.mark.parametrize("field", ["rows", "shards"])
@pytest.mark.parametrize("kind", LIES)
def test_an_index_that_lies_never_yields_the_features_of_another_image(folder: Path, field: str, kind: str) -> None:
    lie(folder, field, kind)
    with pytest.raises(StoreError, match=r"(other images than the index says|does not fit its shards); delete "):
        FeatureStore.open(folder).read(names(range(24)))


@pytest.mark.parametrize("field", ["rows", "shards"])
@pytest.mark.parametrize("kind", LIES)
def test_an_index_that_lies_is_found_and_made_again(folder: Path, field: str, kind: str) -> None:
    store = FeatureStore.open(folder)
    assert verify([store]).indexes == []
    lie(folder, field, kind)
    (wrong,) = verify([store]).indexes
    assert wrong.reason == "an index that does not fit its shards"
    assert wrong.path.startswith(f"{folder}/index-")
    verify([store], repair=True)
    assert verify([store]).indexes == []
    assert segments(folder) == [24]
    np.testing.assert_array_equal(FeatureStore.open(folder).read(names(range(24))), vectors(list(range(24))))


@pytest.mark.parametrize("kind", ["link", "link to nothing", "file"])
def test_what_has_the_name_of_an_index_is_removed_and_leads_nowhere(folder: Path, tmp_path: Path, kind: str) -> None:
    elsewhere, place = tmp_path / "elsewhere", folder / "index-0000000000000000"
    if kind == "link":
        elsewhere.mkdir()
        (elsewhere / "mine.txt").write_text("mine")
    if kind == "file":
        place.write_text("")
    else:
        place.symlink_to(elsewhere)
    before = sorted(tmp_path.rglob("*"))
    store = FeatureStore.open(folder)
    kept_index.keep_index(folder, store.form)  # a link that counts as replaced would get a mark where it leads
    assert sorted(tmp_path.rglob("*")) == before
    (wrong,) = verify([store]).indexes
    assert wrong.path == str(place)
    verify([store], repair=True)
    assert not os.path.lexists(place)
    assert verify([store]).indexes == []
    assert elsewhere.exists() == (kind == "link")
    assert not elsewhere.exists() or [file.name for file in elsewhere.iterdir()] == ["mine.txt"]


def test_a_link_in_the_place_of_an_index_is_replaced(folder: Path, tmp_path: Path) -> None:
    (place,) = folder.glob("index-*")
    moved = place.rename(tmp_path / "moved")
    for target in (moved, tmp_path / "nothing"):
        if os.path.lexists(place):
            shutil.rmtree(place)
        place.symlink_to(target)
        held = sorted(tmp_path.glob("moved/*"))
        FeatureStore.open(folder).update_merged()
        assert not place.is_symlink()
        assert segments(folder) == [24]
        assert sorted(tmp_path.glob("moved/*")) == held


def test_an_index_that_another_process_removes_while_it_is_repaired(folder: Path) -> None:
    place = folder / "index-0000000000000000"
    place.mkdir()
    (wrong,) = IndexCheck(folder).faults()
    shutil.rmtree(place)
    remove_segment(wrong)


def test_an_index_in_another_order_is_found(folder: Path) -> None:
    (place,) = folder.glob("index-*")
    np.save(place / "digests.npy", np.load(place / "digests.npy")[::-1])
    (wrong,) = verify([FeatureStore.open(folder)]).indexes
    assert wrong.path == str(place)
