"""A wheel and an sdist: the same bytes each time, headstart/ alone, and a command that runs where they are."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headstart
import pytest

ROOT = Path(headstart.__file__).resolve().parent


def run(*command: Any, **more: Any) -> str:
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
    return done.stdout


def _copied(to: Path, seconds: int) -> Path:
    """A copy of the repository whose files are of another time."""
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
            os.utime(to / name, (seconds, seconds))
    (to / ".venv").symlink_to(Path(sys.prefix))
    return to


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders with the results of two builds."""
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip("this is no clone of the repository")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS")}
    environment["SOURCE_DATE_EPOCH"] = "1700000000"
    folders = []
    for number, seconds in enumerate((1_600_000_000, 1_650_000_000)):
        copy = _copied(tmp_path_factory.mktemp(f"build-{number}") / "a" / "headstart", seconds)
        command = ["make", "dist", "--old-file=.venv/.ready"]
        done = subprocess.run(command, cwd=copy, env=environment, check=False, capture_output=True, text=True)
        if done.returncode and ("ConnectionError" in done.stdout + done.stderr or "No matching" in done.stderr):
            pytest.skip("the package index can't be reached")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert done.stdout.count("PASSED") == 2  # of twine
        folders.append(copy / "dist")
    return folders


@pytest.mark.slow
def test_two_builds_give_the_same_bytes(built: list[Path]) -> None:
    first, second = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in built)
    assert sorted(name.rpartition(".")[2] for name in first) == ["gz", "whl"]
    assert first == second


@pytest.mark.slow
def test_what_is_in_them(built: list[Path]) -> None:
    (wheel,), (sdist,) = built[0].glob("*.whl"), built[0].glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"headstart"}
    wanted = {f"headstart/{name}" for name in _product()}
    assert wanted | {"headstart/py.typed"} <= set(names)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {*_product(), "py.typed", "pyproject.toml", "README.md", "LICENSE"} <= inside


def _product() -> Iterator[str]:
    for name in run("git", "ls-files", "*.py", cwd=ROOT).splitlines():
        if not name.startswith(("tests/", "benchmarks/", "docs/")):
            yield name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_runs_in_a_bare_environment(built: list[Path], tmp_path: Path) -> None:
    (wheel,) = built[0].glob("*.whl")
    venv.create(tmp_path / "bare", with_pip=True)
    pip, command = tmp_path / "bare" / "bin" / "pip", tmp_path / "bare" / "bin" / "headstart"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [pip, "install", "--quiet", "--no-compile", wheel]
    installed = subprocess.run(install, check=False, capture_output=True, text=True)
    if installed.returncode and "No matching distribution" in installed.stderr:
        pytest.skip("the package index can't be reached")
    assert installed.returncode == 0, installed.stderr[-3000:]
    assert "No broken requirements" in run(pip, "check")
    listed = run(pip, "show", "-f", "headstart").split("Files:")[1].splitlines()
    inside = {line.split("/")[0].strip() for line in listed if "/" in line and ".." not in line}
    assert inside == {"headstart", f"{wheel.name.partition('-py3')[0]}.dist-info"}
    found = json.loads(run(command, "doctor", "--json", cwd=tmp_path, env=environment))
    assert found["problems"] == []
    assert found["extras"]["zstd"] == {"zstandard": None}
    run(command, "demo", "photos", "--images=24", cwd=tmp_path, env=environment)
    flags = ("--backbone=efficientnet_lite0", "--image-size=64", "--epochs=2", "--max-rejects=0.5", "--json")
    made = run(command, "head", "photos", "--run=runs/a", *flags, cwd=tmp_path, env=environment)
    assert json.loads(made)["run"] == "runs/a"
