import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from headstart.features.files import remove_left_over, written_atomically


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
