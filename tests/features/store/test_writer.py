import time
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from headstart.features.errors import StoreError
from headstart.features.store import kept_index
from headstart.features.store import writer as module
from headstart.features.store.store import FeatureStore
from headstart.features.store.writer import ShardWriter
from headstart.tests.features.store.test_store import digest, store_in


def names(*numbers: int) -> list[str]:
    return [digest(number) for number in numbers]


def features(store: FeatureStore, count: int) -> np.ndarray:
    return np.ones((count, *store.form.shape), np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return store_in(tmp_path)


def test_what_others_wrote_before_the_last_listing_is_seen_for_all_digests(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ShardWriter({"cut": store}, names(*range(6)))
    store_in(tmp_path).write_shard(names(2, 3), features(store, 2))
    assert writer.still_lacking(names(0, 1), at_once=True).tolist() == [True, True]
    monkeypatch.setattr(writer, "_took", 1000.0)
    store_in(tmp_path).write_shard(names(4), features(store, 1))
    assert writer.still_lacking(names(2, 3), at_once=False).tolist() == [False, False]
    assert writer.still_lacking(names(4, 5), at_once=False).tolist() == [True, True]  # not listed again
    assert writer.still_lacking(names(4, 5), at_once=True).tolist() == [False, True]


def test_shards_are_written_beside_the_passes_and_told_in_order(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_IMAGES", 2)
    told: list[int] = []
    original = FeatureStore.write_shard

    def slow(self: FeatureStore, digests: list[str], rows: np.ndarray) -> Path:
        time.sleep(0.3)
        return original(self, digests, rows)

    monkeypatch.setattr(FeatureStore, "write_shard", slow)
    writer = ShardWriter({"cut": store}, names(*range(5)))
    start = time.perf_counter()
    assert not writer.add(names(0), {"cut": features(store, 1)})
    assert writer.add(names(1), {"cut": features(store, 1)})
    writer.write(lambda: told.append(1))
    assert time.perf_counter() - start < 0.2
    assert writer.add(names(2, 3, 0), {"cut": features(store, 3)})
    writer.write(lambda: told.append(2))
    assert told == [1]  # one shard at a time: it was waited for
    writer.add(names(4), {"cut": features(store, 1)})
    writer.close()
    assert told == [1, 2]
    assert store.missing(names(*range(5))) == []


def test_a_shard_that_can_not_be_written_is_an_error_at_the_next(store: FeatureStore) -> None:
    writer = ShardWriter({"cut": store}, names(0, 1))
    told: list[int] = []
    writer.add(names(0), {"cut": np.full((1, *store.form.shape), np.nan, np.float32)})
    writer.write(lambda: told.append(1))
    with pytest.raises(StoreError, match="not finite"):
        writer.wait()
    writer.close()
    assert told == []


@pytest.mark.parametrize(("many", "full_after"), [(9, 2), (10, 1)])
def test_shards_are_larger_where_very_many_images_lack_features(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, many: int, full_after: int
) -> None:
    for name, value in (("SHARD_IMAGES", 2), ("LARGER_SHARD_IMAGES", 4), ("MANY_IMAGES", many)):
        monkeypatch.setattr(module, name, value)
    writer = ShardWriter({"cut": store}, names(*range(10)))
    times = [writer.add(names(2 * at, 2 * at + 1), {"cut": features(store, 2)}) for at in range(2)]
    assert times.index(True) + 1 == full_after


def test_the_kept_index_is_brought_up_to_date_while_a_store_is_filled(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEEP_EVERY", 3)
    for name in ("LARGE", "NEW"):
        monkeypatch.setattr(kept_index, name, 2)
    writer = ShardWriter({"cut": store}, names(*range(10)))
    for number in range(4):
        writer.add(names(number), {"cut": features(store, 1)})
        writer.write()
        writer.wait()
    writer.close()
    (place,) = store.folder.glob("index-*")
    assert len(np.load(place / "rows.npy")) == 3
    assert writer.still_lacking(names(*range(5)), at_once=True).tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(("part", "full_after"), [(False, 2), (True, 3)])
def test_shards_of_a_set_that_is_shared_are_small(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, part: bool, full_after: int
) -> None:
    for name, value in (("SHARD_IMAGES", 3), ("_SHARDS_OF_SHARED", 5)):
        monkeypatch.setattr(module, name, value)
    writer = ShardWriter({"cut": store}, names(*range(10)), part=part)
    writer.keep_shards_small()
    times = [writer.add(names(at), {"cut": features(store, 1)}) for at in range(3)]
    assert times.index(True) + 1 == full_after


def test_small_shards_go_on_with_what_was_collected_while_one_was_written(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARDS_OF_SHARED", 5)
    begun, go_on, write_shard = Event(), Event(), store.write_shard

    def slow(*given: Any) -> Path:
        begun.set()
        go_on.wait(20)
        return write_shard(*given)

    monkeypatch.setattr(store, "write_shard", slow)
    writer = ShardWriter({"cut": store}, names(*range(10)))
    writer.keep_shards_small()  # to two images
    assert writer.add(names(0, 1), {"cut": features(store, 2)})
    writer.write()
    begun.wait(20)
    assert not writer.add(names(2, 3), {"cut": features(store, 2)})  # so extraction does not wait
    assert not writer.add(names(4), {"cut": features(store, 1)})
    go_on.set()
    writer.wait()
    assert store.missing(names(*range(6))) == names(5)
    assert len(store.shards()) == 2
    assert not writer.add(names(5), {"cut": features(store, 1)})
    writer.close()
    assert store.missing(names(*range(6))) == []


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_collected_is_written_after_an_interrupt_that_came_while_the_disk_was_waited_for(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(module, "SHARD_IMAGES", 2)
    go_on, write_shard, wait = Event(), store.write_shard, module.wait

    def slow(digests: list[str], rows: np.ndarray) -> Path:
        if digests == names(0, 1):
            go_on.wait(20)
            if fails:
                raise OSError("this shard")
        return write_shard(digests, rows)

    def interrupted(futures: Any) -> None:
        monkeypatch.setattr(module, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_shard", slow)
    monkeypatch.setattr(module, "wait", interrupted)
    writer = ShardWriter({"cut": store}, names(*range(4)))
    writer.add(names(0, 1), {"cut": features(store, 2)})
    writer.write()
    writer.add(names(2, 3), {"cut": features(store, 2)})
    with pytest.raises(KeyboardInterrupt):
        writer.write()
    go_on.set()
    if fails:
        with pytest.raises(OSError, match="this shard"):
            writer.close()
    else:
        writer.close()
    assert store.missing(names(*range(4))) == (names(0, 1) if fails else [])
