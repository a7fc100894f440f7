import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace

import numpy as np
import psutil
import pytest
from botocore.exceptions import ParamValidationError
from headstart.features.errors import DataError
from headstart.features.images.batches import (
    decoded_batches,
    decoded_dataset,
    file_columns,
    why_all_undecodable,
    why_undecodable,
)
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.faults import UnreadableError, Version
from headstart.features.images.files import fetched, objects, reading, urls, web
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.images.files.objects import number_of, size_of
from headstart.features.images.files.paths import Member, is_local, is_url, member_at, name_of, shown
from headstart.features.images.files.reading import bytes_of
from headstart.features.images.files.urls import read_url, require_access, version_of_url, why_unknown
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile, Reject, inspect_image
from headstart.features.images.scan_memory import ScanMemory
from headstart.features.images.thumbnails import thumbnails
from headstart.features.processes import host, this_process
from headstart.features.tensorflow import tf
from headstart.pipeline.inputs import explained
from headstart.tests.objects import KEYS


class Site:
    """A web server: `files` has the contents by path, `answers` the statuses that are given first."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[int]] = {}
        self.headers: dict[str, str] = {}  # instead of its own; "HEAD Content-Length" is for HEAD alone
        self.cut: dict[str, int] = {}  # how often a body by path ends early
        self.seconds = 0.0  # between two bytes, if any
        self.asked: Counter[str] = Counter()
        self.connections = 0
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(urls, "_FIRST_WAIT", 0.001)
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            served.connections += 1

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            served.asked[f"{self.command} {path}"] += 1
            first = served.answers.get(path, [])
            status = first.pop(0) if first else 200 if path in served.files else 404
            content = served.files.get(path, b"") if status == 200 else b""
            self.send_response(status)
            headers = {"Content-Length": str(len(content)), "ETag": f'"{hash(content)}"'}
            if 300 <= status < 400:
                headers["Location"] = "http://169.254.169.254/secret"
            own = [one for one in served.headers.items() if self.command == "HEAD" or not one[0].startswith("HEAD ")]
            for name, value in (headers | {name.removeprefix("HEAD "): value for name, value in own}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET" and served.cut.get(path, 0):
                served.cut[path] -= 1
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            elif self.command == "GET" and served.seconds:
                with suppress(OSError):
                    for at in range(len(content)):
                        self.wfile.write(content[at : at + 1])
                        time.sleep(served.seconds)
            elif self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.port = server.server_address[1]
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def photo(drawn: Path) -> Path:
    return drawn / "cat" / "cat.0.jpg"


def in_tar(folder: Path, name: str, content: bytes) -> tuple[Path, Member]:
    tar = folder / "x.tar"
    with tarfile.open(tar, "w") as writing:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        writing.addfile(info, io.BytesIO(content))
    return tar, Member(str(tar), name, 512, len(content))


def test_paths_tell_where_a_file_is() -> None:
    member = Member("/a/x.tar", "b/c#1+2.tif", 512, 9)
    assert member_at(member.path) == member
    assert name_of(member.path) == "/a/x.tar/b/c#1+2.tif"
    assert name_of("https://host/a.jpg?signed=x.png") == "/a.jpg"
    assert name_of("/a/b.jpg") == "/a/b.jpg"
    assert [is_url(path) for path in ("s3://a/b", "/a://b", "a.jpg", "C:/x")] == [True, False, False, False]
    assert [is_local(path) for path in ("/a/x.tar/y.jpg", "s3://a/x.tar/y.jpg#1+2", member.path)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/passwd", "file:// is not read"),
        ("ftp://host/x.jpg", "ftp:// is not read"),
        ("https:///x.jpg", "no bucket or host"),
        ("https://me:secret@host/x.jpg", "holds a name or password"),
        ("http://[::1/x.jpg", "it is no URL"),
        ("http://[::1]:80/x.jpg", ""),
        ("http://me:sec/ret@host/x.jpg", "its port is no number"),
        ("s3://me:secret@bucket/x.jpg", "holds a name or password"),
        ("abfs://me:secret@account.dfs.core.windows.net/x.jpg", "holds a name or password"),
        ("abfs://container@account.dfs.core.windows.net/x.jpg", ""),
        ("s3://bucket/x.jpg", ""),
        ("S3://bucket/x@y.jpg?versionId=7", ""),
        ("s3://bucket/x.jpg?versionId=", "leave out ?versionId="),
        ("gs://bucket/x.jpg#1700000000000000", "leave out #1700000000000000"),
        ("az://container/x.jpg?versionid=7", "versions of objects in az:// are not read"),
    ],
)
def test_only_known_kinds_of_urls_are_read(url: str, why: str) -> None:
    assert why in why_unknown(url)
    assert bool(why) == bool(why_unknown(url))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://me:secret@host/a@b.jpg", "http://host/a@b.jpg"),
        ("//me@host/x.jpg", "//host/x.jpg"),
        ("HTTP 302: s3://me:sec@ret@bucket/x.jpg", "HTTP 302: s3://bucket/x.jpg"),
        ("http://me:sec/re?t@host/x.jpg", "http://host/x.jpg"),
        ("http://[::1]:80/a@b.jpg and http://host:80/@a", "http://[::1]:80/a@b.jpg and http://host:80/@a"),
        ("abfs://container@account/x.jpg", "abfs://container@account/x.jpg"),
        ("http://host/\x1b[31m\n\udcff\u202eü", "http://host/\\x1b[31m\\n\\udcff\\u202eü"),
        ("http://" + "A" * 20_000, "http://" + "A" * 193 + "..."),
    ],
)
def test_an_address_is_shown_without_passwords_and_in_one_short_line(text: str, told: str) -> None:
    assert shown(text) == told


@pytest.mark.parametrize(
    ("location", "detail"),
    [
        ("http://me:secret@host/x.jpg", "redirects to http://host/x.jpg, which is not followed"),
        ("/y.jpg", "/y.jpg, which is not followed"),
        ("", "redirects to another address"),
        ("http://[", "redirects to http://[, which"),
        ("/\x1b[31m" + "A" * 20_000, "/\\x1b[31mAAAA"),
    ],
)
def test_the_target_of_a_redirect_is_shown(site: Site, location: str, detail: str) -> None:
    site.answers["/x.jpg"], site.headers["Location"] = [302], location
    (found,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(found, Reject)
    assert detail in found.detail
    assert "secret" not in found.detail
    assert len(found.detail) < 300


@pytest.mark.parametrize(
    ("told", "reason"),
    [("9" * 5000, "too-large"), ("9" * 30, "too-large"), ("-5", ""), ("\xb2", ""), ("0" * 30, ""), ("0", "")],
)
def test_a_server_may_tell_a_size_of_no_sense(site: Site, photo: Path, told: str, reason: str) -> None:
    site.files["/x.jpg"], site.headers["HEAD Content-Length"] = photo.read_bytes(), told
    (found,) = inspect_image(site.url("/x.jpg"))
    assert getattr(found, "reason", "") == reason
    assert size_of("0012") == 12
    assert number_of("\ud800") != number_of("\ud801")


def test_an_object_has_the_digest_and_header_of_the_same_file(site: Site, photo: Path) -> None:
    site.files["/x.jpg"] = photo.read_bytes()
    (local,), (image,) = inspect_image(photo), inspect_image(site.url("/x.jpg?signed=1"))
    assert isinstance(local, ImageFile)
    assert isinstance(image, ImageFile)
    assert (image.digest, image.width, image.format, image.bytes) == (
        local.digest, local.width, local.format, local.bytes,
    )  # fmt: skip
    assert image.is_unchanged()
    site.files["/x.jpg"] += b"!"
    assert not image.is_unchanged()


def test_objects_and_members_give_the_pixels_of_the_same_file(site: Site, photo: Path, tmp_path: Path) -> None:
    site.files["/x.jpg"] = photo.read_bytes()
    _, member = in_tar(tmp_path, "x.jpg", photo.read_bytes())
    paths = [str(photo), site.url("/x.jpg"), member.path]
    images = [one for found in inspect_images(paths) for one in found if isinstance(one, ImageFile)]
    assert len({image.digest for image in images}) == 1
    ((positions, pixels),) = decoded_batches(images, ImageConfig(64), 8)
    assert positions.tolist() == [0, 1, 2]
    assert (pixels == pixels[0]).all()
    for image in images:
        ((_, alone),) = decoded_batches([image], ImageConfig(64), 8)
        assert np.array_equal(alone[0], pixels[0])
    small = [np.asarray(one) for one in thumbnails(images, "RGB", 16)]
    assert all(np.array_equal(one, small[0]) for one in small)


def test_of_a_batch_few_bytes_are_held(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, member = in_tar(tmp_path, "x.jpg", photo.read_bytes())
    (image,) = inspect_image(member.path)
    assert isinstance(image, ImageFile)
    ((_, pixels),) = decoded_batches([image] * 8, ImageConfig(64), 8)
    monkeypatch.setattr(reading, "MOST_AHEAD_BYTES", 3 * image.bytes)
    contents = reading.read_references(np.array([reading.reference_of(image)] * 8, object))
    assert [len(one) for one in contents] == [image.bytes] * 3 + [0] * 5
    positions, few = next(decoded_batches([image] * 8, ImageConfig(64), 8))
    assert positions.tolist() == list(range(8))
    assert np.array_equal(few, pixels)


@pytest.mark.parametrize(
    ("answers", "reason", "detail"),
    [
        ([], "vanished", "no such object"),
        ([403, 403], "unreadable", "access denied"),
        ([302], "unreadable", "redirects to http://169.254.169.254/secret, which is not followed"),
        ([400], "unreadable", "HTTP 400"),
        ([503] * 99, "unreadable", "HTTP 503 Service Unavailable (6 tries)"),
    ],
)
def test_an_object_that_can_not_be_read_is_a_reject(site: Site, answers: list[int], reason: str, detail: str) -> None:
    site.answers["/x.jpg"] = list(answers)
    (found,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(found, Reject)
    assert (found.reason, found.path) == (reason, site.url("/x.jpg"))
    assert detail in found.detail
    assert site.asked.total() == (6 if 503 in answers else 2 if 403 in answers else 1)


def test_a_transient_failure_is_repeated(site: Site, photo: Path) -> None:
    site.files["/x.jpg"] = photo.read_bytes()
    site.answers["/x.jpg"] = [500, 503, 429]
    (image,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(image, ImageFile)
    assert site.asked == {"HEAD /x.jpg": 4, "GET /x.jpg": 1}


def test_a_body_that_is_cut_off_is_asked_for_again(site: Site, photo: Path) -> None:
    site.files["/x.jpg"] = photo.read_bytes()
    site.cut["/x.jpg"] = 3
    (image,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(image, ImageFile)
    assert site.asked["GET /x.jpg"] == 4
    site.cut["/x.jpg"] = 99
    (found,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(found, Reject)
    assert found.reason == "unreadable"
    assert "(6 tries)" in found.detail


def test_a_body_that_trickles_is_given_up(site: Site, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(urls, "TRIES", 2)
    site.files["/x.jpg"], site.seconds = photo.read_bytes(), 0.002
    (found,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(found, Reject)
    assert (found.reason, found.detail) == ("unreadable", "timed out (2 tries)")


def test_servers_without_head_are_asked_by_get(site: Site, photo: Path) -> None:
    site.files["/x.jpg"] = photo.read_bytes()
    site.answers["/x.jpg"] = [405]
    (image,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(image, ImageFile)


def test_a_connection_is_used_again(site: Site, photo: Path) -> None:
    site.files["/a.jpg"] = photo.read_bytes()
    for _ in range(3):
        version = version_of_url(site.url("/a.jpg"))
        with pytest.raises(UnreadableError, match="HTTP 404"):
            version_of_url(site.url("/no.jpg"))
    assert read_url(site.url("/a.jpg"), version)[0] == site.files["/a.jpg"]
    assert site.connections == 1


def test_a_large_object_is_not_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.features.images.files.reading.MAX_FILE_BYTES", 10)
    site.files["/x.jpg"] = bytes(11)
    (found,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(found, Reject)
    assert found.reason == "too-large"
    assert site.asked == {"HEAD /x.jpg": 1}


def test_of_an_object_that_is_no_image_only_the_beginning_is_read(site: Site) -> None:
    site.files["/x.bin"] = b"text" * 100
    assert inspect_image(site.url("/x.bin")) == []
    site.files["/empty.jpg"] = b""
    assert [one.reason for one in inspect_image(site.url("/empty.jpg")) if isinstance(one, Reject)] == ["empty"]


def test_bytes_are_read_once_within_a_command(site: Site, photo: Path, tmp_path: Path) -> None:
    site.files["/x.jpg"] = photo.read_bytes()
    with suppress(KeyboardInterrupt), bytes_kept(tmp_path, "data"):
        inspect_image(site.url("/x.jpg"))
        raise KeyboardInterrupt
    with bytes_kept(tmp_path, "data"):
        (image,) = inspect_image(site.url("/x.jpg"))
        assert isinstance(image, ImageFile)
        assert bytes_of(image) == photo.read_bytes()
        assert site.asked["GET /x.jpg"] == 1
        (kept,) = (tmp_path / fetched.FOLDER).glob("*/*/*")
        kept.write_bytes(kept.read_bytes()[:-1])
        assert bytes_of(image) == photo.read_bytes()  # a damaged file is not used
        assert site.asked["GET /x.jpg"] == 2
    assert list(tmp_path.iterdir()) == []


def test_no_more_bytes_are_kept_than_there_is_room_for(
    site: Site, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "MOST_BYTES", 10)
    site.files["/x.jpg"] = photo.read_bytes()
    with bytes_kept(tmp_path, "data"):
        (image,) = inspect_image(site.url("/x.jpg"))
        assert isinstance(image, ImageFile)
        assert bytes_of(image) == photo.read_bytes()
        assert not list((tmp_path / fetched.FOLDER).glob("*/*/*"))
    assert site.asked["GET /x.jpg"] == 2


def test_the_folder_of_a_live_process_stays(site: Site, photo: Path, tmp_path: Path) -> None:
    site.files["/x.jpg"] = photo.read_bytes()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with bytes_kept(tmp_path, "data"):
            inspect_image(site.url("/x.jpg"))
            (folder,) = (tmp_path / fetched.FOLDER).iterdir()
            assert time.time() - folder.stat().st_mtime < 60
            started = int(1000 * psutil.Process(other.pid).create_time())
            (folder / f".used-by-{host()}-{other.pid}-{started}").touch()
        assert list(folder.glob("*/*"))
        other.communicate(b"\n")
    with bytes_kept(tmp_path, "data"):
        inspect_image(site.url("/x.jpg"))
        shutil.rmtree(tmp_path / fetched.FOLDER)  # as another process at its end
        site.files["/y.jpg"] = photo.read_bytes()
        inspect_image(site.url("/y.jpg"))
        assert list((tmp_path / fetched.FOLDER).glob("*/*/*"))
    assert site.asked["GET /x.jpg"] == 1
    assert list(tmp_path.iterdir()) == []


def test_temporary_folders_go_with_their_process(
    site: Site, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"headstart-{host()}-99999999-1-abc").mkdir()
    (tmp_path / "headstart-mine").mkdir()
    site.files["/x.jpg"] = photo.read_bytes()
    with bytes_kept(None, ""):
        inspect_image(site.url("/x.jpg"))
        (mine,) = (one for one in tmp_path.iterdir() if one.name != "headstart-mine")
        assert mine.name.startswith(f"headstart-{this_process()}-")
        fetched.drop(site.url("/x.jpg"))
        assert not list(mine.glob("*/*"))
    assert [one.name for one in tmp_path.iterdir()] == ["headstart-mine"]


def test_room_is_reckoned_with_what_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, version = "http://host/x", Version(100, 7)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200))
    with suppress(KeyboardInterrupt), bytes_kept(tmp_path, "data"):
        fetched.keep(url, version, bytes(90))
        raise KeyboardInterrupt
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=80))
    with bytes_kept(tmp_path, "data"):  # 122 of 202 bytes are held, and half may be
        fetched.keep("http://host/y", version, bytes(1))
        assert len(list(tmp_path.glob("*/*/*/*"))) == 1
        monkeypatch.setattr(fetched, "_FREE_SHARE", 1.0)
    with bytes_kept(tmp_path, "data"):
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        fetched.keep("http://host/z", version, bytes(1))
        assert not list(tmp_path.glob("*/*/*/*"))


def test_other_bytes_never_get_the_digest_of_the_scan(site: Site, drawn: Path) -> None:
    site.files["/x.jpg"] = (drawn / "cat" / "cat.0.jpg").read_bytes()
    (image,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(image, ImageFile)
    site.files["/x.jpg"] = (drawn / "cat" / "cat.1.jpg").read_bytes()
    assert list(decoded_batches([image, image], ImageConfig(64), 8)) == []
    assert why_undecodable(image) == Reject(image.path, "vanished", "changed since it was scanned")


def test_the_scan_memory_knows_objects_by_their_etag(site: Site, photo: Path, tmp_path: Path) -> None:
    site.files["/x.jpg"] = photo.read_bytes()
    url = site.url("/x.jpg")
    first = inspect_images([url])
    ScanMemory(tmp_path, Path("list.csv")).save(first.images)
    assert list(inspect_images([url], memory=ScanMemory(tmp_path, Path("list.csv")))) == list(first)
    assert site.asked["GET /x.jpg"] == 1
    site.files["/x.jpg"] += b"!"
    assert list(inspect_images([url], memory=ScanMemory(tmp_path, Path("list.csv")))) != list(first)
    assert site.asked["GET /x.jpg"] == 2


def test_a_host_that_refuses_everything_is_told_once(site: Site) -> None:
    for name in "abcd":
        site.answers[f"/{name}.jpg"] = [403] * 9
    with pytest.raises(DataError, match=r"access denied"):
        require_access([site.url(f"/{name}.jpg") for name in "abcd"])
    assert site.asked.total() == 6
    site.files["/e.jpg"] = b"x"
    require_access([site.url("/a.jpg"), site.url("/e.jpg"), site.url("/b.jpg")])  # one of them is denied: a reject
    with pytest.raises(DataError, match=r"127.0.0.1:1/x.jpg: .*refused.*6 tries"):
        require_access(["http://127.0.0.1:1/x.jpg"])


def test_one_bad_host_does_not_end_a_command(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.files["/e.jpg"] = b"x"
    dead = [f"http://127.0.0.{number}:1/x.jpg" for number in range(1, 9)]
    require_access([*dead, site.url("/e.jpg")])
    assert "8 of 9 buckets and hosts can't be read, http://127.0.0.1:1/x.jpg: " in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_file_system_that_can_not_be_made_lacks_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(scheme: str, versions: bool) -> None:
        raise ValueError("Must provide either a connection_string or account_name with credentials!!")

    monkeypatch.setattr(objects, "_system", unknown)
    monkeypatch.setitem(sys.modules, "adlfs", ModuleType("adlfs"))
    with pytest.raises(DataError, match=r"az://b/x.jpg: no credentials for az:// .*set AZURE_STORAGE_ACCOUNT_NAME"):
        require_access(["az://b/x.jpg"])


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:1", "Invalid endpoint: 127.0.0.1:1"),
        ("FSSPEC_S3_BLA", "1", "unexpected keyword argument 'bla'"),
    ],
)
def test_wrong_settings_of_s3_are_told_in_a_line_that_names_them(variable: str, value: str, said: str) -> None:
    code = "from headstart.features.images.files.urls import require_access; require_access(['s3://b/x.jpg'])"
    environment = {**os.environ, **KEYS, variable: value}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    last = done.stderr.splitlines()[-1]
    assert re.search(
        rf"DataError: s3://b/x.jpg: s3fs refuses the settings \(.*{said}\); change or unset {variable}$", last
    )


class Refusing:
    """A file system that refuses each request with this error, and counts them."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, list[str]()

    def info(self, url: str) -> dict[str, object]:
        self.asked.append(url)
        raise self.error


