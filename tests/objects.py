"""Objects for tests and benchmarks: an S3 server, and a server before it that counts requests and lets some fail."""

import http.client
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

_OF_HOP = ("connection", "transfer-encoding", "content-length", "date", "server")
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that were killed."""


@dataclass
class Unsteady:
    """A server in front of another one. Of its requests, the fraction `failing` gets an error or no answer."""

    target: int  # port
    failing: float = 0.0
    seed: int = 0
    requests: Counter[str] = field(default_factory=Counter)  # by method, and by what became of them
    bytes: int = 0  # of contents that were sent
    read: Counter[str] = field(default_factory=Counter)  # contents sent, by path
    delay: float = 0.0  # seconds before each answer

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        with self._lock:
            self.requests.clear()
            self.read.clear()
            self.bytes = 0

    def fate(self, method: str) -> str:
        with self._lock:
            self.requests[method] += 1
            failing = self._random.random() < self.failing
            fate = self._random.choice(["500", "503", "reset", "cut"]) if failing else "passed"
            self.requests[fate] += 1
            return fate

    def sent(self, path: str, size: int) -> None:
        with self._lock:
            self.bytes += size
            self.read[path] += 1

    @contextmanager
    def running(self) -> Iterator["Unsteady"]:
        thread = Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: Unsteady

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fate = self.owner.fate(self.command)
        time.sleep(self.owner.delay)
        if fate == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if fate in ("500", "503"):
            self._answer(int(fate), [], b"" if self.command == "HEAD" else b"<Error><Code>InternalError</Code></Error>")
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.owner.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OF_HOP]
        size = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, kept, content, size, cut=fate == "cut" and len(content) > 1)
        if self.command == "GET" and answer.status < 300:
            self.owner.sent(urlsplit(self.path).path, len(content) // 2 if fate == "cut" else len(content))

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, size: str | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", size or str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def s3_server() -> Iterator[int]:
    """Run an S3 server in a process of its own. Yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield port
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the S3 server does not answer")
