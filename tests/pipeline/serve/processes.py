"""A server in a process of its own, and clients that behave badly."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from headstart.tests.conftest import COMMAND_LINE

BOUNDARY = "----headstart"


@dataclass
class Process:
    """A server that runs. `log` has what it told on standard error."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        found = urlsplit(self.url)
        return str(found.hostname), int(found.port or 0)

    def asked(self, data: bytes) -> tuple[int, dict[str, object]]:
        """Status and JSON object of the answer to the bytes of a request."""
        with socket.create_connection(self.address, 60) as connection:
            connection.sendall(data)
            return answer_on(connection)

    def memory(self) -> int:
        """The most memory that the process had so far, in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


@contextmanager
def served(run: Path, folder: Path, *options: str) -> Iterator[Process]:
    """Serve `run` at a free port. A server that still runs at the end is killed."""
    log = folder / "log"
    with log.open("w") as errors:
        command = [sys.executable, "-c", COMMAND_LINE, "serve", str(run), "--port=0", "--json", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ})
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Process(process, json.loads(line)["url"], log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def answer_on(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and JSON object of the next answer on a connection. Status 0: it was closed without one."""
    with connection.makefile("rb") as answers:
        first = answers.readline()
        if not first:
            return 0, {}
        length = 0
        while (line := answers.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return int(first.split()[1]), json.loads(answers.read(length))


def request(*files: bytes) -> bytes:
    """The bytes of a request with `files`."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{number}.jpg"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for number, data in enumerate(files)
    ]
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
