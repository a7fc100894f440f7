"""`headstart doctor`: one screen that tells what this machine has, and what would fail."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from headstart.pipeline.doctor import machine, places, software
from headstart.pipeline.doctor.doctor import _precision, doctor
from headstart.pipeline.doctor.places import disk, weights, without_home

FIELDS = {"versions", "device", "precision", "extras", "weights", "disk", "limits", "problems"}


class _Told:
    """Stands for `Start`."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def __call__(self) -> "_Told":
        return self

    def __enter__(self) -> "_Told":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def result(self) -> dict[str, Any]:
        return self.told


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What TensorFlow's start tells, so that the test need not wait for it."""
    told = {"name": "CPU, 2 cores", "seconds": 1.0, "problem": None}
    monkeypatch.setattr("headstart.pipeline.doctor.doctor.Start", _Told(told))
    return told


@pytest.mark.usefixtures("started")
def test_all_fields_are_there(headstart: Any, tmp_path: Path) -> None:
    found = headstart("doctor", f"--store={tmp_path / 'store'}")
    assert set(found) == FIELDS
    assert found["problems"] == []
    assert found["versions"]["headstart"]
    assert found["extras"]["parquet"].keys() == {"pyarrow"}
    assert found["weights"]["shipped"] == ["efficientnet_lite0"]
    assert found["disk"]["rename"]
    assert found["disk"]["locks"]
    assert found["disk"]["free_bytes"] > 0
    assert not (tmp_path / "store").exists()
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("started")
def test_it_is_one_screen(headstart: Any, filled_store: Path) -> None:
    (filled_store / "precision.json").unlink(missing_ok=True)
    text = headstart.text("doctor", f"--store={filled_store}")
    assert len(text.splitlines()) < 40
    assert "no problem found" in text
    assert "not decided in this store" in text


def test_problems_are_told_and_are_a_failure(
    headstart: Any, started: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started |= {"name": None, "problem": "TensorFlow does not start: no AVX"}
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(tmp_path / "absent.h5"))
    (tmp_path / "precision.json").write_text("damaged")
    code, out, err = headstart.whole("doctor", f"--store={tmp_path}")
    assert code == 1
    assert "error: 3 problems: TensorFlow does not start: no AVX" in err
    assert all(text in out for text in ("absent.h5: no such file", "precision.json: damaged"))
    assert "--store" in headstart.error("doctor", "--store=s3://bucket/store", code=2)


def test_paths_show_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(tmp_path / "w.h5"))
    told = f"{weights()} {disk(tmp_path / 'photos' / 'store')}"
    assert str(tmp_path) not in told
    assert "~/photos/store" in told
    assert without_home(tmp_path / "x") == "~/x"
    assert without_home(f"{tmp_path}: a; {tmp_path}") == "~: a; ~"
    for other in (f"{tmp_path}-more/x", f"/mnt{tmp_path}/x"):
        assert without_home(other) == other
    (tmp_path / "precision.json").write_text("damaged")
    assert str(tmp_path) not in str(_precision(tmp_path))


def test_several_weights_are_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).touch()
    both = f"{tmp_path / 'a.h5'}+{tmp_path / 'b.h5'}"
    for text, there in ((both, True), (f"imagenet+{both}", True), (f"{both}+c.h5", False), ("imagenet+random", None)):
        monkeypatch.setenv("HEADSTART_WEIGHTS", text)
        assert weights()["HEADSTART_WEIGHTS_exists"] is there


@pytest.mark.usefixtures("started")
def test_a_store_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    assert any("is a file; name a folder" in one for one in doctor(tmp_path / "store").problems)


def no_file_can_be_made(monkeypatch: pytest.MonkeyPatch, number: int, free: int | None) -> None:
    """New folders fail with the error `number` on a disk with `free` bytes. If `free` is None, asking for it fails."""

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    usage = failing if free is None else lambda _: SimpleNamespace(free=free)
    monkeypatch.setattr(places.tempfile, "TemporaryDirectory", failing)
    monkeypatch.setattr(places, "shutil", SimpleNamespace(disk_usage=usage))


@pytest.mark.usefixtures("started")
def test_a_full_disk_is_told_as_such(headstart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_file_can_be_made(monkeypatch, errno.ENOSPC, free=4096)
    (problem,) = doctor(tmp_path).problems
    assert "its disk has 4.1 kB free; make room" in problem
    no_file_can_be_made(monkeypatch, errno.ENOSPC, free=None)
    told = headstart.whole("doctor", f"--store={tmp_path}")[2]
    assert "its disk is full, or your quota or its inodes are used up; make room" in told
    assert doctor(tmp_path).disk["free_bytes"] is None
    no_file_can_be_made(monkeypatch, errno.EDQUOT, free=2 << 40)  # a quota, which says nothing of the disk
    (problem,) = doctor(tmp_path).problems
    assert "its disk is full, or your quota or its inodes are used up; make room" in problem


@pytest.mark.usefixtures("started")
def test_a_disk_without_permission_is_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_file_can_be_made(monkeypatch, errno.EROFS, free=0)
    (problem,) = doctor(tmp_path).problems
    assert "can't be written to" in problem


@pytest.mark.usefixtures("started")
def test_a_folder_that_can_not_be_entered_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, closed = Path.is_dir, tmp_path / "closed"

    def is_dir(place: Path, **given: Any) -> bool:
        if place.is_relative_to(closed):
            raise PermissionError(13, "Permission denied", str(place))
        return plain(place, **given)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert disk(closed / "store")["tried_in"] == str(tmp_path)


def test_a_start_is_ended_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_START", "import time; time.sleep(60)")
    with machine.Start() as start:
        pass
    assert start._process.returncode is not None


def test_a_disk_that_sets_no_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    found = disk(tmp_path)
    assert found["writable"]
    assert found["mtime_resolution_ns"] is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_can_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    found = disk(tmp_path / "store")
    assert not found["writable"]
    assert not found["rename"]


def test_missing_and_unfit_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(software.unmet()) == []
    monkeypatch.setattr(
        software, "requires", lambda name: ["numpy<1", "absent-package>=2"] if name == "headstart" else []
    )
    first, second = software.unmet()
    assert "numpy is" in first
    assert "needs <1" in first
    assert "absent-package is missing; pip install" in second


def test_a_start_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, said in (("raise ImportError('no good')", "no good"), ("import os; os.kill(os.getpid(), 4)", "signal 4")):
        monkeypatch.setattr(machine, "_START", code)
        assert said in machine.Start().result()["problem"]
    monkeypatch.setattr(machine, "_START", "print('CPU, 9 cores')")
    assert machine.Start().result()["name"] == "CPU, 9 cores"


@pytest.mark.slow
def test_tensorflow_starts(tmp_path: Path) -> None:
    found = doctor(tmp_path)
    assert found.failure() is None
    assert found.device["tensorflow"].startswith(("CPU, ", "GPU, "))
