"""Archives of every kind give what a folder with the same files gives, or one line that says why not."""

import bz2
import gzip
import io
import lzma
import os
import random
import resource
import struct
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from headstart.features.errors import DataError, OptionError
from headstart.features.images.faults import Fault
from headstart.pipeline.archives import entries
from headstart.pipeline.archives.names import guess_encoding
from headstart.pipeline.prepare.prepare import prepare
from headstart.pipeline.prepare.sources import opened_source

from .test_prepare import picture, write_folder, write_zip

PICTURES = {f"{label}/{number}.png": picture(10 * place + number) for place, label in enumerate(("cat", "dog"))
            for number in range(3)}  # fmt: skip
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstandard.ZstdCompressor().compress,
}


def tar_bytes(content: Mapping[str, bytes], *more: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


class RawInfo(zipfile.ZipInfo):
    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        return self.filename.encode("cp437"), 0


def raw_zip(path: Path, names: Mapping[bytes, bytes], system: int = 0, extra: bytes = b"") -> Path:
    """A zip whose names are the given bytes and not marked as UTF-8."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in names.items():
            info = RawInfo("x")
            info.filename, info.create_system, info.extra = name.decode("cp437"), system, extra
            archive.writestr(info, data)
    return path


def read(source: Path, encoding: str | None = None) -> dict[str, bytes | Fault]:
    with opened_source(source, source.parent / "data", encoding) as members:
        found = {member.name: member.read() for member in members}
        assert len(found) == len(members)
    assert not (source.parent / "data").exists()
    return found


@pytest.mark.parametrize("suffix", list(PACKERS))
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_read_whatever_it_is_called(tmp_path: Path, suffix: str, format: int) -> None:
    content = {**PICTURES, f"cat/{'long' * 20}.png": picture(77)}
    source = write(tmp_path / "photos.bin", PACKERS[suffix](tar_bytes(content, format=format)))
    assert read(source) == content
    assert list(tmp_path.iterdir()) == [source]


def test_a_tar_of_the_old_kind_and_one_with_dots(tmp_path: Path) -> None:
    old = bytearray(tar_bytes({"./cat/1.png": picture(1)}, format=tarfile.USTAR_FORMAT))
    old[257:265] = bytes(8)
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old[:512])
    assert read(write(tmp_path / "old.tar", bytes(old))) == {"cat/1.png": picture(1)}


@pytest.mark.parametrize("streams", [2, 3])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_several_compressed_streams_are_one_tar(tmp_path: Path, pack: Callable[[bytes], bytes], streams: int) -> None:
    data = tar_bytes(PICTURES)
    size = len(data) // streams + 1
    parts = (pack(data[at : at + size]) for at in range(0, len(data), size))
    assert read(write(tmp_path / "s", b"".join(parts))) == PICTURES


def test_without_zstandard_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DataError, match=r"s\.tar\.zst: .*pip install '\.\[zstd\]'"):
        read(write(tmp_path / "s.tar.zst", PACKERS["tar.zst"](tar_bytes(PICTURES))))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"hello" * 200, "its first bytes are of no archive"),
        (b"Rar!\x1a\x07\0" + bytes(600), "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "a 7z archive"),
        (b"PK\x03\x04" + bytes(600), "a damaged zip"),
        (bytes(10240), "without files"),
        (tar_bytes(PICTURES)[:2000], "a damaged tar"),
        (tar_bytes(PICTURES)[:1024], "lacks the mark of its end"),
        (gzip.compress(b"hello" * 500), "no tar, but something else in gzip"),
        (gzip.compress(os.urandom(5000))[:2000], "can't be unpacked"),
        (bz2.compress(tar_bytes(PICTURES))[:-9], "can't be unpacked|damaged tar|no tar"),
        (b"BZh9" + os.urandom(2000), "can't be unpacked"),
        (lzma.compress(tar_bytes(PICTURES))[:-40], "can't be unpacked"),
        (PACKERS["tar.zst"](tar_bytes(PICTURES))[:-40], "can't be unpacked|damaged tar|no tar"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "data",
)
def test_what_is_no_archive_or_a_damaged_one(tmp_path: Path, data: bytes, message: str) -> None:
    source = write(tmp_path / "s", data)
    with pytest.raises(DataError, match=message) as caught:
        read(source)
    assert str(caught.value).startswith(f"{source}: ")
    assert list(tmp_path.iterdir()) == [source]


def test_a_header_damaged_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(PICTURES, format=tarfile.USTAR_FORMAT))
    data[data.index(b"dog/1.png") + 1] ^= 1
    with pytest.raises(DataError, match="no header at byte"):
        read(write(tmp_path / "s.tar", bytes(data)))


def test_links_and_devices_of_a_tar_are_never_made(tmp_path: Path) -> None:
    odd = [
        link("cat/copy.png", "cat/0.png", tarfile.LNKTYPE),
        link("cat/nowhere.png", "/etc/passwd", tarfile.LNKTYPE),
        link("cat/link.png", "../../etc/passwd", tarfile.SYMTYPE),
        link("cat/pipe.png", "", tarfile.FIFOTYPE),
        link("cat/disk.png", "", tarfile.BLKTYPE),
    ]
    found = read(write(tmp_path / "s.tar", tar_bytes({**PICTURES, "../out.png": picture(9)}, *odd)))
    assert found["cat/copy.png"] == picture(0)
    assert {name for name, data in found.items() if data == Fault("unsupported", "a link or device")} == {
        info.name for info in odd[1:]
    }
    assert found["../out.png"] == Fault("unsupported", "a path out of the archive")


def test_a_sparse_file_is_read_with_its_gaps(tmp_path: Path) -> None:
    """PAX's sparse format 0.1, as GNU tar writes it."""
    content = b"BM" + bytes(3000) + b"end"
    info = tarfile.TarInfo("cat/sparse.bmp")
    info.size = 5
    info.pax_headers = {
        "GNU.sparse.map": "0,2,3002,3",
        "GNU.sparse.size": str(len(content)),
        "GNU.sparse.name": "cat/sparse.bmp",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"BMend"))
    assert read(write(tmp_path / "s.tar", buffer.getvalue())) == {"cat/sparse.bmp": content}


