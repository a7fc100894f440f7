"""Looking after a store: the same vectors whatever is done to its files."""

import os
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from features.errors import StoreError
from features.maintain import compact, contents, drop_unused, open_stores, verify
from features.shards import hex_digests, read_digests
from features.store import FeatureStore
from tests.test_store import digest, fill, store_in, vectors


def holds(store: FeatureStore, numbers: set[int]) -> None:
    """`store`, and its one file for people, have the vectors of exactly `numbers`."""
    asked = [digest(number) for number in range(30)]
    assert set(store.missing(asked)) == {digest(number) for number in set(range(30)) - numbers}
    present = sorted(numbers)
    np.testing.assert_array_equal(
        store.read([digest(number) for number in present]), vectors(present).reshape(len(present), 5)
    )


def flip(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def test_contents_are_counted(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    fill(store, [1, 2])
    fill(store, [2, 3])
    found = contents(store)
    assert (found.images, found.shards, found.backbone, found.cut) == (3, 2, "b", "c")
    assert found.bytes == sum(shard.stat().st_size for shard in store.shards())


def test_stores_are_opened_by_what_they_say_of_themselves(tmp_path: Path) -> None:
    fill(store_in(tmp_path), [1])
    fill(store_in(tmp_path, cut="d"), [2])
    (opened, other) = open_stores(tmp_path)
    assert {opened.fingerprint["cut"], other.fingerprint["cut"]} == {"c", "d"}
    for wrong in (b"", b"[]", b"{}", b'{"backbone": "b"}'):
        (opened.folder / "fingerprint.json").write_bytes(wrong)
        with pytest.raises(StoreError, match=opened.folder.name):
            open_stores(tmp_path)
    with pytest.raises(StoreError, match="no such folder"):
        open_stores(tmp_path / "nowhere")


def test_bad_shards_are_named_and_repaired(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    fill(store, [1, 2])
    first, second = fill(store, [3]), fill(store, [4])
    flip(first)
    second.write_bytes(b"")
    found = verify([store])
    assert (found.shards, found.images) == (3, 2)
    assert {bad.path for bad in found.bad} == {str(first), str(second)}
    verify([store], repair=True)
    assert verify([store]).bad == []
    assert not first.exists()
    holds(store_in(tmp_path), {1, 2})


def test_small_shards_become_one_and_readers_are_not_disturbed(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    old = [fill(store, [number, number + 1]) for number in range(5)]
    with h5py.File(store.write_view()) as reader:
        compact(store)
        assert np.isfinite(reader["features"][:]).all()
    assert all(shard.exists() for shard in old)
    assert len(store.shards()) == 1
    holds(store_in(tmp_path), set(range(6)))
    with h5py.File(store.folder / "features.h5") as file:
        assert len(file["features"]) == 6
    compact(store)
    assert not any(shard.exists() for shard in old)
    holds(store, set(range(6)))


def test_shards_grow_to_the_size_asked_for(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for number in range(20):
        fill(store, [number])
    compact(store, large=8 * 5 * 4 * 10**3)
    assert len(store.shards()) == 1
    other = store_in(tmp_path, cut="d")
    for number in range(20):
        fill(other, [number])
    size = other.shards()[0].stat().st_size
    compact(other, large=2 * size)
    assert len(other.shards()) < 20
    holds(other, set(range(20)))


def test_what_no_one_uses_is_dropped(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    whole, _, unused = fill(store, [1, 2]), fill(store, [2, 3, 4]), fill(store, [5])
    drop_unused(store, [digest(number) for number in (1, 2, 3, 9)])
    holds(store_in(tmp_path), {1, 2, 3})
    assert whole in store.shards()
    assert unused.exists()  # for a generation
    drop_unused(store, [digest(number) for number in (1, 2, 3, 9)])
    assert not unused.exists()


def test_a_shard_that_is_made_again_after_it_was_retired_is_used(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    fill(store, [1])
    drop_unused(store, [])
    assert store.missing([digest(1)]) == [digest(1)]
    fill(store, [1])
    holds(store, {1})


class AnySequence(RuleBasedStateMachine):
    """Any sequence of what can happen to a store, against a set in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = store_in(self.root)
        self.model: set[int] = set()

    @rule(numbers=st.lists(st.integers(0, 29), min_size=1, max_size=6, unique=True))
    def write(self, numbers: list[int]) -> None:
        fill(self.store, numbers)
        self.model |= set(numbers)

    @rule(numbers=st.lists(st.integers(0, 29), min_size=1, max_size=6, unique=True))
    def killed_while_writing(self, numbers: list[int]) -> None:
        content = fill(store_in(self.root / "elsewhere"), numbers).read_bytes()
        shutil.rmtree(self.root / "elsewhere")
        dead = f".{os.uname().nodename}-{os.getpid()}-1.partial.shard-0.h5"
        (self.store.folder / dead).write_bytes(content[: len(content) // 2])

    @rule()
    def another_process(self) -> None:
        self.store = store_in(self.root)
        assert not list(self.store.folder.glob(".*.partial.*"))

    @rule(large=st.sampled_from([1 << 13, 1 << 20]))
    def compact(self, large: int) -> None:
        compact(self.store, large)

    @rule(used=st.sets(st.integers(0, 29)))
    def gc(self, used: set[int]) -> None:
        drop_unused(self.store, [digest(number) for number in used])
        self.model &= used

    @rule(data=st.data())
    def damage_and_repair(self, data: st.DataObject) -> None:
        shards = self.store.shards()
        if not shards:
            return
        held = {shard: set(hex_digests(read_digests(shard, self.store.form))) for shard in shards}
        damaged = data.draw(st.sampled_from(shards))
        flip(damaged)
        assert [bad.path for bad in verify([self.store]).bad] == [str(damaged)]
        verify([self.store], repair=True)
        elsewhere = set().union(*(held[shard] for shard in shards if shard != damaged))
        self.model -= {number for number in range(30) if digest(number) in held[damaged] - elsewhere}

    @invariant()
    def same_as_the_model(self) -> None:
        holds(self.store, self.model)
        assert verify([self.store]).bad == []

    def teardown(self) -> None:
        shutil.rmtree(self.root)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
