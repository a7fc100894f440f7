"""The work of a worker, without Ray."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.backbones.cuts import Cut
from headstart.features.cluster import stream as stream_module
from headstart.features.cluster.extraction_job import ExtractionJob, ExtractionTask, Given, Met
from headstart.features.cluster.probe import NodeError, NodeMemoryError, probe_file
from headstart.features.cluster.stream import UnitStream
from headstart.features.cluster.unit_job import UnitJob
from headstart.features.cluster.worker import Built, Job, Worker
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.frozen.frozen import FrozenBackbone, Pass
from headstart.features.frozen.network import Network, load_network
from headstart.features.images.augment import View
from headstart.features.images.columns.images import Images
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.files import fetched
from headstart.features.images.scan import ImageFile
from headstart.tests.conftest import SMALL

CONFIG = FeatureConfig(**SMALL)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    store = tmp_path_factory.mktemp("network")
    return load_network(CONFIG, ExtractionConfig(store=store, batch_size=8))


@pytest.fixture(scope="module")
def frozen(network: Network) -> FrozenBackbone:
    return network.freeze()


@pytest.fixture
def images(drawn: Path) -> Images:
    """Forty good images, and two broken ones whose header is whole."""
    seen = inspect_images(sorted(drawn.glob("*/*.jpg")))
    found = [image for images in seen for image in images if isinstance(image, ImageFile)]
    return Images.of(sorted(found, key=lambda image: "broken" in image.path))


def stream_of(network: Network, frozen: FrozenBackbone, store: Path) -> UnitStream:
    inside = replace(network, extraction=ExtractionConfig(store=store))
    stores = {cut: one.create() for cut, one in inside.stores().items()}
    return UnitStream(frozen, stores, network.images, None, 42)


def held_passes(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let forward passes wait for an event."""
    event, original = threading.Event(), FrozenBackbone.__call__

    def waiting(self: FrozenBackbone, pixels: np.ndarray, *run: Pass) -> dict[Cut, np.ndarray]:
        event.wait(60)
        return original(self, pixels, *run)

    monkeypatch.setattr(FrozenBackbone, "__call__", waiting)
    return event


