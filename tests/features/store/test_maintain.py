"""Looking after a store: the same vectors whatever is done to its files."""

import json
import os
import shutil
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import headstart.features.store.compact
import headstart.features.store.store
import numpy as np
import pytest
from headstart.features.digests import hex_digests
from headstart.features.errors import StoreError
from headstart.features.files import written_atomically
from headstart.features.store import kept_index
from headstart.features.store.claims import Claim, Claims
from headstart.features.store.compact import compact, compact_by_itself, drop_unused
from headstart.features.store.maintain import contents, find_stores, open_stores, verify
from headstart.features.store.shards import read_digests
from headstart.features.store.store import FeatureStore
from headstart.tests.features.store.test_store import FINGERPRINT, digest, fill, store_in, vectors
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

DEAD = 1 << 30  # the number of no process


def holds(store: FeatureStore, numbers: set[int]) -> None:
    """`store`, and its one file for people, have the vectors of exactly `numbers`."""
    asked = [digest(number) for number in range(30)]
    assert set(store.missing(asked)) == {digest(number) for number in set(range(30)) - numbers}
    present = sorted(numbers)
    np.testing.assert_array_equal(
        store.read([digest(number) for number in present]), vectors(present).reshape(len(present), 5)
    )
    if store.merged.exists():
        store.update_merged()
        with h5py.File(store.merged) as file:
            shown = {name.decode(): row for name, row in zip(file["digest"][:], file["features"][:], strict=True)}
        assert set(shown) == {digest(number) for number in numbers}
        for number in numbers:
            np.testing.assert_array_equal(shown[digest(number)], vectors([number])[0])


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
    assert {opened.fingerprint.cut, other.fingerprint.cut} == {"c", "d"}
    shutil.rmtree(other.folder)
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
    store.write_merged()
    with h5py.File(store.merged) as reader:
        compact(store)
        assert np.isfinite(reader["features"][:]).all()
    assert all(shard.exists() for shard in old)
    assert len(store.shards()) == 1
    holds(store_in(tmp_path), set(range(6)))
    with h5py.File(store.merged) as file:
        assert len(file["features"]) == 6
    compact(store)
    assert not any(shard.exists() for shard in old)
    holds(store, set(range(6)))


