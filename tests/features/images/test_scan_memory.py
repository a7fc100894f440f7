import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from headstart.features.images import scan as image_files
from headstart.features.images.columns import inspected, threads
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.columns.paths import Paths
from headstart.features.images.faults import Fault
from headstart.features.images.formats import HEADER_VERSION
from headstart.features.images.scan import ImageFile
from headstart.features.images.scan_memory import ScanMemory
from headstart.pipeline.data.examples import scan
from headstart.tests.features.images.test_formats import drawn_often, with_large_tile

OLD = time.time() - 3600


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """Images that were last written to an hour ago."""
    shutil.copytree(drawn, tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.*"):
        os.utime(path, (OLD, OLD))
    return tmp_path / "data"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    seen: list[str] = []
    read = image_files.content_of
    monkeypatch.setattr(
        image_files, "content_of", lambda path, status: seen.append(Path(path).name) or read(path, status)
    )
    return seen


def memory(data: Path, forget: bool = False) -> ScanMemory:
    return ScanMemory(data.parent / "scans", data, forget)


def recalled(of: ScanMemory, path: str) -> ImageFile | None:
    rows, _ = of.recall(files := Paths.of([path]))
    return of.images[rows].at(files)[0] if len(rows) else None


def test_a_second_scan_reads_only_what_could_not_be_used(data: Path, reads: list[str]) -> None:
    first = scan(data, memory=memory(data))
    assert len(reads) == 46
    reads.clear()
    assert scan(data, memory=memory(data)) == first
    assert len(reads) == 4  # the rejects
    reads.clear()
    assert scan(data, memory=memory(data, forget=True)) == first
    assert len(reads) == 46


@pytest.mark.parametrize("seconds", [-100, 0, 100])
def test_what_changed_is_read_again(data: Path, reads: list[str], seconds: int) -> None:
    before = scan(data, memory=memory(data))
    pair = (data / "cat" / "cat.0.jpg", data / "cat" / "cat.2.jpg")
    other, one = sorted(pair, key=lambda path: path.stat().st_size)
    content = other.read_bytes()
    one.write_bytes(content + b"x" if seconds == 0 else content.ljust(one.stat().st_size, b"x"))
    os.utime(one, (OLD + seconds,) * 2)
    reads.clear()
    after = scan(data, memory=memory(data))
    assert one.name in reads
    (digest,) = {e.image.digest for e in after.examples if e.image.path == str(one)}
    assert digest not in {e.image.digest for e in before.examples}


def test_what_was_written_just_now_is_not_trusted(data: Path, reads: list[str]) -> None:
    path = data / "cat" / "cat.0.jpg"
    path.write_bytes(path.read_bytes())
    scan(data, memory=memory(data))
    reads.clear()
    scan(data, memory=memory(data))
    assert "cat.0.jpg" in reads


def test_a_renamed_folder_of_the_same_name_is_another(data: Path, reads: list[str]) -> None:
    scan(data, memory=memory(data))
    shutil.copytree(data, data.parent / "other" / "data")
    reads.clear()
    other = data.parent / "other" / "data"
    scan(other, memory=ScanMemory(data.parent / "scans", other))
    assert len(reads) == 46


def test_a_damaged_memory_is_none(data: Path, reads: list[str]) -> None:
    first = scan(data, memory=memory(data))
    (file,) = (data.parent / "scans").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-100], b"x" * 1000, bytes(b ^ (i == 200) for i, b in enumerate(whole))):
        file.write_bytes(damaged)
        reads.clear()
        assert scan(data, memory=memory(data)) == first
        assert len(reads) == 46
        assert scan(data, memory=memory(data)) == first