def test_a_sparse_bomb_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat/sparse.bmp")
    info.size = 2
    info.pax_headers = {"GNU.sparse.map": "0,2", "GNU.sparse.size": str(1 << 40), "GNU.sparse.name": "cat/s.bmp"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"BM"))
    with pytest.raises(DataError, match=r"1 files of 1\.1 TB"):
        read(write(tmp_path / "s.tar", buffer.getvalue()))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_memory_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 100_000_000
    source = write(tmp_path / "s.tar", info.tobuf() + b"9" * 50_000_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="a header of 100000256 bytes"):
        read(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_header_that_would_take_minutes_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 60_000
    with pytest.raises(DataError, match="nothing but digits"):
        read(write(tmp_path / "s.tar", info.tobuf() + b"9" * 60_416 + bytes(1024)))


def test_a_header_that_leads_back_does_not_loop(tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat/1.png")
    data = bytearray(tar_bytes({"cat/0.png": b"x"}, format=tarfile.GNU_FORMAT)[:1024] + info.tobuf())
    data[1024 + 124 : 1024 + 136] = b"\xff" * 10 + struct.pack(">h", -1024)  # the size, as a negative number
    data[1024 + 148 : 1024 + 156] = b" " * 8
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:])
    with pytest.raises(DataError, match="damaged tar"):
        read(write(tmp_path / "s.tar", bytes(data)))


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_a_bomb_stops_while_it_is_unpacked(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "SMALL_BYTES", 1 << 20)
    source = write(tmp_path / "s", PACKERS[suffix](tar_bytes({"cat/zeros.bmp": bytes(20_000_000)})))
    with pytest.raises(DataError, match="times the size of the archive"):
        read(source)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("outer", ["zip", "tar.gz"])
def test_archives_in_an_archive_are_no_way_around_the_limits(
    tmp_path: Path, outer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "SMALL_BYTES", 1 << 20)
    # each inner archive alone is within the limits, for what it unpacks to and for what its files would take
    with zipfile.ZipFile(tmp_path / "one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/zeros.bmp", bytes(900_000))
    inner = (tmp_path / "one.zip").read_bytes()
    content = {f"{number}.zip": inner for number in range(8)}
    packed = (
        PACKERS[outer](tar_bytes(content))
        if outer in PACKERS
        else write_zip(tmp_path / "two.zip", content).read_bytes()
    )
    source = write(tmp_path / "in" / "s", packed)
    with pytest.raises(DataError, match=r"s, with the archives in it: .*times the size of the archive"):
        read(source)
    content = {"0.tar": tar_bytes({"cat/zeros.bmp": bytes(500_000)}), "1.tar": tar_bytes({"cat/1.bmp": bytes(500_000)})}
    source = write(tmp_path / "in" / "t", gzip.compress(tar_bytes(content)))
    with pytest.raises(DataError, match=r"t, with the archives in it: .*times the size of the archive"):
        read(source)