def test_compaction_holds_few_copies_of_a_shard(tmp_path: Path) -> None:
    store, dimension, large = store_in(tmp_path, shape=[1 << 15]), 1 << 15, 8 << 20
    for number in range(40):  # of 1 MiB each
        digests = [digest(one) for one in range(8 * number, 8 * number + 8)]
        store.write_shard(digests, np.full((8, dimension), number, np.float32))
    tracemalloc.start()
    compact(store, large)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(store.shards()) == 5
    assert most < 3 * large, most / large


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


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A store of 20 small shards with an image each, which is compacted by itself from four shards."""
    monkeypatch.setattr(headstart.features.store.compact, "MANY_SHARDS", 3)
    store = store_in(tmp_path)
    for number in range(20):
        fill(store, [number])
    return store


def test_a_store_of_many_small_shards_is_compacted_and_says_so(many: FeatureStore, capsys) -> None:
    compact_by_itself(many, 6000.0)
    assert len(many.shards()) == 1
    holds(store_in(many.root), set(range(20)))
    said = capsys.readouterr().err
    assert said.startswith(f"{many.folder}: compacting 20 small shards, for at most 600 s")
    compact_by_itself(many, 6000.0)
    assert capsys.readouterr().err == ""
    assert not (many.folder / "claims").exists()


@pytest.mark.parametrize(
    ("large_shards", "small_shards", "left"), [(2, 2, 3), (2, 1, 3), (1, 2, 3), (4, 3, 7), (4, 4, 5)]
)
def test_large_shards_count_while_the_merged_file_could_show_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_shards: int, small_shards: int, left: int
) -> None:
    monkeypatch.setattr(headstart.features.store.compact, "MANY_SHARDS", 3)
    store = store_in(tmp_path)
    for number in range(small_shards):
        fill(store, [number])
    small = max(shard.stat().st_size for shard in store.shards())
    for number in range(large_shards):
        fill(store, list(range(1000 * (number + 1), 1000 * (number + 1) + 500)))
    compact_by_itself(store, 6000.0, large=2 * small + 1)
    assert len(store.shards()) == left


def claimed(store: FeatureStore, process: str) -> Path:
    claim = store.folder / "claims" / "00ff.claimed"
    claim.parent.mkdir(exist_ok=True)
    claim.write_text(process)
    return claim


def test_a_store_is_not_compacted_while_another_process_has_a_claim(many: FeatureStore, capsys) -> None:
    claim = claimed(many, "elsewhere-1-1")
    compact_by_itself(many, 0.0)
    assert len(many.shards()) == 20
    assert capsys.readouterr().err == ""
    os.utime(claim, (time.time() - 3600,) * 2)  # it is void
    compact_by_itself(many, 0.0)
    assert len(many.shards()) == 1


def test_one_process_compacts_a_store_at_a_time(many: FeatureStore) -> None:
    other = Claims(many.folder)
    assert other.take(headstart.features.store.compact._CLAIM) == Claim.MINE
    compact_by_itself(many, 0.0)
    assert len(many.shards()) == 20


@pytest.mark.parametrize("reason", ["time", "claim", "room", "Ctrl-C"])
def test_compaction_ends_between_two_large_shards_and_goes_on_later(
    many: FeatureStore, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    large, write = 8 * many.form.image_bytes, FeatureStore.write_shard
    monkeypatch.setattr(headstart.features.store.compact, "_small_shards", lambda store, _: store.shards())

    def disturbed(store: FeatureStore, *arguments: Any) -> Path:
        shard = write(store, *arguments)
        if reason == "time":
            monkeypatch.setattr(headstart.features.store.compact.time, "monotonic", lambda: 1e12)
        elif reason == "claim":
            claimed(store, "elsewhere-1-1")
        elif reason == "Ctrl-C":
            raise KeyboardInterrupt
        return shard

    if reason == "room":
        usage = type("usage", (), {"free": 3 * large})
        monkeypatch.setattr(headstart.features.store.compact.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(FeatureStore, "write_shard", disturbed)
    with suppress(KeyboardInterrupt):
        compact_by_itself(many, 0.0, large)
    monkeypatch.undo()
    assert len(many.shards()) == {"Ctrl-C": 21}.get(reason, 13)
    holds(store_in(many.root), set(range(20)))
    shutil.rmtree(many.folder / "claims", ignore_errors=True)
    compact(many)
    assert len(many.shards()) == 1
    holds(store_in(many.root), set(range(20)))


def test_a_damaged_shard_ends_compaction_and_is_told(many: FeatureStore, capsys) -> None:
    flip(many.shards()[3])
    compact_by_itself(many, 0.0)
    assert "not compacted: " in capsys.readouterr().err
    assert len(many.shards()) == 20


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


class Killed(BaseException):
    pass


def stopping(function: Any, steps: Iterator[bool]) -> Any:
    def step(*arguments: Any, **settings: Any) -> Any:
        if not next(steps, False):
            raise Killed
        return function(*arguments, **settings)

    return step


class AnySequence(RuleBasedStateMachine):
    """Any sequence of what can happen to a store, against a set in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name, value in (("LARGE", 3), ("NEW", 1), ("_REPLACED_SECONDS", 0)):
            self.patch.setattr(kept_index, name, value)
        self.patch.setattr(headstart.features.store.compact, "MANY_SHARDS", 2)
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
        with suppress(Killed), written_atomically(self.store.folder / "shard-0.h5") as partial:
            raise Killed
        dead = partial.name.replace(f"-{os.getpid()}-", f"-{DEAD}-")
        (self.store.folder / dead).write_bytes(content[: len(content) // 2])

    @rule()
    def another_process(self) -> None:
        self.store = store_in(self.root)
        assert not list(self.store.folder.glob(".*.partial.*"))

    @rule(large=st.sampled_from([1 << 13, 1 << 20]))
    def compact(self, large: int) -> None:
        compact(self.store, large)

    @rule(large=st.sampled_from([1 << 13, 1 << 20]))
    def compact_by_itself(self, large: int) -> None:
        compact_by_itself(self.store, 0.0, large)

    @rule()
    def keep_the_index(self) -> None:
        self.store.update_merged()

    @rule(used=st.sets(st.integers(0, 29)))
    def gc(self, used: set[int]) -> None:
        drop_unused(self.store, [digest(number) for number in used])
        self.model &= used

    @rule(after=st.integers(0, 8), used=st.none() | st.sets(st.integers(0, 29)))
    def killed_while_rewriting(self, after: int, used: set[int] | None) -> None:
        """Nothing is done to the disk any more after some steps of it, as on SIGKILL."""
        with pytest.MonkeyPatch.context() as patch:
            steps = iter([True] * after)
            for owner, name in ((os, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "touch")):
                patch.setattr(owner, name, stopping(getattr(owner, name), steps))
            with suppress(Killed):
                if used is None:
                    compact(self.store)
                else:
                    drop_unused(self.store, [digest(number) for number in used])
        for partial in self.store.folder.glob(".*.partial.*"):
            partial.rename(partial.with_name(partial.name.replace(f"-{os.getpid()}-", f"-{DEAD}-")))
        self.store = store_in(self.root)
        if used is not None:
            drop_unused(self.store, [digest(number) for number in used])
            self.model &= used

    @rule(which=st.integers(0, 29))
    def damage_and_repair(self, which: int) -> None:
        """The number is drawn whatever shards there are: a slow machine removes one more or less."""
        shards = self.store.shards()
        if not shards:
            return
        held = {shard: set(hex_digests(read_digests(shard, self.store.form))) for shard in shards}
        damaged = shards[which % len(shards)]
        flip(damaged)
        assert [bad.path for bad in verify([self.store]).bad] == [str(damaged)]
        verify([self.store], repair=True)
        elsewhere = set().union(*(held[shard] for shard in shards if shard != damaged))
        self.model -= {number for number in range(30) if digest(number) in held[damaged] - elsewhere}

    @invariant()
    def same_as_the_model(self) -> None:
        holds(self.store, self.model)

    def teardown(self) -> None:
        found = verify([self.store])
        assert (found.bad, found.indexes) == ([], [])
        shutil.rmtree(self.root)
        self.patch.undo()


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=15, stateful_step_count=15)


def test_only_shards_of_the_folder_are_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    store = store_in(tmp_path / "store")
    shard = fill(store, [1])
    for name in ("shard-0.h5.retired", "victim.retired", "fingerprint.json.retired", "..retired", "shard-..h5.retired"):
        (store.folder / name).touch()
    compact(store)
    assert victim.exists()
    assert shard.exists()
    holds(store, {1})


def test_a_folder_where_a_shard_should_be_is_named_and_other_bad_shards_are_removed(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    fill(store, [1])
    (store.folder / "shard-0123456789abcdef.h5").mkdir()
    (store.folder / "shard-fedcba9876543210.h5").write_bytes(b"rubbish")
    for repair in (False, True):
        found = verify([store], repair)
        assert len(found.bad) == 1
        (folder,) = found.folders
        assert "remove it by hand" in folder.reason
        assert "--repair" not in folder.reason
    assert verify([store]).bad == []
    assert Path(folder.path).is_dir()
    compact(store)
    holds(store_in(tmp_path), {1})


def test_a_shard_that_can_not_be_read_is_no_bad_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    shard = fill(store, [1])

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(shard))

    monkeypatch.setattr(h5py, "File", denied)
    with pytest.raises(PermissionError, match=shard.name):
        verify([store], repair=True)
    monkeypatch.undo()
    holds(store_in(tmp_path), {1})


def test_a_merged_file_that_was_written_last_by_who_looked_first_is_mended(tmp_path: Path, monkeypatch) -> None:
    store, other = store_in(tmp_path), store_in(tmp_path)
    fill(store, [1])
    fill(store, [2])
    write = headstart.features.store.store.write_merged
    others = iter([lambda: compact(other), lambda: compact(other)])

    def late(*arguments: Any) -> None:
        next(others, lambda: None)()
        next(others, lambda: None)()
        write(*arguments)

    monkeypatch.setattr(headstart.features.store.store, "write_merged", late)
    store.write_merged()
    with h5py.File(store.merged) as file:
        assert np.isfinite(file["features"][:]).all()
    monkeypatch.undo()
    fill(store, [3])
    store.update_merged()
    with h5py.File(store.merged) as file:
        assert len(file["features"]) == 3


def test_a_shard_written_again_while_it_is_removed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = store_in(tmp_path), store_in(tmp_path)
    fill(store, [1])
    drop_unused(store, [])
    unlink = Path.unlink
    writers = []

    def slow(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("shard-") and path.suffix == ".h5" and not writers:
            writers.append(threading.Thread(target=fill, args=(other, [1])))
            writers[0].start()
            time.sleep(0.3)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", slow)
    store.remove_retired()
    writers[0].join()
    holds(store_in(tmp_path), {1})


def test_what_vanishes_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    fill(store, [1])
    fill(store, [2])
    listed = store.shards()
    listed[0].unlink()
    monkeypatch.setattr(FeatureStore, "shards", lambda _: listed)
    found = verify([store])
    assert (found.shards, found.bad) == (1, [])
    with pytest.raises(StoreError, match="repeat the command"):
        compact(store)


def described(folder: Path, **changes: object) -> None:
    """Write a fingerprint.json into `folder`; a field that is changed to None is left out."""
    fields = {"format_version": 1, **FINGERPRINT, **changes}
    folder.mkdir(exist_ok=True)
    description = {name: value for name, value in fields.items() if value is not None}
    (folder / "fingerprint.json").write_text(json.dumps(description))


def test_a_fingerprint_that_can_not_be_read_hides_no_other(tmp_path: Path) -> None:
    fill(store_in(tmp_path), [1])
    (tmp_path / "other").mkdir()
    for wrong in (b"[" * 100_000, b"[]", b"{}"):
        (tmp_path / "other" / "fingerprint.json").write_bytes(wrong)
        stores, (bad,) = find_stores(tmp_path)
        assert len(stores) == len(open_stores(tmp_path)) == 1
        assert bad.path == str(tmp_path / "other")
        assert "delete the folder" in bad.reason


def test_a_fingerprint_that_lacks_a_field_or_has_another_type_in_it_is_told(tmp_path: Path, capsys) -> None:
    store = store_in(tmp_path)
    fill(store, [1])
    folder = tmp_path / "[old]"  # printed as it is, though Rich would take it for markup
    wrong = [({name: None}, f"lacks the field {name!r}") for name in FINGERPRINT]
    wrong += [({"backbone": 3}, "the field 'backbone' can't be 3"), ({"view": "1"}, "the field 'view' can't be")]
    wrong += [({"dtype": ","}, "fingerprint.json"), ({"shape": ["a"]}, "the field 'shape' can't be")]
    for changes, said in wrong:
        described(folder, **changes)
        (opened,) = open_stores(tmp_path)
        assert contents(opened).folder == store.folder
        line = capsys.readouterr().err
        assert line.startswith(f"left out: {folder}: no features of headstart's: fingerprint.json: ")
        assert said in line
        assert line.count("\n") == 1
