"""A search by Ray: its owner without a cluster, and a cluster on this machine whose workers are killed."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import optuna
import psutil
import pytest
from headstart.features.cluster.config import ClusterConfig
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import HeadstartError, StoreError
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.sweep import by_ray, trials
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.owner import Left, StudyOwner
from headstart.pipeline.sweep.space import CutChoice, Space, read_choices
from headstart.pipeline.sweep.study import Study
from headstart.pipeline.sweep.trial_worker import ServedStudy
from headstart.tests.conftest import SMALL_FLAGS
from headstart.tests.features.cluster.fake_ray import Actor, FakeRay, RayError
from headstart.tests.pipeline.sweep.test_sweep import material

NO_PRUNING = optuna.pruners.NopPruner()


@pytest.fixture
def space(small: FeatureConfig) -> Space:
    return Space(read_choices(None, "none"), CutChoice.of(small), "loss")


@pytest.fixture
def owner(space: Space, tmp_path: Path) -> StudyOwner:
    return StudyOwner(tmp_path / "study.db", space, "random", 0)


def test_workers_get_different_trials(owner: StudyOwner) -> None:
    first, _, _ = owner.claim("a", 2, NO_PRUNING)
    second, elsewhere, _ = owner.claim("b", 2, NO_PRUNING)
    assert first is not None
    assert second is not None
    assert (first[0], second[0], elsewhere) == (0, 1, 1)
    assert first[1] != second[1]
    assert owner.claim("c", 2, NO_PRUNING) == (None, 2, 0)
    owner.tell("a", {"accuracy": 0.5}, 1.25, {"fold-1/train/events.out.tfevents.1": b"curve"})
    owner.tell("b", {}, None, {})
    assert owner.claim("c", 2, NO_PRUNING) == (None, 0, 2)


def test_the_trial_of_a_dead_worker_is_claimed_again(owner: StudyOwner) -> None:
    lost, _, _ = owner.claim("a", 1, NO_PRUNING)
    assert owner.claim("b", 1, NO_PRUNING)[0] is None
    owner.leave("a")
    assert owner.claim("a", 1, NO_PRUNING) == (None, 0, 0)  # it was sent before the death, and came late
    again, _, _ = owner.claim("b", 1, NO_PRUNING)
    assert lost is not None
    assert again is not None
    assert again[1] == lost[1]
    owner.tell("b", {}, 0.5, {})
    assert owner.claim("b", 1, NO_PRUNING) == (None, 0, 1)


def test_a_worker_has_the_study_of_its_owner(owner: StudyOwner, space: Space, tmp_path: Path) -> None:
    served = ServedStudy("a", owner, space, 0, tmp_path / "there")
    served._ask = lambda method, *arguments: getattr(owner, method)("a", *arguments)  # type: ignore[method-assign]
    served.prune_by(optuna.pruners.ThresholdPruner(upper=1.0))
    trial, elsewhere = served.claim(5)
    assert trial is not None
    assert elsewhere == 0
    assert isinstance(space.suggest(trial)[0], HeadConfig)
    trial.report(0.5, 1)
    assert not trial.should_prune()
    trial.report(2.0, 2)
    assert trial.should_prune()
    trial.set_user_attr("accuracy", 0.25)
    curve = served.logs / "trial-0" / "fold-1" / "train" / "events.out.tfevents.1"
    curve.parent.mkdir(parents=True)
    curve.write_bytes(b"curve")
    served.tell(trial, None)
    written = tmp_path / "study.db.logs" / "trial-0" / "fold-1" / "train" / "events.out.tfevents.1"
    assert written.read_bytes() == b"curve"
    assert not (served.logs / "trial-0").exists()
    assert served.claim(1) == (None, 0)
    assert len(served.finished()) == 1


@pytest.mark.parametrize("sampler", ["random", pytest.param("grid", marks=pytest.mark.slow)])
def test_a_head_that_kills_its_workers_is_given_up(space: Space, tmp_path: Path, sampler: Any) -> None:
    owner = StudyOwner(tmp_path / "study.db", space, sampler, 0)
    lethal, _, _ = owner.claim("a", 5, NO_PRUNING)
    assert owner.leave("a", died=True) == Left(0, 1)
    again, _, _ = owner.claim("b", 5, NO_PRUNING)
    owner.give_back("b")  # not a death
    third, _, _ = owner.claim("b", 5, NO_PRUNING)
    assert lethal is not None
    assert again is not None
    assert third is not None
    assert lethal[1] == again[1] == third[1]
    assert owner.leave("b", died=True) == Left(0, 2)
    owner = StudyOwner(tmp_path / "study.db", space, sampler, 0)  # the command is repeated
    fourth, _, _ = owner.claim("c", 5, NO_PRUNING)
    assert fourth is not None
    assert fourth[1] == lethal[1]
    assert owner.leave("c", died=True) == Left(0, 3)
    other, _, _ = owner.claim("d", 5, NO_PRUNING)
    assert other is not None
    assert other[1] != lethal[1]
    owner.tell("d", {}, 0.5, {})
    assert owner.leave("d", died=True) == Left(1, 0)


def test_no_trial_begins_after_the_end(owner: StudyOwner) -> None:
    owner.claim("a", 5, NO_PRUNING)
    assert owner.end() == ["a"]
    assert owner.claim("b", 5, NO_PRUNING)[:2] == (None, 0)
    owner.tell("a", {}, 0.5, {})
    assert owner.end() == []


def test_a_full_disk_leaves_the_trial_to_be_given_back(owner: StudyOwner, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: Any) -> None:
        raise full

    claimed, _, _ = owner.claim("a", 5, NO_PRUNING)
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        owner.tell("a", {}, 0.5, {"events.out.tfevents.1": b"curve"})
    owner.give_back("a")
    owner.fail("a")  # it has none
    again, _, _ = owner.claim("b", 5, NO_PRUNING)
    assert claimed is not None
    assert again is not None
    assert again[1] == claimed[1]


class Helper:
    """A worker of a search without training, with an error of `errors` first. Each node makes it anew."""

    errors: ClassVar[list[Exception]] = []

    def __init__(self, cpus: int, name: str, owner: Actor) -> None:
        self.name, self.owner = name, owner.worker

    def hello(self) -> str:
        return version("headstart")

    def run(self, space: Space, seed: int, data: Any, most: int) -> None:
        if self.errors:
            raise self.errors.pop(0)
        while self.owner.claim(self.name, most, NO_PRUNING)[0]:
            self.owner.tell(self.name, {}, 0.5, {"events.out.tfevents.1": b"curve"})

    def remove_files(self) -> None:
        pass


class SearchRay(FakeRay):
    """A cluster for a search: actors get their arguments."""

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: Actor(kind(*given))))

    def put(self, value: Any) -> Any:
        return value

    def get(self, asked: Any) -> Any:
        return [super(SearchRay, self).get(one) for one in asked] if isinstance(asked, list) else super().get(asked)


@pytest.fixture
def searched(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Study, SearchRay]]:
    """A function that searches by a cluster of one node, whose workers are `Helper`."""
    ray = SearchRay({"one": {"CPU": 1.0}}, lambda _: None)
    ray.exceptions.RayActorError = type("RayActorError", (RayError,), {})
    monkeypatch.setattr(by_ray, "load_ray", lambda: ray)
    monkeypatch.setattr(by_ray, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(by_ray, "TrialWorker", Helper)
    monkeypatch.setattr(by_ray, "_RECRUIT_SECONDS", 0.0)
    monkeypatch.setattr(by_ray, "POLL_SECONDS", 0.0)

    def search() -> tuple[Study, SearchRay]:
        study = Study(tmp_path / "study.db", space, "random", 0)
        by_ray.search_by_ray(study, material(), SweepConfig(trials=3), ClusterConfig("auto"))
        return study, ray

    return search


FULL = OSError(errno.ENOSPC, "No space left on device", "/tmp/headstart-trials")


def test_a_worker_that_lacks_memory_or_room_does_not_end_the_search(
    searched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Helper, "errors", [FULL, MemoryError()])
    study, ray = searched()
    assert len(study.finished()) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "died ([Errno 28] No space left on device: '/tmp/headstart-trials')" in told
    assert "died (MemoryError)" in told
    assert len(ray.killed) == 3


def test_a_node_whose_workers_lack_room_again_and_again_is_refused(
    searched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Helper, "errors", [FULL] * 9)
    with pytest.raises(HeadstartError, match=r"node one.*No space left on device"):
        searched()
    assert len(Helper.errors) == 6


def test_a_full_disk_of_the_study_ends_the_search(searched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise FULL

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StoreError, match=r"--study .*study.db: it or TensorBoard's files beside it can't be"):
        searched()


def test_a_worker_of_another_version_is_refused(
    searched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Helper, "hello", lambda self: "0.0.1")
    with pytest.raises(HeadstartError):
        searched()
    assert "it has headstart 0.0.1" in " ".join(capsys.readouterr().err.split())


def test_an_owner_that_died_is_told(searched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    died = by_ray.load_ray().exceptions.RayActorError("killed")
    monkeypatch.setattr(Helper, "errors", [died])
    monkeypatch.setattr(by_ray.StudyOwner, "leave", lambda *_, **__: (_ for _ in ()).throw(died))
    with pytest.raises(HeadstartError, match="the owner of the study died"):
        searched()


def test_a_head_for_which_memory_is_too_small_counts_as_a_death(
    owner: StudyOwner, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(trials, "_run_trial", too_large)
    for worker, deaths in (("a", 1), ("b", 2)):
        served = ServedStudy(worker, owner, space, 0, tmp_path / "there")
        monkeypatch.setattr(served, "_ask", lambda method, *given, to=worker: getattr(owner, method)(to, *given))
        with pytest.raises(MemoryError):
            trials.run_trials(served, material(), 5, time.time() + 60, lambda: None)
        assert owner.leave(worker, died=True) == Left(0, deaths)


def test_a_file_of_the_study_that_can_not_be_read_is_no_error_of_a_node(
    owner: StudyOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Study, "claim", refused)
    with pytest.raises(StoreError, match="--study"):
        owner.claim("a", 5, NO_PRUNING)


@pytest.mark.slow
@pytest.mark.soak
def test_a_search_whose_workers_are_killed(
    prepared: Path, extraction: ExtractionConfig, start_headstart: Any, tmp_path: Path
) -> None:
    study, run = tmp_path / "study.db", tmp_path / "run"
    given = ("sweep", prepared, f"--study={study}", f"--run={run}", f"--store={extraction.store}", *SMALL_FLAGS)
    process = start_headstart(*given, "--max-rejects=1", "--trials=12", "--ray=local", "--ray-cpus=1", "--json")
    killed = 0
    while process.poll() is None and killed < 2:
        workers = [one for one in psutil.Process(process.pid).children(recursive=True) if _runs_trials(one)]
        if workers and (study.with_name("study.db.logs") / f"trial-{3 * killed + 1}").exists():
            os.kill(workers[0].pid, signal.SIGKILL)
            killed += 1
        time.sleep(0.2)
    assert process.wait(timeout=400) == 0, (tmp_path / "output").read_text()
    assert killed == 2
    told = json.loads((tmp_path / "output").read_text().splitlines()[-1])
    assert told["trials"] == 12
    assert (run / "config.json").exists()


def _runs_trials(process: psutil.Process) -> bool:
    try:
        return "TrialWorker.run" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.slow
def test_one_line_without_a_cluster(headstart: Any, prepared: Path, tmp_path: Path) -> None:
    given = (prepared, f"--store={tmp_path}", *SMALL_FLAGS)
    assert "no Ray cluster answers" in headstart.error("features", *given, "--ray=127.0.0.1:1")
    assert "HOST:PORT" in headstart.error("features", *given, "--ray=here", code=2)
    sweep = ("sweep", *given, f"--study={tmp_path / 's.db'}", f"--run={tmp_path / 'run'}")
    assert "--jobs 2" in headstart.error(*sweep, "--ray=local", "--jobs=2", code=2)


def test_one_line_without_ray(headstart: Any, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for address in ("--ray=local", "--ray"):  # alone, it is `auto`
        told = headstart.error("features", prepared, address, f"--store={tmp_path}", *SMALL_FLAGS, code=2)
        assert "pip install 'headstart[ray]'" in told
