"""A scan by a Ray cluster of two nodes on this machine."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from headstart.features.cluster import crew
from headstart.features.cluster import scanning as cluster_scanning
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.extraction import Cluster, cluster
from headstart.features.cluster.probe import NodeError
from headstart.features.cluster.scanning import ScanJob, ScanTask, drawn, inspect_by
from headstart.features.errors import HeadstartError
from headstart.features.images import scan as scanning
from headstart.features.images.columns import inspected
from headstart.features.images.columns.images import Images
from headstart.features.images.columns.inspected import Inspected
from headstart.features.images.columns.paths import Paths
from headstart.features.images.faults import Fault
from headstart.features.images.scan import Reject, content_of
from headstart.pipeline.data.examples import Scan, scan, scan_memory
from headstart.tests.features.cluster.scan_workers import DEADLY, BlindWorker, DeadlyWorker, HalfBlindWorker
from headstart.tests.ray_nodes import two_ray_nodes
from PIL import Image

IMAGES = 120


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`{cat,dog}/` with 120 small images, some of two pages, and files of other kinds. They are not new."""
    data = tmp_path_factory.mktemp("pages")
    for number in range(IMAGES):
        path = data / ("cat", "dog")[number % 2] / f"{number}.{'tif' if number % 10 == 3 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        two = [Image.new("RGB", (9, 9 + page), (number, page, 0)) for page in range(2)]
        several = {"save_all": True, "append_images": two[1:]} if path.suffix == ".tif" else {}
        two[0].save(path, **several)
    (data / "cat" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (data / "cat" / "empty.png").touch()
    (data / "dog" / "notes.txt").write_text("no image")
    for file in data.rglob("*.*"):
        os.utime(file, (1.7e9, 1.7e9))
    return data


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster whose head has no CPU, and two nodes of one CPU each. Files are given to it from ten on."""
    monkeypatch.setattr(inspected, "MANY_FILES", 10)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("COUNTED", str(tmp_path / "counted"))
    with two_ray_nodes(), cluster(ClusterConfig(ray="auto")) as found:
        assert found
        found.begun().libraries = False  # workers start sooner
        yield found


def scanned(data: Path, folder: Path, workers: Cluster | None = None) -> Scan:
    scanner = workers.scanner() if workers else None
    return scan(data, memory=scan_memory(folder, data), pages="all", elsewhere=scanner)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_scan_as_one_process_does(
    workers: Cluster, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = scanned(pages, tmp_path / "alone")
    monkeypatch.chdir(pages.parent)
    shared = scanned(Path(pages.name), tmp_path / "shared", workers)
    assert [one.removeprefix(f"{pages.parent}/") for one in alone.examples.images.paths()] == list(
        shared.examples.images.paths()
    )
    np.testing.assert_array_equal(alone.examples.digests, shared.examples.digests)
    assert [one.reason for one in alone.rejects] == [one.reason for one in shared.rejects]
    assert [one.path.removeprefix(f"{pages.parent}/") for one in alone.rejects] == [one.path for one in shared.rejects]
    assert alone.ignored_kinds == shared.ignored_kinds
    read = content_of

    def read_again(path: str, status: os.stat_result) -> bytes | Fault:
        if path.endswith((".png", ".tif")) and not path.endswith("empty.png"):
            pytest.fail(path)
        return read(path, status)

    monkeypatch.setattr(scanning, "content_of", read_again)
    monkeypatch.setattr(inspected, "MANY_FILES", 10**6)
    assert scanned(Path(pages.name), tmp_path / "shared").examples == shared.examples  # images are not read again


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.soak
def test_a_file_that_kills_its_workers(
    workers: Cluster, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "Worker", DeadlyWorker)
    workers.begun().dismiss()  # those that were started with the fixture
    alone = scanned(pages, tmp_path / "alone")
    shared = scanned(pages, tmp_path / "shared", workers)
    assert len(shared.examples) == len(alone.examples) - 1
    (crashed,) = [one for one in shared.rejects if one.reason == "crashed"]
    assert crashed.path == str(pages / DEADLY)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_reads_nothing_is_refused(
    workers: Cluster, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crew, "Worker", HalfBlindWorker)
    workers.begun().dismiss()
    assert scanned(pages, tmp_path / "shared", workers).examples == scanned(pages, tmp_path / "alone").examples
    assert "it can't read" in capfd.readouterr().err
    monkeypatch.setattr(crew, "Worker", BlindWorker)
    workers.begun().dismiss()
    with pytest.raises(HeadstartError, match="it can't read"):
        list(inspect_by(workers.begun(), Paths.of(map(str, pages.rglob("*.png"))), 10**6, "first"))


def test_a_node_that_does_not_see_the_files(pages: Path, tmp_path: Path) -> None:
    files = [str(pages / "cat" / "0.png"), str(tmp_path / "gone.png")]
    ScanJob(ScanTask(10**6, "first", drawn(files))).meet()
    ScanJob(ScanTask(10**6, "first", drawn(files[1:]))).meet()  # the driver does not see it either
    with pytest.raises(NodeError, match=r"/elsewhere.png: this node does not see the file"):
        ScanJob(ScanTask(10**6, "first", [("/elsewhere.png", (5, 5))])).meet()


def test_a_unit_that_is_stopped_has_no_result(pages: Path) -> None:
    job = ScanJob(ScanTask(10**6, "all", []))
    files = Paths.of(map(str, sorted(pages.rglob("*.png"))))
    whole = job.do_unit(1, files, backwards=False)
    assert (len(whole.result.images), whole.stopped, job.tell(1), job.tell(2)) == (108, False, 109, 0)
    job.advance = lambda count: job.stop(2)  # type: ignore[method-assign]
    assert job.do_unit(2, files, backwards=False).stopped


def test_a_file_that_killed_three_workers_is_a_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = SimpleNamespace(positions=[1], result=None)
    monkeypatch.setattr(cluster_scanning, "Sharing", lambda *_, **__: SimpleNamespace(run=lambda: [piece]))
    files = Paths.of(["/a/0.png", "/a/deadly.png"])
    ((positions, found),) = inspect_by(SimpleNamespace(begin=lambda task: None), files, 10**6, "first")
    assert (list(positions), [(one.path, one.reason) for one in found.rejects]) == ([1], [("/a/deadly.png", "crashed")])


def test_many_unreadable_files_cost_the_driver_little(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Paths.of(f"/gone/{number}.png" for number in range(60_000))
    lost = [Reject(path, "vanished", "no such file") for path in files]
    result = Inspected(files, Images.of([]), np.zeros(0, np.int64), lost, list(range(len(files))))
    piece = SimpleNamespace(positions=range(len(files)), result=SimpleNamespace(result=result))
    monkeypatch.setattr(cluster_scanning, "Sharing", lambda *_, **__: SimpleNamespace(run=lambda: [piece]))
    monkeypatch.setattr(cluster_scanning, "inspect_part", lambda again, *_: again)
    start = time.process_time()
    found, again = inspect_by(SimpleNamespace(begin=lambda task: None), files, 10**6, "first")
    assert time.process_time() - start < 3
    assert (len(found[1].rejects), len(again[1])) == (0, len(files))
