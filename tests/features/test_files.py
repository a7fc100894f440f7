import errno
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from headstart.features.errors import DataError
from headstart.features.files import (
    folder_written_atomically,
    json_text,
    remove_left_over,
    require_creatable,
    sha256_of,
    write_atomically,
    write_first,
    written_atomically,
)


def test_a_figure_that_is_not_finite_is_no_json() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            json_text({"loss": value})


@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is no regular file"):
        sha256_of(tmp_path / "pipe")


def test_a_file_is_there_in_full_or_not_at_all(tmp_path: Path) -> None:
    with written_atomically(tmp_path / "a.h5") as partial:
        partial.write_text("whole")
        assert partial.suffix == ".h5"
        assert not (tmp_path / "a.h5").exists()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]

    def fail() -> None:
        with written_atomically(tmp_path / "a.h5") as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from headstart.features.files import written_atomically
        with written_atomically(Path(sys.argv[1])) as partial:
            partial.write_text("half")
            print("written", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "x"], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    (partial,) = tmp_path.iterdir()
    assert remove_left_over(tmp_path) == []
    process.kill()
    process.wait()
    process.stdout.close()
    assert remove_left_over(tmp_path) == [partial]
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_got_is_told_apart(tmp_path: Path) -> None:
    with written_atomically(tmp_path / "x") as mine:
        other = tmp_path / mine.name.replace(f"-{os.getpid()}-", f"-{os.getpid()}-1")
        for path in (mine, other):
            path.touch()
        assert remove_left_over(tmp_path) == []  # the clock may have been set
        for path in (mine, other):
            os.utime(path, (time.time() - 90_000,) * 2)
        assert remove_left_over(tmp_path) == [other]


def test_files_of_another_host_go_after_a_day(tmp_path: Path) -> None:
    new, old, other = (tmp_path / name for name in (".far-1-2.partial.x", ".far-1-3.partial.x", ".x.partial.y"))
    for path in (new, old, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert remove_left_over(tmp_path) == [old]


def folder(place: Path, content: str) -> None:
    with folder_written_atomically(place, replace=True) as new:
        (new / "x").write_text(content)


def test_a_folder_is_there_in_full_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / ("long" * 60)
    folder(place, "1")
    folder(place, "2")
    with pytest.raises(ZeroDivisionError), folder_written_atomically(place, replace=True):
        raise ZeroDivisionError
    with pytest.raises(FileExistsError), folder_written_atomically(place):
        pass
    assert list(tmp_path.rglob("*")) == [place, place / "x"]
    assert (place / "x").read_text() == "2"


KILLED = """if True:
    import os, sys
    from pathlib import Path
    from headstart.features.files import folder_written_atomically
    rename, left = Path.rename, [int(sys.argv[2])]
    def rename_and_die(self, target):
        rename(self, target)
        left[0] -= 1
        if not left[0]:
            os._exit(9)
    Path.rename = rename_and_die
    with folder_written_atomically(Path(sys.argv[1]), replace=True) as new:
        (new / "x").write_text("new")
"""


@pytest.mark.parametrize(("renames", "content"), [(1, "old"), (2, "new"), (3, "new")])
def test_a_kill_while_a_folder_is_replaced_leaves_one_of_both(tmp_path: Path, renames: int, content: str) -> None:
    place = tmp_path / "r"
    folder(place, "old")
    assert subprocess.run([sys.executable, "-c", KILLED, place, str(renames)], check=False).returncode == 9
    assert len(remove_left_over(tmp_path)) == 1
    assert sorted(tmp_path.rglob("*")) == [place, place / "x"]
    assert (place / "x").read_text() == content


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_the_first_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    assert write_first(tmp_path / "new" / "x", "first")
    assert not write_first(tmp_path / "new" / "x", "second")
    (tmp_path / "new" / "gone").symlink_to("nowhere")
    assert not write_first(tmp_path / "new" / "gone", "third")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"x", "gone"}
    assert (tmp_path / "new" / "x").read_text() == "first"


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_of_many_processes_one_writes_the_file(tmp_path: Path, links: bool) -> None:
    code = """if True:
        import os, sys, time
        from pathlib import Path
        from headstart.features.files import write_first
        def refuse(*_):
            raise OSError("no links")
        if sys.argv[3] == "False":
            os.link = refuse
        path = Path(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        won = [number for number in range(100) if write_first(path / str(number), sys.argv[2])]
        assert all((path / str(number)).read_text() == sys.argv[2] for number in won)
        print(*won)
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "folder", name, str(links)], **pipes) for name in "abc"
    ]
    for process in started:
        process.stdout.readline()
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [number for process in started for number in process.communicate()[0].split()]
    assert sorted(map(int, won)) == list(range(100))


def made_by_each(path: Path) -> list[Callable[[], object]]:
    def folder() -> None:
        with folder_written_atomically(path):
            pass

    return [
        folder,
        lambda: write_atomically(path, "text"),
        lambda: write_first(path, "text"),
        lambda: require_creatable(path),
    ]


def test_where_nothing_can_be_made_the_error_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "new", tmp_path / "file" / "under" / "new"):
        for make in made_by_each(place):
            with pytest.raises(NotADirectoryError) as raised:
                make()
            assert raised.value.filename == str(place)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize("place", ["/proc/new", "/proc/under/new"])
def test_a_folder_of_the_system_in_which_nothing_can_be_made(place: str) -> None:
    for make in made_by_each(Path(place)):
        with pytest.raises(PermissionError, match=f"Nothing can be made there: '{place}'"):
            make()


def test_the_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    require_creatable(tmp_path / "under" / "new")
    assert not list(tmp_path.iterdir())
