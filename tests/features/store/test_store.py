import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from headstart.features.errors import StoreError
from headstart.features.store.compact import compact
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.store import FeatureStore
from hypothesis import given, settings
from hypothesis import strategies as st

FINGERPRINT = {
    "backbone": "b", "precision": "float32", "cut": "c", "weights": "0" * 64, "dtype": "float32", "shape": [5],
    "image_size": 64, "resize": "stretch", "truncated": "reject", "pixels_version": 2,
    "rescale": {"scale": [1.0], "offset": [0.0]},
}  # fmt: skip


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def vectors(numbers: list[int], dimension: int = 5) -> np.ndarray:
    return np.array([np.random.default_rng(number).normal(size=dimension) for number in numbers], np.float32)


def store_in(folder: Path, **changes) -> FeatureStore:
    return FeatureStore(folder, Fingerprint.from_json({**FINGERPRINT, **changes})).create()


def fill(store: FeatureStore, numbers: list[int]) -> Path:
    return store.write_shard([digest(number) for number in numbers], vectors(numbers))


@settings(max_examples=40)
@given(
    shards=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True), max_size=5),
    asked=st.lists(st.integers(0, 40), max_size=20),
)
def test_what_is_written_is_read_in_the_order_asked_for(tmp_path_factory, shards, asked) -> None:
    store = store_in(tmp_path_factory.mktemp("store"))
    for numbers in shards:
        fill(store, numbers)
    written = {number for numbers in shards for number in numbers}
    missing = [digest(number) for number in dict.fromkeys(asked) if number not in written]
    assert store.missing([digest(number) for number in asked]) == missing
    present = [number for number in asked if number in written]
    np.testing.assert_array_equal(
        store.read([digest(number) for number in present]), vectors(present).reshape(len(present), 5)
    )


def test_another_process_sees_what_was_written(tmp_path: Path) -> None:
    first, second = store_in(tmp_path), store_in(tmp_path)
    assert second.missing([digest(1)]) == [digest(1)]
    fill(first, [1])
    assert second.missing([digest(1)]) == []
    np.testing.assert_array_equal(second.read([digest(1)]), vectors([1]))


def test_every_field_of_the_fingerprint_separates(tmp_path: Path) -> None:
    fill(store_in(tmp_path), [1])
    assert store_in(tmp_path).missing([digest(1)]) == []
    for change in ({"weights": "1" * 64}, {"cut": "d"}, {"backbone": "x"}, {"dtype": "float16"}, {"view": 1}):
        assert store_in(tmp_path, **change).missing([digest(1)]) == [digest(1)]


def test_a_shard_is_named_by_its_content(tmp_path: Path) -> None:
    shard = fill(store_in(tmp_path), [1, 2])
    assert shard.name == f"shard-{hashlib.sha256(shard.read_bytes()).hexdigest()[:16]}.h5"


def test_what_was_not_finished_is_not_seen(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    shard = fill(store, [1])
    (store.folder / "host-1-2.partial").write_bytes(shard.read_bytes()[:100])
    assert store.shards() == [shard]


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    monkeypatch.setattr(
        "headstart.features.files.flush_to_disk", lambda path: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        fill(store, [1])
    assert [path.name for path in store.folder.iterdir()] == ["fingerprint.json"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    store = store_in(tmp_path)
    with pytest.raises(StoreError, match="not finite"):
        store.write_shard([digest(1)], np.array([[0, 0, value, 0, 0]], np.float32))
    assert store.shards() == []


def test_values_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    store = store_in(tmp_path, dtype="float16")
    with pytest.raises(StoreError, match="float16"):
        store.write_shard([digest(1)], np.full((1, 5), 1e6, np.float32))


def test_asking_for_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no features of"):
        store_in(tmp_path).read([digest(1)])


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    shard = fill(store, [1, 2])
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(StoreError, match=shard.name):
        store_in(tmp_path).read([digest(1)])


def test_a_flipped_byte_in_the_values_is_an_error(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    shard = fill(store, [1, 2])
    data = bytearray(shard.read_bytes())
    place = data.index(vectors([1]).tobytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=shard.name):
        store_in(tmp_path).read([digest(1)])


def test_one_file_shows_everything_to_plain_h5py(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    fill(store, [1, 2, 3])
    gone = fill(store, [4, 5])
    store.write_merged()
    with h5py.File(store.merged) as file:
        shown = dict(zip(file["digest"].asstr()[:], file["features"][:], strict=True))
        assert json.loads(file.attrs["weights"]) == "0" * 64
    for number in range(1, 6):
        np.testing.assert_array_equal(shown[digest(number)], vectors([number])[0])
    gone.unlink()
    with h5py.File(store.merged) as file:
        assert np.isnan(file["features"][:]).any(axis=1).sum() == 2


def test_a_store_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--store"):
        store_in(tmp_path / "file")


def test_a_stream_yields_each_vector_once_in_another_order_with_bounded_slabs(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for start in range(0, 60, 20):
        fill(store, list(range(start, start + 20)))
    asked = [digest(number) for number in range(60)]
    orders = []
    for seed in (0, 0, 1):
        pieces = list(store.stream(asked, np.random.default_rng(seed), slab_bytes=4 * 5 * 4))
        assert max(len(positions) for positions, _ in pieces) == 4
        order = np.concatenate([positions for positions, _ in pieces])
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in pieces]), vectors(list(order)))
        assert sorted(order) == list(range(60))
        shards = order // 20  # one shard after the other
        assert (np.diff(shards) != 0).sum() == 2
        orders.append(list(order))
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_a_reader_finds_what_was_compacted_away_under_it(tmp_path: Path) -> None:
    store, other = store_in(tmp_path), store_in(tmp_path)
    for number in range(6):
        fill(store, [number])
    asked = [digest(number) for number in range(6)]
    stream, seen = store.stream(asked), {}
    (first,), (row,) = next(stream)
    seen[int(first)] = row
    compact(other)
    compact(other)
    assert len(list(tmp_path.glob("*/shard-*.h5"))) == 1
    for positions, rows in stream:
        seen.update(zip(map(int, positions), rows, strict=True))
    np.testing.assert_array_equal([seen[number] for number in range(6)], vectors(list(range(6))))
    np.testing.assert_array_equal(store.read(asked), vectors(list(range(6))))


def test_a_store_that_went_away_is_not_made_anew(tmp_path: Path) -> None:
    store = store_in(tmp_path / "share")
    fill(store, [1])
    shutil.rmtree(tmp_path / "share")
    with pytest.raises(StoreError, match="gone"):
        fill(store, [2])
    assert not (tmp_path / "share").exists()


def test_a_shard_that_can_not_be_opened_is_an_error_and_no_hang(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    (store.folder / "shard-0.h5").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"shard-0.h5.*no regular file"):
        store.missing([digest(1)])


@pytest.mark.skipif(not shutil.which("h5dump"), reason="no h5dump here")
def test_h5dump_shows_the_one_file(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    fill(store, [1, 2])
    store.write_merged()
    shown = subprocess.run(["h5dump", store.merged], check=True, capture_output=True, text=True, cwd="/").stdout
    assert f"{vectors([1])[0][0]:.4g}"[:5] in shown
    assert digest(2) in shown
    assert 'ATTRIBUTE "backbone"' in shown
    assert "nan" not in shown.split("DATA {", 1)[1].lower()
