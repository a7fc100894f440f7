"""Disks, homes and machines as they are: each command works, or says in one line what to do."""

import errno
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features import device
from headstart.features.device import cores_of_groups, cpu_count
from headstart.features.files import flush_to_disk, write_first
from headstart.features.locks import folder_locked, lock
from headstart.features.store.maintain import open_stores
from headstart.pipeline.demo.drawing import draw_demo
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from headstart.tests.conftest import SMALL_FLAGS

FLAGS = (*SMALL_FLAGS, "--max-rejects=1")
# Processes run in other folders, where relative paths lead elsewhere.
PATHS = os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
NO_LOCKS = ("ENOSYS", "ENOLCK", "EOPNOTSUPP")


def shim(folder: Path, code: str) -> dict[str, str]:
    """The environment of a process whose disk lacks what `code` replaces."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import errno, fcntl, os, stat\n{code}")
    return {"PYTHONPATH": os.pathsep.join([str(folder), PATHS])}


def headstart(folder: Path, *arguments: Any, **environment: str) -> tuple[int, str]:
    """Exit code and last line of a command in a process of its own."""
    command = [sys.executable, "-m", "headstart.cli", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": PATHS, **environment}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.returncode, (done.stderr if done.returncode else done.stdout).strip().splitlines()[-1]


END = "-- end of a command --"
SEVERAL = f"""if True:
    import shlex, sys
    from headstart.cli import app
    for line in sys.stdin.read().splitlines():
        try:
            app(shlex.split(line))
        except SystemExit as end:
            print("{END}", end.code, flush=True)
            print("{END}", file=sys.stderr, flush=True)
"""


def headstart_several(
    folder: Path, commands: Iterable[Iterable[Any]], shell: str = 'exec "$@"', **environment: str
) -> list[tuple[int, str]]:
    """Exit codes and last lines of commands, one after another in one process, which the script `shell` starts."""
    lines = "".join(shlex.join(map(str, command)) + "\n" for command in commands)
    env = {**os.environ, "PYTHONPATH": PATHS, **environment}
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", SEVERAL]
    done = subprocess.run(
        command, input=lines, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    told = re.split(rf"{END} (\d+)\n", done.stdout)
    codes, outputs, errors = list(map(int, told[1::2])), told[::2], done.stderr.split(END)
    assert len(codes) == len(lines.splitlines()), done.stderr
    last = [(error if code else output).strip() for code, output, error in zip(codes, outputs, errors, strict=False)]
    return [(code, text.splitlines()[-1]) for code, text in zip(codes, last, strict=True)]


# Folders that can't be flushed, no locks, no links


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
def test_folders_that_cannot_be_flushed_are_left_but_files_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    flush_to_disk(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=os.strerror(number)):
        flush_to_disk(tmp_path / "file")


@pytest.mark.parametrize("name", NO_LOCKS)
def test_without_flock_the_lock_is_posix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number, asked = getattr(errno, name), []

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with folder_locked(tmp_path):
        pass
    lockf = fcntl.lockf
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: asked.append(arguments) or lockf(*arguments))
    with (tmp_path / "x").open("w") as file:
        lock(file)
    assert len(asked) == 1
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with (tmp_path / "x").open("w") as file, pytest.raises(OSError, match=os.strerror(number)):
        lock(file)


def test_a_locked_file_is_told_from_a_disk_without_locks(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as one, (tmp_path / "x").open("w") as two:
        lock(one)
        with pytest.raises(BlockingIOError):
            lock(two, wait=False)


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EXDEV"])
def test_without_hard_links_the_first_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number = getattr(errno, name)

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert write_first(tmp_path / "x", "first")
    assert not write_first(tmp_path / "x", "second")


@pytest.mark.slow
@pytest.mark.parametrize(
    "lacks",
    ["flock", pytest.param("flush and links", marks=pytest.mark.soak), pytest.param("locks", marks=pytest.mark.soak)],
)
def test_commands_on_a_disk_that_lacks_something(drawn: Path, tmp_path: Path, lacks: str) -> None:
    refuse = "def refuse(*_, **__): raise OSError(errno.{0}, os.strerror(errno.{0}))\n"
    code = {
        "flush and links": f"""{refuse.format("EPERM")}os.link = refuse
