"""What the driver does beside the loop: what it sends, and what it holds in the stores."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.backbones.cuts import Cut
from headstart.features.cluster import extraction as extraction_module
from headstart.features.cluster.extraction_job import absolute_settings
from headstart.features.cluster.nodes import Reference
from headstart.features.cluster.worker import Built
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.digests import raw_digests
from headstart.features.images.columns.images import NUMBERS, Images
from headstart.features.images.columns.paths import Paths
from headstart.features.images.faults import Version
from headstart.features.images.files import fetched
from headstart.features.store.claims import Claims
from headstart.features.store.writer import LARGER_SHARD_IMAGES, MANY_IMAGES, ShardWriter
from headstart.tests.conftest import SMALL
from headstart.tests.features.store.test_store import store_in


def many(count: int) -> Images:
    """`count` images that are on no disk."""
    paths = Paths.of(f"data/cat/{number}.jpg" for number in range(count))
    digests = raw_digests([f"{number:064x}" for number in range(count)])
    return Images(paths, digests, {name: np.ones(count, kind) for name, kind in NUMBERS.items()})


def test_a_scratch_folder_of_the_driver_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fast").mkdir()
    asked = ExtractionConfig(Path("store"), scratch=Path("fast"))
    _, sent = absolute_settings(FeatureConfig(**SMALL), asked)
    (tmp_path / "fast").rmdir()
    assert replace(sent, batch_size=8).store == tmp_path / "store"


def test_the_driver_holds_little_of_each_image(tmp_path: Path) -> None:
    store, images = store_in(tmp_path), many(50_000)
    tracemalloc.start()
    missing = extraction_module._missing(images, {Cut("a", "b"): store})
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(missing) == 50_000
    assert held < 150 * 50_000


def test_a_store_that_ray_fills_is_claimed(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with extraction_module._claimed([store]) as renew:
        renew()
        assert list(store.folder.glob("claims/*.claimed"))  # `others` is true for a folder that can't be listed, too
        assert Claims(store.folder).others()
    assert not list(store.folder.rglob("*.claimed"))


def test_shards_are_as_large_as_the_whole_work_asks_for(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    writer = ShardWriter({"a": store}, [], expected=MANY_IMAGES + 1)
    digests = [f"{number:064x}" for number in range(LARGER_SHARD_IMAGES)]
    features = np.zeros((len(digests), *store.form.shape), np.float32)
    assert writer.extend(digests, at_once=True).all()
    assert not writer.add(digests[:-1], {"a": features[1:]})
    assert writer.add(digests[-1:], {"a": features[:1]})
    writer.close()
    assert store.count() == len(digests)
    assert not ShardWriter({"a": store}, []).extend(digests, at_once=True).any()


def test_a_worker_reads_the_bytes_that_the_driver_kept_and_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = Version(3, 17)
    with fetched.bytes_kept(tmp_path, "data"):
        fetched.keep("s3://a/1.jpg", version, b"abc")
        folder = fetched.kept_folder()
        with monkeypatch.context() as worker:  # within the block, which takes back what the driver keeps
            worker.setattr(fetched, "_kept", None)
            fetched.read_kept(folder)
            assert fetched.load("s3://a/1.jpg", version) == b"abc"
            fetched.keep("s3://a/2.jpg", version, b"abc")
            assert fetched.load("s3://a/2.jpg", version) is None
            fetched.read_kept(None)
            assert fetched.load("s3://a/1.jpg", version) is None


def test_workers_are_compared_by_the_images_that_both_could_read() -> None:
    class Task:
        tries_batch_sizes = False

    drawn, image = np.ones(4, np.float32), np.full(4, 2.0, np.float32)
    reference = Reference(Task())  # type: ignore[arg-type]
    assert not reference.difference("a", Built(8, {"": drawn, "x": image}, "CPU, 2 cores"))
    assert not reference.difference("b", Built(8, {"": drawn}, "CPU, 2 cores"))
    assert not reference.difference("c", Built(8, {"": drawn, "y": drawn}, "CPU, 2 cores"))
    assert "node a" in reference.difference("d", Built(8, {"": drawn, "x": drawn}, "CPU, 2 cores"))
    assert reference.batch_sizes == {"CPU": 8}
