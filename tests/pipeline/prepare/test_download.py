import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import DataError
from headstart.pipeline.prepare.download import download_zip


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.bin", np.random.default_rng(0).bytes(300_000))
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    content = archive()
    break_off_after: int | None = None
    ranges = True
    chunked = False
    speaks_http = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/x.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if not self.server.speaks_http:
            self.wfile.write(b"220 mail\r\n\r\n")
            return
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(body))
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
        self.wfile.write(body[: self.server.break_off_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    server.break_off_after = 100_000
    with pytest.raises(DataError, match="go on"):
        download_zip(server.url, tmp_path / "x.zip")
    assert (tmp_path / "x.zip.partial").stat().st_size == 100_000
    assert not (tmp_path / "x.zip").exists()
    server.break_off_after = None
    download_zip(server.url, tmp_path / "x.zip")
    assert server.asked == [None, "bytes=100000-"]
    assert (tmp_path / "x.zip").read_bytes() == server.content
    download_zip(server.url, tmp_path / "x.zip")
    assert len(server.asked) == 2


def test_a_download_that_breaks_off_within_a_chunk_is_told_in_a_line(server: Server, tmp_path: Path) -> None:
    server.chunked, server.break_off_after = True, 100_000
    with pytest.raises(DataError, match=r"x\.zip: broke off after \d+ bytes; run the same command again to go on"):
        download_zip(server.url, tmp_path / "x.zip")
    server.chunked, server.break_off_after = False, None
    download_zip(server.url, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == server.content


def test_a_server_that_speaks_no_http_is_told_in_a_line(server: Server, tmp_path: Path) -> None:
    server.speaks_http = False
    with pytest.raises(DataError, match=r"220 mail.*; run the same command again"):
        download_zip(server.url, tmp_path / "x.zip")


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.zip.partial").write_bytes(b"stale" * 100)
    server.ranges = False
    download_zip(server.url, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == server.content


def test_a_whole_partial_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.zip.partial").write_bytes(server.content)
    download_zip(server.url, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == server.content


def test_damage_is_found_by_the_crc(server: Server, tmp_path: Path) -> None:
    content = bytearray(server.content)
    content[1000] ^= 1
    server.content = bytes(content)
    with pytest.raises(DataError, match=r"damaged \(x\.bin\)"):
        download_zip(server.url, tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []


def test_damage_that_stops_unpacking_is_told(server: Server, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.bin", bytes(5000))
    content = bytearray(packed.getvalue())
    content[30 + len("x.bin")] |= 0b111  # a block of a type that does not exist
    server.content = bytes(content)
    with pytest.raises(DataError, match=r"the download is damaged \(Error -3 .*invalid block type\) and was deleted"):
        download_zip(server.url, tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="download it to"):
        download_zip("http://127.0.0.1:9/x.zip", tmp_path / "x.zip")
