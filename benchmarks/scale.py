"""Time and peak memory of a store and a scan of a million images: benchmarks/scale.py [--images N] [--folder DIR]

Writes benchmarks/scale.json. Each step runs in a process of its own, so that its peak memory is its own; that of
NumPy, h5py and the imports alone is the first row. It needs 5 GB of disk for a million images.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from headstart.features.files import write_json
from headstart.features.images.scan_memory import ScanMemory
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.store import FeatureStore
from headstart.pipeline.data.examples import scan
from rich.console import Console
from rich.table import Table

SHARD, READ, DEPTH = 1024, 25_000, 2048
FINGERPRINT = Fingerprint(
    backbone="synthetic", weights="0" * 64, cut="mixed10", shape=(DEPTH,), dtype="float16", precision="bfloat16",
    rescale={"scale": [1.0], "offset": [0.0]}, image_size=299, resize="stretch", truncated="reject", pixels_version=2,
)  # fmt: skip
# The smallest JPEG that Pillow reads; the number of the image follows it.
PIXEL = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffc0000b080001000101011100ffc4001400010000"
    "0000000000000000000000000003ffc40014100100000000000000000000000000000000ffda0008010100003f0037ffd9"
)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def store_in(folder: Path) -> FeatureStore:
    return FeatureStore(folder / "store", FINGERPRINT).create()


def nothing(folder: Path, images: int) -> None:
    pass


def timed_read(folder: Path, numbers: Iterable[int]) -> float:
    """Seconds of a read once the store has looked at its shards, which is what the step `missing` takes."""
    store, digests = store_in(folder), [digest(number) for number in numbers]
    store.missing([])
    start = time.perf_counter()
    assert store.read(digests).any()
    return time.perf_counter() - start


def write(folder: Path, images: int) -> None:
    store, rng = store_in(folder), np.random.default_rng(0)
    for start in range(0, images, SHARD):
        numbers = range(start, min(start + SHARD, images))
        store.write_shard([digest(number) for number in numbers], rng.random((len(numbers), DEPTH), np.float32))


def merged(folder: Path, images: int) -> None:
    store_in(folder).write_merged()


def missing(folder: Path, images: int) -> None:
    absent = store_in(folder).missing([digest(number) for number in range(images // 100, images + images // 100)])
    assert len(absent) == images // 100


def read_together(folder: Path, images: int) -> float:
    return timed_read(folder, range(images // 2, images // 2 + min(READ, images // 2)))


def read_scattered(folder: Path, images: int) -> float:
    return timed_read(folder, np.random.default_rng(1).choice(images, min(READ, images), replace=False))


def make_files(folder: Path, images: int) -> None:
    for number in range(images):
        path = folder / "data" / f"class{number % 10}" / f"{number}.jpg"
        if number < 10:
            path.parent.mkdir(parents=True)
        path.write_bytes(PIXEL + str(number).encode())
        os.utime(path, (1, 1))


def scan_files(folder: Path, images: int) -> None:
    data = folder / "data"
    assert len(scan(data, memory=ScanMemory(folder / "scans", data)).examples) == images


STEPS: dict[str, Callable[[Path, int], float | None]] = {
    "start": nothing,
    "write": write,
    "write features.h5": merged,
    "missing": missing,
    f"read {READ} written together": read_together,
    f"read {READ} at random": read_scattered,
    "make small files": make_files,
    "first scan": scan_files,
    "second scan": scan_files,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        start = time.perf_counter()
        own = STEPS[arguments.step](arguments.folder, arguments.images)
        seconds = time.perf_counter() - start if own is None else own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"step": arguments.step, "seconds": seconds, "peak_bytes": peak}))
        return
    table, rows = Table("step", "seconds", "peak MiB", title=f"{arguments.images} images"), []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for step in STEPS:
            command = [sys.executable, __file__, f"--images={arguments.images}", f"--folder={folder}", f"--step={step}"]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
            table.add_row(step, f"{rows[-1]['seconds']:.2f}", f"{rows[-1]['peak_bytes'] / 2**20:.0f}")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    write_json(Path(__file__).with_name("scale.json"), {"images": arguments.images, "machine": machine, "steps": rows})
    Console().print(table)


if __name__ == "__main__":
    main()