def test_units_that_come_in_time_are_one_stream(
    tmp_path: Path, network: Network, frozen: FrozenBackbone, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = list[int]()
    original = UnitStream._run

    def counted(self: UnitStream, first: object) -> None:
        begun.append(1)
        original(self, first)  # type: ignore[arg-type]

    monkeypatch.setattr(UnitStream, "_run", counted)
    event, stream = held_passes(monkeypatch), stream_of(network, frozen, tmp_path)
    with ThreadPoolExecutor() as pool:
        units = [pool.submit(stream.extract, 1, images[:25], False, False)]
        units += [pool.submit(stream.extract, 2, images[25:], False, False)]
        time.sleep(0.3)
        event.set()
        done = [unit.result(timeout=60) for unit in units]
    assert [one.extracted for one in done] == [25, 15]
    assert [(at, reason) for at, reason, _ in done[1].rejects] == [(15, "truncated"), (16, "truncated")]
    assert len(begun) == 1
    (store,) = stream.stores.values()
    assert store.count() == 40
    third = stream.extract(3, images, True, False)
    assert (third.extracted, len(third.rejects), len(begun)) == (0, 2, 2)
    stream.close()


def test_a_unit_is_stopped_before_and_while_it_is_extracted(
    tmp_path: Path, network: Network, frozen: FrozenBackbone, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_PORTION", 4)
    event, stream = held_passes(monkeypatch), stream_of(network, frozen, tmp_path)
    stream.stop(2)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(stream.extract, 1, images, False, False)
        second = pool.submit(stream.extract, 2, images[:4], False, False)
        time.sleep(0.3)
        stream.stop(1)
        event.set()
        done = [first.result(timeout=60), second.result(timeout=60)]
    assert [one.stopped for one in done] == [True, True]
    assert done[0].extracted < 40
    assert done[1].extracted == 0
    (store,) = stream.stores.values()
    assert store.count() == done[0].extracted  # what was done is written
    stream.close()


def test_a_unit_that_two_workers_have_is_written_while_it_is_extracted(
    tmp_path: Path, network: Network, frozen: FrozenBackbone, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_SHARED_SECONDS", 0.0)
    passes, event, original = list[int](), threading.Event(), FrozenBackbone.__call__

    def held(self: FrozenBackbone, pixels: np.ndarray, *run: Pass) -> dict[Cut, np.ndarray]:
        passes.append(len(pixels))
        if len(passes) > 3:
            event.wait(60)
        return original(self, pixels, *run)

    monkeypatch.setattr(FrozenBackbone, "__call__", held)
    slow, fast = stream_of(network, frozen, tmp_path), stream_of(network, frozen, tmp_path)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(slow.extract, 1, images, False, True)
        (store,) = slow.stores.values()
        for _ in range(600):
            if written := store.count():
                break
            time.sleep(0.1)
        event.set()
        assert 0 < written < 40
        assert one.result(timeout=60).extracted == 40
    before = sum(passes)
    assert fast.extract(1, images[:40], True, True).extracted == 0  # it finds what the other has written
    assert sum(passes) == before
    for stream in (slow, fast):
        stream.close()


def test_an_error_reaches_all_units_and_the_next_unit_is_done(
    tmp_path: Path, network: Network, frozen: FrozenBackbone, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, failing = stream_of(network, frozen, tmp_path), [True]
    original = FrozenBackbone.__call__

    def failed(self: FrozenBackbone, pixels: np.ndarray, *run: Pass) -> dict[Cut, np.ndarray]:
        if failing:
            raise MemoryError("no more")
        return original(self, pixels, *run)

    monkeypatch.setattr(FrozenBackbone, "__call__", failed)
    with pytest.raises(MemoryError):
        stream.extract(1, images[:20], False, False)
    failing.clear()
    assert stream.extract(2, images[:20], True, False).extracted == 20
    stream.close()


@pytest.fixture
def task_of(tmp_path: Path, network: Network, images: Images) -> Callable[..., ExtractionTask]:
    def make(nonce: str, view: View | None = None, **more: object) -> ExtractionTask:
        extraction = ExtractionConfig(store=tmp_path, batch_size=8)
        own = replace(network, extraction=extraction)
        prints = [own.fingerprint(cut, view) for cut in own.cuts]
        for store in own.stores(view).values():
            store.create()
        task = ExtractionTask(network.config, extraction, view, nonce, [images[41], images[0]], len(images), prints)
        return replace(task, **more)  # type: ignore[arg-type]

    return make


@pytest.mark.slow
def test_the_network_stays_for_the_next_view(
    tmp_path: Path, task_of: Callable[..., ExtractionTask], images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, original = list[int](), Network.freeze
    monkeypatch.setattr(Network, "freeze", lambda self, keep=False: (frozen.append(1), original(self, keep))[1])
    job = None
    with probe_file(tmp_path) as nonce:
        for view in (None, View("flip", 0, 1)):
            task, before = task_of(nonce, view), job
            job = ExtractionJob(task, before)
            if before:
                before.close()
            task.require_same(job.meet())
            built = job.build({})
            assert job.do_unit(1, Given(images, False), False).extracted == 40
    assert job
    job.close()
    assert len(frozen) == 1
    assert built.batch_size == 8
    assert list(built.features) == ["", images[0].digest]  # image 41 can't be decoded
    assert len(list(tmp_path.glob("*/fingerprint.json"))) == 2


def test_an_image_that_the_worker_can_not_read_is_left_out_of_the_comparison(
    tmp_path: Path, task_of: Callable[..., ExtractionTask], images: Images
) -> None:
    gone = replace(images[0], path=str(tmp_path / "gone.jpg"))
    with probe_file(tmp_path) as nonce:
        job = ExtractionJob(task_of(nonce, sample=[gone]))
        assert not job.meet().sees_images
        assert list(job.build({}).features) == [""]
        job.close()


def test_images_that_the_driver_does_not_see_either_refuse_no_node(
    tmp_path: Path, task_of: Callable[..., ExtractionTask], images: Images
) -> None:
    task = task_of("", sample=[images[0]])
    prints = [one.to_json() for one in task.fingerprints]
    with pytest.raises(NodeError, match="this node does not see the image"):
        task.require_same(Met(prints, sees_images=False))
    gone = replace(images[0], path=str(tmp_path / "gone.jpg"))
    replace(task, sample=[gone]).require_same(Met(prints, sees_images=False))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("HEADSTART_CPUS", "1")  # it is set back at the end
    return Worker(1, libraries=False)


class ResourceExhaustedError(Exception):
    """As TensorFlow's."""


class Plain(UnitJob):
    """A job with a fault, which any kind of job may have. It is its own task."""

    tries_batch_sizes = takes_network = False

    def __init__(self, error: Exception, kept: Path | None = None) -> None:
        super().__init__()
        self.error, self.kept = error, kept

    def job(self, before: Job | None) -> Job:
        return self

    def require_same(self, met: object) -> None:
        pass

    def meet(self) -> None:
        pass

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        raise self.error

    def do(self, items: object) -> object:
        raise self.error


@pytest.mark.parametrize("error", [MemoryError(), ResourceExhaustedError("OOM when allocating")])
def test_a_lack_of_memory_is_told_as_one(worker: Worker, error: Exception) -> None:
    worker.meet(Plain(error))
    with pytest.raises(NodeMemoryError, match="its memory is not enough"):
        worker.build({})
    with pytest.raises(NodeMemoryError, match="its memory is not enough"):
        worker.do_unit(1, [], False)


def test_the_thread_of_an_extraction_ends_with_its_job(
    tmp_path: Path, task_of: Callable[..., ExtractionTask], worker: Worker
) -> None:
    with probe_file(tmp_path) as nonce:
        worker.meet(task_of(nonce))
        worker.build({})
        (thread,) = (one for one in threading.enumerate() if one.name == "headstart-stream")
        worker.meet(Plain(MemoryError()))
        thread.join(20)
        assert not thread.is_alive()


def test_a_unit_that_failed_is_not_ended_again(tmp_path: Path, network: Network, frozen: FrozenBackbone) -> None:
    stream = stream_of(network, frozen, tmp_path)
    unit = stream_module._Unit(1, Images.of([]), again=False, backwards=False, last=0)
    stream._begun = deque([unit])
    stream._ended = 0.0
    end = stream._ending(1)
    unit.over.set_exception(OSError("the disk is full"))
    end()
    stream.close()


def test_what_was_prepared_stays_for_the_task_that_takes_it(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[object]()

    class Taking(Plain):
        takes_network = True

        def job(self, before: Job | None) -> Job:
            given.append(before)
            return self

    monkeypatch.setattr(fetched, "_of_another", None)
    facts, taking = Plain(MemoryError()), Taking(MemoryError())
    worker.prepare(facts)
    worker.meet(Plain(MemoryError(), tmp_path))
    assert fetched._of_another == tmp_path  # each kind of task reads what the driver kept
    for _ in range(2):
        worker.meet(taking)
    assert given == [facts, taking]