fsync = os.fsync
def flush(file):
    if stat.S_ISDIR(os.fstat(file).st_mode): raise OSError(errno.EINVAL, "Invalid argument")
    fsync(file)
os.fsync = flush""",
        "flock": f"{refuse.format('ENOSYS')}fcntl.flock = refuse",
        "locks": f"{refuse.format('ENOLCK')}fcntl.flock = fcntl.lockf = refuse",
    }[lacks]
    env = shim(tmp_path / "shim", code)
    commands = [
        ("prepare", drawn, "data", "--val=0.25", "--test=0.25", "--max-rejects=1"),
        ("features", "data", *FLAGS, "--precision=auto"),
        ("head", "data", "--run=run", *FLAGS, "--epochs=2"),
        ("head", "data", "--run=run", *FLAGS, "--epochs=2", "--overwrite"),
        ("store", "compact", "store"),
        ("sweep", "data", "--study=s.db", "--run=best", "--trials=2", *FLAGS),
    ]
    for command, (code_, line) in zip(commands, headstart_several(tmp_path, commands, **env), strict=True):
        if command[0] == "sweep" and lacks == "locks":
            assert code_ == 1
            assert line == (
                "error: --study s.db: its disk can't lock files (No locks available), which a search needs; name a "
                "file on a local disk"
            )
        else:
            assert (code_, command[0]) == (0, command[0]), line
    assert not list(tmp_path.rglob("*.partial.*"))


# Read-only data, home and store


def mounts_allowed() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not mounts_allowed(), reason="this system forbids mounts of one's own")
def test_commands_on_read_only_folders(drawn: Path, tmp_path: Path) -> None:
    prepare(drawn, tmp_path / "data", PrepareConfig(val=0.25, test=0.25, max_rejects=1.0))
    headstart(tmp_path, "features", "data", *FLAGS)
    next(tmp_path.glob("store/*/features.h5")).unlink()  # nobody reads it
    (tmp_path / "home").mkdir()
    script = "".join(
        f"mount --bind {name} {name} && mount -o remount,ro,bind {name} || exit 9\n"
        for name in ("data", "store", "home")
    )
    (tmp_path / "run.sh").write_text(f'{script}cd .\nexport HOME=$PWD/home\nunset KERAS_HOME\nexec "$@"')
    commands = [line.replace("FLAGS", shlex.join(FLAGS)).split() for line in READ_ONLY.strip().splitlines()]
    done = headstart_several(tmp_path, commands, 'exec unshare -rm bash run.sh "$@"')
    assert [code for code, _ in done] == [0] * 12 + [1] * 5, done
    errors = [line for code, line in done if code]
    assert all(line.startswith("error: ") for line in errors)
    assert [line.split(":")[1].strip() for line in errors] == [
        "--store store", "--store store/new", "--store store", "--study store/s.db", "store/new",
    ]  # fmt: skip


READ_ONLY = """
check data --max-rejects 1 --allow
features data FLAGS
head data --run run FLAGS --epochs 2
evaluate run
predict run data/test --max-rejects 1
finetune run --epochs 1 --batch-size 4
sweep data --study s.db --run best --trials 1 FLAGS
store ls store
store verify store
store verify store --data data --recompute 3 --weights random
store explain store data FLAGS
store export store data x.npz
features data FLAGS --cut all
features data FLAGS --store store/new
store gc store data/train --yes
sweep data --study store/s.db --run other --trials 1 FLAGS
prepare data store/new
"""


# Few open files


@pytest.mark.slow
@pytest.mark.soak
def test_commands_with_256_open_files(tmp_path: Path) -> None:
    draw_demo(tmp_path / "drawn", images=240)
    prepare(tmp_path / "drawn", tmp_path / "data", PrepareConfig(max_rejects=1.0))
    headstart(tmp_path, "features", "data", *FLAGS)
    (store,) = open_stores(tmp_path / "store")
    digests, before = sorted(set(store.digests())), store.shards()
    for start in range(0, len(digests), 5):
        store.write_shard(digests[start : start + 5], store.read(digests[start : start + 5]))
    store.retire(before)
    assert len(store.shards()) > 40
    commands = [
        ("features", "data", *FLAGS),
        ("features", "data", *FLAGS, "--cut=all"),
        ("head", "data", "--run=run", *FLAGS, "--epochs=2"),
        ("store", "verify", "store"),
        ("sweep", "data", "--study=s.db", "--run=best", "--trials=2", "--jobs=2", *FLAGS),
        ("store", "compact", "store"),
    ]
    for code, line in headstart_several(tmp_path, commands, 'ulimit -n 256; exec "$@"'):
        assert code == 0, line


# Keras's settings


@pytest.mark.slow
@pytest.mark.soak
def test_the_settings_of_keras_do_not_change_features(drawn: Path, tmp_path: Path) -> None:
    other = {"floatx": "float16", "epsilon": 0.01, "image_data_format": "channels_first"}
    rows = []
    for name, backend in (("plain", None), ("other", "jax"), ("third", "torch")):
        home = tmp_path / name
        home.mkdir()
        if backend:
            (home / "keras.json").write_text(json.dumps({**other, "backend": backend}))
        env = {"KERAS_HOME": str(home)} | ({"KERAS_BACKEND": backend} if backend else {})
        command = ("features", drawn, *SMALL_FLAGS, "--max-rejects=1", f"--store={name}-store")
        assert headstart(tmp_path, *command, **env)[0] == 0
        (store,) = open_stores(tmp_path / f"{name}-store")
        rows.append(store.read(sorted(store.digests())))
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


@pytest.mark.slow
def test_settings_that_keras_refuses_are_told_in_a_line(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"floatx": "float17"}')
    code, line = headstart(tmp_path, "features", drawn, *FLAGS, KERAS_HOME=str(tmp_path))
    assert code == 1
    assert line.startswith(f"error: {tmp_path}/keras.json: Keras refuses it (")


# Cores of a container


def groups(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, np.inf),
        ("0::/\n", {}, np.inf),
        ("0::/a.slice/b\n", {"a.slice/cpu.max": "150000 100000", "a.slice/b/cpu.max": "max 100000"}, 1.5),
        ("0::/../../elsewhere\n", {"cpu.max": "50000 100000"}, 0.5),
        ("4:cpu,cpuacct:/docker/1\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "9"}, np.inf),
        ("5:cpuset:/\n4:cpu,cpuacct:/docker/1\n", {"cpu/cpu.cfs_quota_us": "27", "cpu/cpu.cfs_period_us": "9"}, 3),
        (
            "4:cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "50000", "cpuset/a/cpu.max": "1 100"},
            2,
        ),
    ],
)  # fmt: skip
def test_cores_of_a_container(tmp_path: Path, own: str, files: dict[str, str], cores: float) -> None:
    assert cores_of_groups(own, groups(tmp_path, files)) == cores


@pytest.mark.parametrize(("quota", "most"), [("50000 100000", 1), ("max 100000", 10**6), ("nonsense", 10**6)])
def test_cores_are_counted_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, most: int
) -> None:
    groups(tmp_path, {"own": "0::/", "root/cpu.max": quota})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(device, "_CONTROL_GROUPS", tmp_path / "own")
    monkeypatch.setattr(device, "_CONTROL_FOLDER", tmp_path / "root")
    assert cpu_count() == min(8, most)


@pytest.mark.slow
def test_threads_of_tensorflow_follow_the_limit(tmp_path: Path) -> None:
    code = """if True:
        from pathlib import Path
        from headstart.features import device
        device.cpu_count = lambda: 3
        from headstart.features.tensorflow import tf
        threading = tf.config.threading
        print(threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads())
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_NUM_")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "3 3\n"
