"""Images per second of `serve` against those of `predict`: python -m benchmarks.serving RUN PHOTOS [--requests N]

`predict` runs in a process of its own, and then the server answers one photograph per request, on many connections at
once. The two take turns. The store is left out, so that both compute all features. Client and server share the cores.
"""

import argparse
import json
import os
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from headstart.features.files import write_json

BOUNDARY = "----headstart"


@dataclass
class Load:
    """The answers to the requests of one round."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


def headstart(*arguments: str) -> list[str]:
    code = (
        "import signal as s; s.signal(s.SIGINT, s.default_int_handler); "
        "from headstart import command_line; command_line()"
    )
    return [sys.executable, "-c", code, *arguments]


def predict_speed(run: Path, photos: Sequence[Path], folder: Path) -> float:
    """Images per second of `predict`, without its start, as it tells them."""
    listed = folder / "photos.txt"
    listed.write_text("\n".join(map(str, photos)))
    output = folder / "predicted.jsonl"
    output.unlink(missing_ok=True)
    command = headstart(
        "predict", str(run), "--from", str(listed), "--output", str(output), "--store", str(folder / "no"), "--json"
    )
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["written"] == len(set(photos))
    return float(told["images_per_second"])


@contextmanager
def server(run: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Start a server; yields its host and port. At the end it gets SIGTERM, and must end well."""
    command = headstart("serve", str(run), "--port=0", "--json", "--store", str(folder / "no"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = urlsplit(json.loads(process.stdout.readline())["url"])
        try:
            yield str(url.hostname), int(url.port or 0)
        finally:
            process.terminate()
            assert process.wait(60) == 0


def request_of(photo: Path, host: str) -> bytes:
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{photo.name}"\r\n\r\n'.encode()
        + photo.read_bytes()
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def loaded(address: tuple[str, int], photos: Sequence[Path], connections: int) -> Load:
    """Send a request for each of `photos`, on so many connections at once."""
    left: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for photo in photos:
        left.put(photo)
    found = Load()

    def client() -> None:
        with socket.create_connection(address, 120) as connection, connection.makefile("rb") as answers:
            while True:
                try:
                    request = request_of(left.get_nowait(), address[0])
                except queue.Empty:
                    return
                began = time.perf_counter()
                connection.sendall(request)
                status = int(answers.readline().split()[1])
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                answers.read(length)
                found.latencies.append(time.perf_counter() - began)
                found.statuses[status] = found.statuses.get(status, 0) + 1

    threads = [threading.Thread(target=client) for _ in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.perf_counter() - began
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    photos = sorted(given.photos.rglob("*.jpg"))
    photos = (photos * -(-given.requests // len(photos)))[: given.requests]
    predicted, served, latencies, errors = list[float](), list[float](), list[float](), 0
    with tempfile.TemporaryDirectory() as folder, server(given.run, Path(folder)) as address:
        loaded(address, photos[:64], given.connections)
        for _ in range(given.rounds):
            predicted.append(predict_speed(given.run, sorted(set(photos)), Path(folder)))
            load = loaded(address, photos, given.connections)
            served.append(len(load.latencies) / load.seconds)
            latencies += load.latencies
            errors += sum(count for status, count in load.statuses.items() if status != 200)
            errors += len(photos) - len(load.latencies)
    figures = {
        "requests": given.requests,
        "connections": given.connections,
        "cores": len(os.sched_getaffinity(0)),
        "predict": predicted,
        "serve": served,
        "ratio": statistics.median(ours / theirs for ours, theirs in zip(served, predicted, strict=True)),
        "p50": float(np.quantile(latencies, 0.5)),
        "p99": float(np.quantile(latencies, 0.99)),
        "errors": errors,
    }
    print(json.dumps(figures, indent=2))
    if given.json:
        write_json(given.json, figures)


if __name__ == "__main__":
    main()
