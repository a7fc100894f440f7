"""Extraction by a Ray cluster of two nodes on this machine, whose workers and nodes are killed."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features.cluster import crew
from headstart.features.cluster.config import ClusterConfig
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import HeadstartError
from headstart.features.store.maintain import open_stores
from headstart.pipeline.featured import FeaturedExamples, cache_features
from headstart.tests.conftest import SMALL
from headstart.tests.features.cluster.counted_worker import (
    DEADLY,
    SHARD_IMAGES,
    BlindWorker,
    CountedWorker,
    ForeignWorker,
    OldWorker,
)
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own
IMAGES, BATCH = 400, 8
CONFIG = FeatureConfig(**SMALL)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`{cat,dog}/` with 400 images of noise and a broken one. Tests only read it."""
    data, draw = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for number in range(IMAGES):
        path = data / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    whole = (data / "cat" / "0.jpg").read_bytes()
    (data / "cat" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    return data


@pytest.fixture(scope="module")
def undisturbed(noise: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The features of `noise` by digest, made by one process."""
    store = tmp_path_factory.mktemp("undisturbed")
    cache_features(noise, CONFIG, ExtractionConfig(store=store, batch_size=BATCH))
    return vectors(store)


def vectors(root: Path) -> dict[str, bytes]:
    (store,) = open_stores(root)
    digests = store.digests()
    return {digest: row.tobytes() for digest, row in zip(digests, store.read(digests), strict=True)}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster whose head has no CPU, and two nodes of one CPU each. This process is connected to it.

    Its workers count in the folder `now`, a link to the folder of the present test.
    """
    import ray
    from ray.cluster_utils import Cluster

    now = tmp_path_factory.mktemp("cluster") / "now"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("COUNTED", str(now / "counts"))
        started = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False},
        )
        for _ in range(2):
            started.add_node(num_cpus=1, object_store_memory=80 << 20)
        ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
        started.now = now
        yield started
        ray.shutdown()
        started.shutdown()