def test_a_request_that_a_library_refuses_to_send_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    report = 'Invalid bucket name "B_": Bucket name must match the regex "^[a-z]{1,255}$" or be an ARN'
    for error, said in (
        (ParamValidationError(report=report), 'Invalid bucket name "B_"'),
        (ValueError("invalid literal"), "s3fs can't read the answer (ValueError: invalid literal)"),
    ):
        system = Refusing(error)
        monkeypatch.setattr(objects, "_system", lambda *_, system=system, **__: system)
        with pytest.raises(UnreadableError) as found:
            version_of_url("S3://B_/K.jpg")
        assert found.value.fault.detail == said
        assert system.asked == ["s3://B_/K.jpg"]


def test_a_version_that_a_url_names_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    asked = list[bool]()

    class Asked:
        def info(self, url: str) -> dict[str, object]:
            return {"size": "12", "ETag": url}

    def made(scheme: str, versions: bool) -> Asked:
        asked.append(versions)
        return Asked()

    assert objects._system("s3", versions=True).version_aware
    objects._system.cache_clear()  # made with the keys of this test alone
    monkeypatch.setattr(objects, "_system", made)
    assert version_of_url("s3://b/x.jpg?versionId=7").bytes == version_of_url("s3://b/x.jpg").bytes == 12
    assert asked == [True, False]