def test_a_memory_of_another_version_is_none(data: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = scan(data, memory=memory(data))
    images = [example.image for example in first.examples]
    formats = "headstart.features.images.scan_memory.FORMATS"
    monkeypatch.setattr(formats, ("PNG", "JPEG"))  # a name is remembered, not a place in the list
    assert recalled(memory(data), images[0].path) == images[0]
    monkeypatch.setattr(formats, ("PNG",))
    assert recalled(memory(data), images[0].path) is None
    monkeypatch.undo()
    monkeypatch.setattr("headstart.features.images.scan_memory.HEADER_VERSION", 0)
    assert recalled(memory(data), images[0].path) is None
    monkeypatch.undo()
    (file,) = (data.parent / "scans").iterdir()
    before_there_was_a_version = {
        "paths": np.frombuffer(b"\0".join(os.fsencode(os.path.relpath(one.path, data)) for one in images), np.uint8),
        "digests": np.frombuffer(bytes.fromhex("".join(one.digest for one in images)), np.uint8).reshape(-1, 32),
        "numbers": np.array([(one.bytes, one.mtime_ns, one.orientation, one.width, one.height, 1) for one in images]),
    }
    np.savez(file, allow_pickle=False, **before_there_was_a_version)
    assert recalled(memory(data), images[0].path) is None


def test_no_image_that_is_refused_is_accepted_once_it_is_remembered(data: Path) -> None:
    for name, content in {"often.jpg": drawn_often(), "tile.tif": with_large_tile()}.items():
        (data / "cat" / name).write_bytes(content)
        os.utime(data / "cat" / name, (OLD, OLD))
    remembered = scan(data, max_pixels=sys.maxsize, memory=memory(data))  # as `store gc` does
    assert {"often.jpg", "tile.tif"} <= {Path(example.image.path).name for example in remembered.examples}
    for max_pixels in (1200, 100_000_000):
        again = scan(data, max_pixels=max_pixels, memory=memory(data))
        assert again == scan(data, max_pixels=max_pixels)
        assert "tile.tif" in {Path(reject.path).name for reject in again.rejects}
        scan(data, max_pixels=sys.maxsize, memory=memory(data))


@pytest.mark.slow
def test_no_flipped_bit_of_a_memory_is_trusted(data: Path) -> None:
    for path in [*data.glob("dog/*"), *sorted(data.glob("cat/*"))[2:]]:
        path.unlink()
    first = scan(data, memory=memory(data))
    (file,) = (data.parent / "scans").iterdir()
    whole = file.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        remembered = memory(data)
        for example in first.examples:
            assert recalled(remembered, example.image.path) in (None, example.image)


def test_names_of_any_kind_are_remembered(data: Path, reads: list[str]) -> None:
    for number, name in enumerate(("ünï.jpg", "line\nbreak.jpg", os.fsdecode(b"\xff\xfe.jpg"), "a b.jpg")):
        os.rename(data / "cat" / f"cat.{2 * number}.jpg", data / "cat" / name)
    first = scan(data, memory=memory(data))
    reads.clear()
    assert scan(data, memory=memory(data)) == first
    assert len(reads) == 4


def test_a_limit_on_pixels_holds_for_what_is_remembered(data: Path) -> None:
    scan(data, memory=memory(data))
    with_limit = scan(data, max_pixels=10, memory=memory(data))
    assert with_limit == scan(data, max_pixels=10)
    assert {reject.reason for reject in with_limit.rejects} >= {"too-large"}
    assert len(scan(data, memory=memory(data)).examples) == 42


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_scan_that_is_interrupted_does_not_begin_again(
    data: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    read = image_files.content_of

    def read_some(path: str, status: os.stat_result) -> bytes | Fault:
        if len(reads) == 30:
            raise error
        return read(path, status)

    monkeypatch.setattr(inspected, "_PIECE", 4)
    monkeypatch.setattr(threads, "_QUICK_SECONDS", 1e9)  # no threads, so that no read is in flight
    monkeypatch.setattr(image_files, "content_of", read_some)
    with pytest.raises(error):
        scan(data, memory=memory(data))
    monkeypatch.setattr(image_files, "content_of", read)
    before = set(reads)
    reads.clear()
    assert scan(data, memory=memory(data)) == scan(data)
    assert len(before & set(reads[:20])) <= 2 + 4  # rejects, and the piece in hand


def test_a_scan_that_is_killed_has_saved_what_it_found(data: Path, reads: list[str]) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from headstart.features.images import scan as one\n"
        "from headstart.features.images.columns import inspected, threads\n"
        "from headstart.features.images.scan_memory import ScanMemory\n"
        "from headstart.pipeline.data.examples import scan\n"
        "inspected._PIECE = inspected._COLUMN = 4; inspected._KEPT_SECONDS, inspected._KEPT_SHARE = 0, 1e9\n"
        "read, seen = one.content_of, []\n"
        "one.content_of = lambda *file: os._exit(9) if len(seen) == 30 else (seen.append(file), read(*file))[1]\n"
        "threads._QUICK_SECONDS, data = 1e9, Path(sys.argv[1])\n"
        "scan(data, memory=ScanMemory(data.parent / 'scans', data))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(data)], check=False)
    assert done.returncode == 9
    assert scan(data, memory=memory(data)) == scan(data)
    assert len(reads) - 46 <= 46 - 30 + 4 + 4  # `scan(data)` reads all; the rest: unread, rejects, the pieces in hand


def test_a_later_row_of_a_path_counts(data: Path) -> None:
    first = scan(data, memory=memory(data))
    path = data / "cat" / "cat.0.jpg"
    path.write_bytes((data / "dog" / "dog.1.jpg").read_bytes())
    os.utime(path, (OLD, OLD))
    again = inspect_images([path]).images
    remembered = memory(data)
    remembered.add(again)
    found = recalled(memory(data), str(path))
    assert found == again[0]
    assert found not in [example.image for example in first.examples]


def test_a_memory_of_an_earlier_version_is_read(data: Path, reads: list[str]) -> None:
    first = scan(data, memory=memory(data))
    images = [example.image for example in first.examples]
    (file,) = (data.parent / "scans").iterdir()
    fields = ("bytes", "mtime_ns", "orientation", "width", "height", "tile_pixels", "scans", "bits", "pages", "page")
    before = {
        "version": np.array(HEADER_VERSION),
        "paths": np.frombuffer(b"\0".join(os.fsencode(os.path.relpath(one.path, data)) for one in images), np.uint8),
        "digests": np.frombuffer(bytes.fromhex("".join(one.digest for one in images)), np.uint8).reshape(-1, 32),
        "formats": np.array([one.format for one in images], np.bytes_),
        "numbers": np.array([[getattr(one, name) for name in fields] for one in images], np.int64),
    }
    np.savez(file, allow_pickle=False, **before)
    reads.clear()
    assert scan(data, memory=memory(data)) == first
    assert len(reads) == 4  # the rejects
