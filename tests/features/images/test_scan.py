import os
import time
from pathlib import Path

import pytest
from headstart.features.images import scan as image_files
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.scan import ImageFile, Reject, inspect_image
from headstart.tests.features.images.test_formats import encoded


def reason(path: Path) -> str:
    (found,) = inspect_image(path)
    assert isinstance(found, Reject), found
    assert found.path == str(path)
    assert found.detail
    return found.reason


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "nowhere.jpg").symlink_to("gone")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "notes.txt").symlink_to("gone")
    assert [inspect_image(tmp_path / name) for name in ("pipe", "notes.txt")] == [[], []]
    reasons = {path.stem: reason(path) for path in tmp_path.glob("*.jpg")}
    assert reasons == {
        "folder": "unreadable",
        "pipe": "unreadable",
        "endless": "unreadable",
        "nowhere": "vanished",
        "loop": "unreadable",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded())
    (tmp_path / "x.jpg").chmod(0)
    assert reason(tmp_path / "x.jpg") == "unreadable"


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.jpg").write_bytes(encoded())
    monkeypatch.setattr(image_files, "content_of", refuse)
    assert inspect_image(tmp_path / "x.jpg") == [Reject(str(tmp_path / "x.jpg"), "unreadable", "Permission denied")]


def test_a_link_is_as_good_as_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded())
    (tmp_path / "link.jpg").symlink_to("x.jpg")
    (one,), (other,) = inspect_images([tmp_path / "x.jpg", tmp_path / "link.jpg"])
    assert isinstance(one, ImageFile)
    assert isinstance(other, ImageFile)
    assert one.digest == other.digest


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    for name in ("film.mp4", "scan.tif"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
    assert inspect_image(tmp_path / "film.mp4") == []
    assert reason(tmp_path / "scan.tif") == "too-large"


def test_a_change_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded())
    (image,) = inspect_image(path)
    assert isinstance(image, ImageFile)
    assert image.is_unchanged()
    path.write_bytes(encoded(size=(41, 30)))
    assert not image.is_unchanged()
    path.unlink()
    assert not image.is_unchanged()


def test_an_error_in_a_thread_does_not_wait_for_what_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def failing(path: str, *_: object) -> list[ImageFile | Reject]:
        seen.append(path)
        time.sleep(0.0002)
        if path == "100":
            raise RuntimeError("a bug")
        return []

    monkeypatch.setattr(image_files, "inspect_image", failing)
    with pytest.raises(RuntimeError, match="a bug"):
        inspect_images([str(number) for number in range(6000)])
    assert len(seen) < 3000  # of some 4,000 that had been queued
