"""Searches by Ray on nodes that are busy, differ, or lose workers."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from headstart.features.cluster.config import ClusterConfig
from headstart.features.errors import HeadstartError, StoreError
from headstart.pipeline.sweep import by_ray
from headstart.pipeline.sweep.by_ray import search_by_ray
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.owner import StudyOwner
from headstart.pipeline.sweep.space import Space, read_choices
from headstart.pipeline.sweep.study import Study
from headstart.tests.pipeline.sweep.test_sweep import SMALL_SPACE, material, of_two
from headstart.tests.pipeline.sweep.trial_workers import FullWorker, LethalWorker, OldWorker, SlowWorker
from headstart.tests.ray_nodes import two_ray_nodes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own
ON_ONE = ClusterConfig(ray="auto", ray_cpus=1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """See `two_nodes`. Its workers leave a mark in the file that LETHAL names."""
    mark = tmp_path_factory.mktemp("cluster") / "lethal"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("LETHAL", str(mark))
        with two_ray_nodes() as ray:
            yield ray, mark


@pytest.fixture
def two_nodes(cluster: tuple[Any, Path]) -> Any:
    """A cluster of two nodes of one CPU, besides a head without any. This process is connected to it."""
    ray, mark = cluster
    mark.unlink(missing_ok=True)
    return ray


@pytest.fixture
def study(tmp_path: Path) -> Study:
    file = tmp_path / "space.toml"
    file.write_text(SMALL_SPACE)
    return Study(tmp_path / "study.db", Space(read_choices(file), of_two()), "random", 0)


@contextmanager
def held_node(ray: Any) -> Iterator[None]:
    """Within the block, take the CPU of a node, as another job."""
    holder = ray.remote(num_cpus=1)(type("Holder", (), {"hold": lambda self: os.getpid()})).remote()
    ray.get(holder.hold.remote())
    try:
        yield
    finally:
        ray.kill(holder)


def folders() -> set[Path]:
    """The folders of trials of all searches on this machine."""
    return {path for path in Path(tempfile.gettempdir()).glob("headstart-trials-*") if any(path.iterdir())}


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_a_search_on_a_busy_cluster_ends_in_time(two_nodes: Any, study: Study, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(by_ray, "TrialWorker", SlowWorker)
    before = folders()
    with held_node(two_nodes):
        start = time.monotonic()
        search_by_ray(study, material(), SweepConfig(trials=10_000, timeout=20.0), ON_ONE)
        assert time.monotonic() - start < 65  # the worker that waits for the CPU is not waited for
        done = len(study.finished())
        assert 0 < done < 100
    time.sleep(3.0)
    assert len(study.finished()) == done
    assert folders() <= before


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_a_grid_that_is_used_up_ends_on_a_busy_cluster(two_nodes: Any, tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text("layers = 0\nlearning_rate = [3e-2, 1e-1]\nepochs = 3\n")
    study = Study(tmp_path / "grid.db", Space(read_choices(file), of_two()), "grid", 0)
    with held_node(two_nodes):
        search_by_ray(study, material(), SweepConfig(trials=10_000, sampler="grid"), ON_ONE)
    assert len(study.finished()) == len(study._grid) > 2


@pytest.mark.timeout(180)
def test_a_head_that_kills_its_workers_does_not_end_the_search(
    two_nodes: Any, study: Study, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(by_ray, "TrialWorker", LethalWorker)
    search_by_ray(study, material(), SweepConfig(trials=3), ON_ONE)
    assert len(study.finished()) == 3
    assert "3 workers died of one head" in capfd.readouterr().err


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_a_study_whose_owner_is_killed_is_told(two_nodes: Any, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(StudyOwner):
        def report(self, worker: str, value: float, step: int) -> bool:
            os._exit(1)

    monkeypatch.setattr(by_ray, "StudyOwner", Dying)
    with pytest.raises(HeadstartError, match="the owner of the study died") as error:
        search_by_ray(study, material(), SweepConfig(trials=3), ON_ONE)
    assert "\n" not in str(error.value)


@pytest.mark.timeout(120)
def test_an_error_of_the_owner_is_raised_as_it_is(two_nodes: Any, study: Study, monkeypatch) -> None:
    class Full(StudyOwner):
        def tell(self, *arguments: Any) -> None:
            raise StoreError("--study study.db: No space left on device")

    monkeypatch.setattr(by_ray, "StudyOwner", Full)
    with pytest.raises(StoreError, match="No space left on device") as error:
        search_by_ray(study, material(), SweepConfig(trials=3), ON_ONE)
    assert len(str(error.value)) < 100


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("worker", "told"),
    [
        pytest.param(OldWorker, "it has headstart 0.0.1", marks=pytest.mark.soak),
        (FullWorker, "a worker of the search died ([Errno 28] No space left on device"),
    ],
)
def test_a_node_that_can_not_take_part_is_told_and_does_not_end_the_search(
    two_nodes: Any,
    study: Study,
    worker: type[by_ray.TrialWorker],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(by_ray, "TrialWorker", worker)
    search_by_ray(study, material(), SweepConfig(trials=3), ON_ONE)
    assert len(study.finished()) == 3
    assert told in " ".join(capfd.readouterr().err.split())
