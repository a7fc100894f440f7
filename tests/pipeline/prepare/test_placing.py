"""Files are put into a data folder by reflink, hard link or copy; which one was done is counted and said."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from headstart.features.errors import OptionError
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.placing import Placer
from headstart.pipeline.prepare.prepare import prepare

from .test_prepare import HALVES, LAYOUTS, write_folder, write_zip


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photo.png").write_bytes(b"photo")
    (tmp_path / "photo.png").chmod(0o644)
    return tmp_path / "photo.png"


def no_reflinks(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def refuse(*_: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_a_hard_link_is_made_read_only_and_said(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", no_reflinks)
    placer, target = Placer(), photo.parent / "data" / "a.png"
    assert placer.place(photo, target) == "hard link"
    assert target.stat().st_ino == photo.stat().st_ino
    assert target.stat().st_mode & 0o777 == 0o444
    assert placer.lines(Path("photos"), Path("data")) == [
        "data: 1 files are those of photos under a second name (hard links), and read-only now; --copy copies them"
    ]
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


def test_a_reflink_is_preferred_and_asked_for_once(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clone(target: int, request: int, source: int) -> None:
        assert request == 0x40049409
        os.write(target, os.pread(source, 100, 0))

    monkeypatch.setattr(fcntl, "ioctl", clone)
    placer, target = Placer(), photo.parent / "a.png"
    assert placer.place(photo, target) == "reflink"
    assert (target.read_bytes(), target.stat().st_nlink, photo.stat().st_mode & 0o777) == (b"photo", 1, 0o644)
    assert placer.lines(photo, target) == []
    asked: list[object] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda *arguments: asked.append(arguments) or no_reflinks())
    placer = Placer()
    assert [placer.place(photo, photo.parent / f"{n}.png") for n in range(3)] == ["hard link"] * 3
    assert len(asked) == 1


@pytest.mark.parametrize("broken", ["link", "chmod"])
def test_where_nothing_can_be_shared_bytes_are_copied(
    photo: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", no_reflinks)
    if broken == "link":
        monkeypatch.setattr(os, "link", refuse)
    else:
        monkeypatch.setattr(Path, "chmod", refuse)
    placer, target = Placer(), photo.parent / "a.png"
    assert placer.place(photo, target) == "copy"
    assert target.read_bytes() == b"photo"
    assert target.stat().st_nlink == photo.stat().st_nlink == 1
    assert placer.lines(photo, target) == []


@pytest.mark.parametrize(("config", "way", "mode"), [(Placer(copy=True), "copy", 0o644),
                                                      (Placer(move=True), "hard link", 0o644)])  # fmt: skip
def test_copied_and_moved_files_stay_writable(photo: Path, config: Placer, way: str, mode: int) -> None:
    target = photo.parent / "a.png"
    assert config.place(photo, target) == way
    assert target.stat().st_mode & 0o777 == photo.stat().st_mode & 0o777 == mode
    assert (target.stat().st_ino == photo.stat().st_ino) == (way == "hard link")


def test_what_a_killed_process_was_writing_is_removed(photo: Path) -> None:
    code = "import os, signal; from pathlib import Path; from headstart.features.files import written_atomically\n"
    code += f"with written_atomically(Path({str(photo.parent / 'data' / 'b.png')!r})) as path:\n"
    code += "    path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list((photo.parent / "data").iterdir())) == 1
    Placer().place(photo, photo.parent / "data" / "a.png")
    assert [path.name for path in (photo.parent / "data").iterdir()] == ["a.png"]


def test_prepare_says_that_files_are_shared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", no_reflinks)
    source = write_folder(tmp_path / "s", LAYOUTS["class folders"])
    prepare(source, tmp_path / "copied", PrepareConfig(0.3, 0.3, copy=True))
    assert "under a second name" not in capsys.readouterr().err
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "copied").glob("*/*/*"))
    prepare(source, tmp_path / "linked", HALVES)
    assert "linked: 40 files are those of " in capsys.readouterr().err
    with pytest.raises(OptionError, match="--move and --copy"):
        PrepareConfig(move=True, copy=True)


def test_files_in_archives_cannot_be_moved(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    write_zip(tmp_path / "s" / "train.zip", LAYOUTS["names"])
    with pytest.raises(OptionError, match=r"--move: images of .* lie in archives"):
        prepare(tmp_path / "s", tmp_path / "data", PrepareConfig(0.3, 0.3, move=True))
