"""A server under load, with clients that are slow, cut off or hostile, and how it stops."""

import asyncio
import io
import os
import signal
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from headstart.pipeline.serve.server import Server, listen
from headstart.tests.pipeline.serve.processes import Process, answer_on, request, served
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture
def photographs(prepared: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(prepared.rglob("cat.*.jpg"))]


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that declares `side` * `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def test_load_and_bad_clients(trained_run: Path, photographs: list[bytes], tmp_path: Path) -> None:
    with served(trained_run, tmp_path, "--timeout=2", "--max-bytes=2000000") as server:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda number: server.asked(request(photographs[number % 20])), range(300)))
        assert Counter(status for status, _ in found) == {200: 300}
        labels = {number % 20: answer["answers"][0]["label"] for number, (_, answer) in enumerate(found)}  # type: ignore[index]
        assert all(labels[number % 20] == answer["answers"][0]["label"] for number, (_, answer) in enumerate(found))  # type: ignore[index]

        whole = request(photographs[0])
        with socket.create_connection(server.address, 30) as slow:  # a body that trickles
            slow.sendall(whole[:300])
            began = time.monotonic()
            threading.Thread(target=trickle, args=(slow,), daemon=True).start()
            status, answer = answer_on(slow)
            assert (status, "2 seconds" in str(answer["error"])) == (408, True)
            assert time.monotonic() - began < 10
        with socket.create_connection(server.address, 30) as silent:  # no head at all
            silent.sendall(b"POST /pre")
            assert answer_on(silent) == (408, {"error": "no request came within 10 seconds"})
        for cut in (100, 400, len(whole) - 10):  # half an upload, and gone
            with socket.create_connection(server.address, 30) as gone:
                gone.sendall(whole[:cut])
        head, body = whole.split(b"\r\n\r\n", 1)
        half = (
            head.replace(str(len(body)).encode(), str(len(body) // 2).encode()) + b"\r\n\r\n" + body[: len(body) // 2]
        )
        assert server.asked(half)[0] == 400
        status, answer = server.asked(request(bomb(20_000)))
        assert (status, "20000 x 20000 pixels" in str(answer["error"])) == (413, True)
        assert server.asked(request(bytes(3_000_000)))[0] == 413
        assert server.asked(b"nonsense\r\n\r\n") == (400, {"error": "the request is no HTTP that this server reads"})
        status, _ = server.asked(b"GET / HTTP/1.1\r\n" + b"X: " + b"0" * 1_000_000)
        assert status == 431
        assert server.asked(whole)[0] == 200
        stop(server, signal.SIGTERM, 0)
        told = server.log.read_text()
        assert "Traceback" not in told
        assert "0.jpg" not in told


def trickle(connection: socket.socket) -> None:
    try:
        while True:
            connection.sendall(b"0")
            time.sleep(0.05)
    except OSError:
        pass


def stop(server: Process, kind: signal.Signals, code: int) -> None:
    server.process.send_signal(kind)
    assert server.process.wait(60) == code, server.log.read_text()


@pytest.fixture
def many_files() -> Iterator[None]:
    """12,000 files may be open, if the system allows so many."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 12_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_ten_thousand_requests_at_once(trained_run: Path, photographs: list[bytes], tmp_path: Path) -> None:
    with served(trained_run, tmp_path, "--max-requests=20") as server:
        server.asked(request(photographs[0]))
        before, data = server.memory(), request(photographs[0])

        def ask() -> int:
            try:
                return server.asked(data)[0]
            except OSError:
                return 0

        with ThreadPoolExecutor(500) as pool:
            found = Counter(one.result() for one in [pool.submit(ask) for _ in range(10_000)])
        assert found.total() == 10_000
        assert found.keys() <= {200, 429, 503}
        assert found[200] >= 100
        assert server.memory() - before < 500 << 20
        assert server.asked(data)[0] == 200
        stop(server, signal.SIGTERM, 0)
        assert "Traceback" not in server.log.read_text()


def test_a_second_interrupt_ends_requests_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    begun = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.sleep(30)

    listening = listen("127.0.0.1", 0)
    server = Server(listening, app, lambda: None, 20)

    def interrupt() -> None:
        with socket.create_connection(listening.getsockname()) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            begun.wait(10)
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            server.run()
    assert not [one.message for one in caplog.records if one.levelname == "ERROR"]


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_under_load(
    kind: signal.Signals, code: int, trained_run: Path, photographs: list[bytes], tmp_path: Path
) -> None:
    with served(trained_run, tmp_path) as server, ThreadPoolExecutor(16) as pool:
        sent, found = threading.Semaphore(0), list[int]()
        begun, ended = threading.Event(), threading.Event()

        def ask() -> None:
            while not ended.is_set():
                with socket.create_connection(server.address, 30) as connection:
                    connection.sendall(request(photographs[0]))
                    sent.release()
                    found.append(answer_on(connection)[0])
                if len(found) > 50:
                    begun.set()

        def asking() -> bool:
            try:
                ask()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:  # it waited to be accepted
                return True
            return False

        running = [pool.submit(asking) for _ in range(16)]
        assert begun.wait(60)
        server.process.send_signal(kind)
        assert server.process.wait(60) == code
        ended.set()
        assert all(one.result() for one in running)
        assert Counter(found).keys() <= {200, 503, 0}
        assert found.count(200) >= 50
        assert found.count(0) <= 16  # connections that had sent no whole request yet
        told = server.log.read_text()
        assert "Traceback" not in told
        assert ("interrupted; " in told) == (kind == signal.SIGINT)


def test_images_do_not_reach_the_disk(trained_run: Path, photographs: list[bytes], tmp_path: Path) -> None:
    with served(trained_run, tmp_path) as server:
        Image.frombytes("RGB", (1000, 1000), os.urandom(3_000_000)).save(large := io.BytesIO(), "PNG")
        assert len(large.getvalue()) > 2 << 20
        with socket.create_connection(server.address, 60) as connection:
            connection.sendall(request(large.getvalue()))
            names = set[str]()
            connection.settimeout(0.001)
            data = b""
            while b"answers" not in data:
                names |= {
                    os.readlink(one) for one in Path(f"/proc/{server.process.pid}/fd").iterdir() if one.is_symlink()
                }
                try:
                    data += connection.recv(1 << 16)
                except TimeoutError:
                    continue
        assert not [name for name in names if name.startswith(("/tmp/tmp", "/tmp/#"))]
        stop(server, signal.SIGTERM, 0)


def test_another_host_is_told(trained_run: Path, tmp_path: Path) -> None:
    with served(trained_run, tmp_path, "--host=0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert "--host 0.0.0.0: whoever can reach this machine" in server.log.read_text()