def test_lost_access_ends_decoding_with_its_cause(site: Site, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise DataError("s3://b/x.jpg: no credentials for s3://")

    site.files["/x.jpg"] = photo.read_bytes()
    (image,) = inspect_image(site.url("/x.jpg"))
    assert isinstance(image, ImageFile)
    monkeypatch.setattr("headstart.features.images.files.reading.read_url", lost)
    for images in ([image, image], [image]):
        with pytest.raises(DataError, match="no credentials for s3://"):
            list(decoded_batches(images, ImageConfig(64), 8))
    of_two = decoded_dataset(
        tf.data.Dataset.from_tensor_slices(file_columns([image] * 2, ImageConfig(64))), ImageConfig(64), 8
    )
    with pytest.raises(DataError, match="no credentials for s3://"), explained([]):
        list(of_two)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(DataError, match=r"s3://b/x.jpg: reading it needs s3fs: pip install 'headstart\[remote\]'"):
        require_access(["s3://b/x.jpg"])


def test_an_object_of_another_size_than_announced_is_read_anew(site: Site) -> None:
    site.files["/x.jpg"] = b"12345"
    version = version_of_url(site.url("/x.jpg"))
    site.files["/x.jpg"] = b"1234567"
    content, now = read_url(site.url("/x.jpg"), version)
    assert content == b"1234567"
    assert now == version_of_url(site.url("/x.jpg")) != version


def test_a_member_of_a_changed_tar_is_not_decoded(tmp_path: Path, drawn: Path) -> None:
    first, second = ((drawn / "cat" / f"cat.{number}.jpg").read_bytes() for number in range(2))
    tar, member = in_tar(tmp_path, "x.jpg", first)
    (image,) = inspect_image(member.path)
    assert isinstance(image, ImageFile)
    in_tar(tmp_path, "x.jpg", second)
    assert list(decoded_batches([image, image], ImageConfig(64), 8)) == []
    tar.write_bytes(tar.read_bytes()[:1000])
    assert not image.is_unchanged()
    assert why_undecodable(image).reason == "truncated"
    (found,) = inspect_image(member.path)
    assert isinstance(found, Reject)
    assert found.detail == "the tar ends before it"


def test_an_object_that_could_not_be_read_is_not_tried_again_for_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    image = ImageFile("https://far.example/1.jpg", "0" * 64, 3, 1, 1, 8, 8, "JPEG")
    tries, failing = list[int](), [True]

    def read(*_: object) -> bytes:
        tries.append(1)
        if failing:
            raise OSError(5, "the server is away")
        return b"no image"

    monkeypatch.setattr(reading, "_read_reference", read)
    for _ in range(2):
        assert reading.read_references(np.array([reading.reference_of(image)], object)).tolist() == [reading.UNREAD]
    (reject,) = why_all_undecodable([image])
    assert (reject.reason, reject.detail, len(tries)) == ("unreadable", "the server is away", 2)
    reading.read_references(np.array([reading.reference_of(image)], object))
    failing.clear()
    reading.read_references(np.array([reading.reference_of(image)], object))
    assert why_all_undecodable([image])[0].reason == "corrupt"
    assert why_all_undecodable([image] * 3, lambda: True) == []


def test_bytes_that_another_process_removes_meanwhile_are_not_counted(tmp_path: Path) -> None:
    with fetched.bytes_kept(tmp_path, "data"):
        fetched.keep("s3://a/1.jpg", Version(3, 17), b"abc")
        folder = fetched.kept_folder()
        assert folder
        (kept,) = folder.glob("*/*")
        (kept.parent / "gone").symlink_to("nowhere")
        kept.with_name(".1-2-partial").write_bytes(b"partial")
        assert fetched._bytes_in(folder) == kept.stat().st_size