@pytest.fixture
def nodes(started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cluster, whose workers count in the folder of this test. `other` is a node without this process."""
    import ray

    started.now.unlink(missing_ok=True)
    started.now.symlink_to(tmp_path)
    monkeypatch.setattr(crew, "Worker", CountedWorker)
    here = ray.get_runtime_context().get_node_id()  # killing the driver's node would kill the driver
    started.other = next(node for node in started.worker_nodes if node.node_id != here)
    return started


def passes(tmp_path: Path) -> Counter[int]:
    """The images in passes of each worker."""
    counts, found = tmp_path / "counts", Counter[int]()
    for line in counts.read_text().splitlines() if counts.exists() else []:
        process, images = map(int, line.split())
        found[process] += images
    return found


def disturbed(extract: Callable[[], Any], folder: Path, *acts: tuple[int, Callable[[], Any]]) -> Any:
    """Extract, and call functions meanwhile, each when the workers have had a number of images in passes."""
    with ThreadPoolExecutor() as pool:  # Ray adds nodes in the main thread alone
        extracting = pool.submit(extract)
        for images, act in acts:
            while sum(passes(folder).values()) < images:
                assert not extracting.done()
                time.sleep(0.01)
            act()
        return extracting.result()


def kill_a_worker(folder: Path) -> None:
    """Kill the process with the last pass."""
    os.kill(int((folder / "counts").read_text().split()[-2]), signal.SIGKILL)


def extracted(data: Path, folder: Path, **more: Any) -> FeaturedExamples:
    extraction = ExtractionConfig(store=folder / "store", batch_size=BATCH)
    return cache_features(data, CONFIG, extraction, by_ray=ClusterConfig(ray="auto", **more))


def test_two_nodes_share_the_work(nodes: Any, noise: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    cached = extracted(noise, tmp_path)
    assert vectors(tmp_path / "store") == undisturbed
    fields = cached.fields()
    assert (fields["extracted"], fields["cached"], fields["rejected"]) == (IMAGES, 0, 1)
    assert [(Path(one.path).name, one.reason) for one in cached.rejects] == [("broken.jpg", "truncated")]
    assert len(fields["nodes"]) == 2
    assert sum(node["images"] for node in fields["nodes"]) == IMAGES
    assert not [file for file in (tmp_path / "store").rglob("*") if "probe" in file.name or "partial" in file.name]
    assert extracted(noise, tmp_path).fields()["extracted"] == 0


def test_a_killed_worker_a_killed_node_and_a_new_node(
    nodes: Any, noise: Path, undisturbed: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "counts.pause").write_text("3.0")
    cached = lose_little(nodes, lambda: extracted(noise, tmp_path), tmp_path, 80)
    assert vectors(tmp_path / "store") == undisturbed
    assert [Path(one.path).name for one in cached.rejects] == ["broken.jpg"]
    assert capfd.readouterr().err.count("a worker died") in (2, 3)  # one may be started on a node that is dead already


@pytest.mark.soak
@pytest.mark.real
def test_photographs(nodes: Any, shared: Path, tmp_path: Path) -> None:
    data, lite = tmp_path / "data", FeatureConfig(backbone="efficientnet_lite0", precision="float32")
    for name in ("cats", "dogs"):
        (data / name).mkdir(parents=True)
        for path in sorted((shared / "data" / "dogs_vs_cats" / name).iterdir())[: IMAGES // 2]:
            (data / name / path.name).symlink_to(path)
    cache_features(data, lite, ExtractionConfig(store=tmp_path / "undisturbed", batch_size=BATCH))
    extraction = ExtractionConfig(store=tmp_path / "store", batch_size=BATCH)
    by_ray = ClusterConfig(ray="auto")
    (tmp_path / "counts.pause").write_text("3.0")
    cached = lose_little(nodes, lambda: cache_features(data, lite, extraction, by_ray=by_ray), tmp_path, 80)
    assert not cached.rejects
    assert vectors(tmp_path / "store") == vectors(tmp_path / "undisturbed")


def lose_little(nodes: Any, extract: Callable[[], FeaturedExamples], folder: Path, when: int) -> FeaturedExamples:
    """Extract. Kill a worker after `when` images, then a node, then add a node. No more is redone than must be."""
    new: list[Any] = []
    kill = (when, lambda: kill_a_worker(folder))
    remove = (2 * when, lambda: nodes.remove_node(nodes.other, allow_graceful=False))
    join = (2 * when, lambda: new.append(nodes.add_node(num_cpus=1, object_store_memory=80 << 20)))
    cached = disturbed(extract, folder, kill, remove, join)
    fields = cached.fields()
    assert (fields["extracted"], fields["cached"]) == (fields["examples"], 0)
    assert new[0].node_id[:8] in str(fields["nodes"])
    lost = 2 * (2 * SHARD_IMAGES + 4 * BATCH)  # of each: a shard is written, one is collected, passes are in hand
    images = passes(folder)
    first = 3 * len(images)  # the images by which workers are compared
    assert fields["examples"] <= sum(images.values()) <= fields["examples"] + lost + first
    return cached


@pytest.mark.soak
def test_an_image_that_kills_its_workers(nodes: Any, noise: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(3):
        path = data / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((noise / path.parent.name / path.name).read_bytes())
    (data / "dog" / "1.jpg").rename(data / "dog" / DEADLY)
    extraction = ExtractionConfig(store=tmp_path / "store", batch_size=BATCH, max_rejects=1.0)
    cached = cache_features(data, CONFIG, extraction, by_ray=ClusterConfig(ray="auto"))
    assert [(Path(one.path).name, one.reason) for one in cached.rejects] == [(DEADLY, "crashed")]
    assert cached.fields()["extracted"] == 2


def test_nodes_whose_last_bits_differ(
    nodes: Any, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crew, "Worker", ForeignWorker)
    alone = extracted(noise, tmp_path).fields()
    told = capfd.readouterr().err
    assert (alone["extracted"], len(alone["nodes"])) == (IMAGES, 1)
    assert "refused node" in told
    assert "--ray-mixed" in told
    for which in ("first", "second"):
        (tmp_path / f"counts.{which}").unlink()
    (tmp_path / "store").rename(tmp_path / "old")
    both = extracted(noise, tmp_path, ray_mixed=True).fields()
    assert (both["extracted"], len(both["nodes"])) == (IMAGES, 2)
    assert "its features differ by" in capfd.readouterr().err


def test_nodes_that_do_not_see_the_store(
    nodes: Any, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "Worker", BlindWorker)
    start = time.monotonic()
    with pytest.raises(HeadstartError, match=r"^node \S+ \(\w+\): --store .* does not see the store") as error:
        extracted(noise, tmp_path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 60


def test_nodes_with_another_version(nodes: Any, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "Worker", OldWorker)
    with pytest.raises(HeadstartError, match=r"it has headstart 0\.0\.1, the driver has"):
        extracted(noise, tmp_path)