def test_damage_anywhere_in_a_tar_is_an_error_of_the_data(tmp_path: Path) -> None:
    whole, draws = tar_bytes({**PICTURES, "é" * 60: b"x"}), random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draws.randrange(1, 4)):
            data[draws.randrange(len(data))] = draws.randrange(256)
        source = write(tmp_path / "s.tar", bytes(data[: draws.choice([len(data), draws.randrange(len(data))])]))
        with suppress(DataError), opened_source(source, tmp_path) as members:
            for member in members:
                member.read()


ENCODED = {
    "utf-8": ["猫/чёрный é.png", "犬/1.png"],
    "cp932": ["猫/表示.png", "犬/いぬ.png"],
    "gbk": ["猫/小猫.png", "狗/图片.png"],
    "cp437": ["Kätzchen/1.png", "Hündchen/2.png"],
    "cp850": ["gato/Álbum.png", "perro/São.png"],
    "cp1252": ["chats/été.png", "chiens/forêt.png", "Vögel/ß.png"],
    "cp866": ["кошки/1.png", "собаки/Белая собака.png"],
    "cp1251": ["кошки/1.png", "собаки/Белая собака.png"],
}


@pytest.mark.parametrize("encoding", list(ENCODED))
def test_the_encoding_of_names_is_guessed_and_said(
    tmp_path: Path, encoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ENCODED[encoding]
    source = raw_zip(tmp_path / "s.zip", {name.encode(encoding): picture(1) for name in names})
    assert sorted(read(source)) == sorted(names)
    assert f"names are read as {encoding}" in capsys.readouterr().err
    assert sorted(read(source, encoding)) == sorted(names)


def test_a_single_letter_is_read_as_one_of_the_west() -> None:
    assert guess_encoding(["chats é/1.png".encode("cp1252")]) == "cp1252"


def test_names_without_letters_fall_back_to_what_zip_says() -> None:
    assert guess_encoding([b"\xb9.png"]) == "cp437"


@pytest.mark.parametrize(("encoding", "message"), [("nonsense", "no encoding"), ("hex", "no encoding"),
                                                    ("ascii", "does not fit")])  # fmt: skip
def test_an_encoding_that_does_not_fit(tmp_path: Path, encoding: str, message: str) -> None:
    source = raw_zip(tmp_path / "s.zip", {"é/1.png".encode("cp1252"): b""})
    with pytest.raises(OptionError, match=f"--zip-encoding {encoding}: {message}"):
        read(source, encoding)


def test_an_encoding_that_gives_names_no_disk_can_hold(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--zip-encoding utf-7: does not fit"):
        read(raw_zip(tmp_path / "s.zip", {b"+2AA-/1.png": b""}), "utf-7")


def test_an_encoding_for_what_is_no_zip(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is no zip"):
        read(write(tmp_path / "s.tar", tar_bytes(PICTURES)), "cp932")


def test_names_that_are_marked_as_utf_8_keep_it(tmp_path: Path) -> None:
    raw = "кошка/1.png".encode("cp866")
    named = "猫/1.png".encode()
    extra = struct.pack("<HHBI", 0x7075, 5 + len(named), 1, zlib.crc32(raw)) + named
    assert list(read(raw_zip(tmp_path / "s.zip", {raw: picture(1)}, extra=extra))) == ["猫/1.png"]


@pytest.mark.parametrize(
    ("system", "names", "expected"),
    [
        (0, [r"photos\cat\1.png", r"photos\dog\1.png"], ["photos/cat/1.png", "photos/dog/1.png"]),
        (0, ["C:\\photos\\cat\\1.png", "C:\\photos\\dog\\1.png"], ["photos/cat/1.png", "photos/dog/1.png"]),
        (10, [r"cat\1.png", "cat\\", "dog/1.png"], ["cat/1.png", "dog/1.png"]),
        (3, [r"cat/a\b.png", "dog/1.png"], [r"cat/a\b.png", "dog/1.png"]),
        (3, [r"cat\1.png", r"dog\1.png"], ["cat/1.png", "dog/1.png"]),
        (3, ["/home/cat/1.png", "/home/dog/1.png"], ["home/cat/1.png", "home/dog/1.png"]),
        (3, ["./cat/1.png", "dog//1.png"], ["cat/1.png", "dog/1.png"]),
    ],
)
def test_paths_of_windows_and_others(tmp_path: Path, system: int, names: list[str], expected: list[str]) -> None:
    content = {name.encode(): picture(place) for place, name in enumerate(names)}
    assert list(read(raw_zip(tmp_path / "s.zip", content, system))) == expected


@pytest.mark.parametrize("name", ["C:\\evil.png", "..\\evil.png", "/evil.png", "a/../../evil.png"])
def test_one_path_that_leads_out_is_not_read(tmp_path: Path, name: str) -> None:
    found = read(raw_zip(tmp_path / "s.zip", {b"cat/1.png": picture(1), name.encode(): picture(2)}))
    assert [data for data in found.values() if isinstance(data, Fault)] == [
        Fault("unsupported", "a path out of the archive")
    ]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_of_one_name_are_told(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["caf\u00e9/1.png", "cafe\u0301/1.png"]
    content = {name: picture(place) for place, name in enumerate(names)}
    source = write_zip(tmp_path / "s", content) if kind == "zip" else write(tmp_path / "s", tar_bytes(content))
    assert read(source) == content
    assert "1 names belong to more than one file each" in capsys.readouterr().err


@pytest.mark.parametrize("outer", ["folder", "zip", "tar", "tar.gz"])
@pytest.mark.parametrize("inner", ["zip", "tar.xz"])
def test_archives_in_an_archive_are_folders_of_it(tmp_path: Path, outer: str, inner: str) -> None:
    def packed(content: Mapping[str, bytes], kind: str) -> bytes:
        if kind in PACKERS:
            return PACKERS[kind](tar_bytes(content))
        return write_zip(tmp_path / "one.zip", content).read_bytes()

    with_folder = {f"test/{name}": data for name, data in PICTURES.items()}
    content = {
        f"set/train.{inner}": packed(PICTURES, inner),
        f"set/test.{inner}": packed(with_folder, inner),
        "labels.csv": b"id,label",
    }
    if outer == "folder":
        source = write_folder(tmp_path / "in" / "s", content)
    else:
        source = write(tmp_path / "in" / "s", packed(content, outer))
    expected = {f"set/{split}/{name}": data for split in ("train", "test") for name, data in PICTURES.items()}
    found = read(source)
    assert found.pop("labels.csv") == b"id,label"
    assert found == expected
    assert list((tmp_path / "in").iterdir()) == [source]


@pytest.mark.parametrize("outer", ["folder", "zip"])
@pytest.mark.parametrize("inner", ["zip", "tar", "tar.gz"])
def test_more_archives_are_read_than_files_can_be_open(tmp_path: Path, outer: str, inner: str) -> None:
    content = {}
    for number in range(80):
        plain = {f"{number}.png": picture(number), f"x{number}.png": picture(1000 + number)}
        packed = write_zip(tmp_path / "one.zip", plain).read_bytes() if inner == "zip" else None
        content[f"cat/{number}.{inner}"] = packed or PACKERS[inner](tar_bytes(plain))
    (tmp_path / "in").mkdir()
    source = (write_folder if outer == "folder" else write_zip)(tmp_path / "in" / "s", content)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with opened_source(source, tmp_path) as members:
        pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, before[1]))
    try:
        with opened_source(source, tmp_path) as members:
            found = {member.name.rpartition("/")[2]: member.read() for member in members}
            again = {member.name.rpartition("/")[2]: member.read() for member in reversed(members)}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found == again == {
        f"{mark}{n}.png": picture(n + more) for n in range(80) for mark, more in (("", 0), ("x", 1000))
    }  # fmt: skip


def test_archives_beside_images_or_two_deep_stay_packed_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = write_zip(tmp_path / "inner.zip", PICTURES).read_bytes()
    read(write_zip(tmp_path / "beside.zip", {**PICTURES, "more.zip": inner}))
    assert "1 archives beside images are not unpacked" in capsys.readouterr().err
    middle = write_zip(tmp_path / "middle.zip", {"inner.zip": inner}).read_bytes()
    with pytest.raises(DataError, match=r"holds no images, but .*inner\.zip; unpack that"):
        read(write_zip(tmp_path / "outer.zip", {"middle.zip": middle}))


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "s.zip", {"cat/1.png": picture(1)}).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match="encrypted"):
        read(write(tmp_path / "s.zip", bytes(data)))


def test_data_after_the_end_of_a_tar_is_refused(tmp_path: Path) -> None:
    one, two = (
        tar_bytes({f"{label}/{n}.png": picture(n) for label in "ab" for n in numbers}) for numbers in ((1, 2), (3, 4))
    )
    (tmp_path / "both.tar").write_bytes(one + two)
    with pytest.raises(DataError, match="has data after the mark of its end, so files may be missing"):
        prepare(tmp_path / "both.tar", tmp_path / "data")
    assert not (tmp_path / "data").exists()
