"""Time and peak memory of a store and a scan of many images: benchmarks/scale.py [--images N] [--folder DIR] [--narrow]

Writes benchmarks/scale.json. Each step runs in a process of its own, so that its peak memory is its own; that of
NumPy, h5py and the imports alone is the first row. It needs 5 GB of disk for a million images. With --narrow, features
have four values, so that 100 million images take 16 GB; only the steps of the store run, the files are not flushed to
disk, and benchmarks/scale_narrow.json is written. Memory is the peak of what no file backs, and the peak with the pages
of mapped files.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
from headstart.features import files
from headstart.features.digests import DIGEST, DIGEST_BYTES, hex_digests
from headstart.features.files import write_json
from headstart.features.images.scan_memory import ScanMemory
from headstart.features.store import retired
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.store import FeatureStore
from headstart.pipeline.data.examples import scan
from rich.console import Console
from rich.table import Table

SHARD, READ, MILLION, DEPTH = 1024, 25_000, 1_000_000, 2048
FINGERPRINT = Fingerprint(
    backbone="synthetic", weights="0" * 64, cut="mixed10", shape=(DEPTH,), dtype="float16", precision="bfloat16",
    rescale={"scale": [1.0], "offset": [0.0]}, image_size=299, resize="stretch", truncated="reject", pixels_version=2,
)  # fmt: skip
NARROW = replace(FINGERPRINT, shape=(4,))
# The smallest JPEG that Pillow reads; the number of the image follows it.
PIXEL = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffc0000b080001000101011100ffc4001400010000"
    "0000000000000000000000000003ffc40014100100000000000000000000000000000000ffda0008010100003f0037ffd9"
)


def digests(numbers: Iterable[int]) -> list[str]:
    """The digests of images: each shard's are random, so that they are quickly made again."""
    asked = np.fromiter(numbers, np.int64)
    found = np.empty(len(asked), DIGEST)
    order = np.argsort(asked)
    for here in np.split(order, np.flatnonzero(np.diff(asked[order] // SHARD)) + 1):
        block = np.random.default_rng(asked[here[0]] // SHARD).bytes(SHARD * DIGEST_BYTES)
        found[here] = np.frombuffer(block, DIGEST)[asked[here] % SHARD]
    return hex_digests(found)


def store_in(folder: Path) -> FeatureStore:
    """The store, as a command that may write to it opens it."""
    form = NARROW if (folder / "narrow").exists() else FINGERPRINT
    return FeatureStore(folder / "store", form).create()


def opened(folder: Path) -> FeatureStore:
    """The store, as a command that only reads it opens it."""
    (place,) = (folder / "store").iterdir()
    return FeatureStore.open(place)


def nothing(folder: Path, images: int) -> None:
    pass


def timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def timed_read(folder: Path, numbers: Iterable[int]) -> float:
    """Seconds of a read once the store has looked at its shards, which is what the step `open` takes."""
    store, names = opened(folder), digests(numbers)
    store.missing([])
    return timed(lambda: store.read(names))


def write_shards(folder: Path, first: int, stop: int) -> None:
    store, rng = store_in(folder), np.random.default_rng(0)
    for start in range(first, stop, SHARD):
        numbers = range(start, min(start + SHARD, stop))
        store.write_shard(digests(numbers), rng.random((len(numbers), *store.form.shape), np.float32))


def write(folder: Path, images: int) -> None:
    write_shards(folder, 0, images)


def write_unflushed(folder: Path, images: int) -> None:
    files.flush_to_disk = retired.flush_to_disk = lambda path: None  # the disk is not what is measured here
    (folder / "narrow").touch()
    write(folder, images)


def merged(folder: Path, images: int) -> None:
    store_in(folder).write_merged()


def make_index(folder: Path, images: int) -> float:
    return timed(lambda: store_in(folder))


def open_to_read(folder: Path, images: int) -> float:
    return timed(lambda: opened(folder).missing([]))


def open_to_read_cold(folder: Path, images: int) -> float:
    for file in (folder / "store").glob("*/index-*/*"):
        with file.open("rb") as content:
            os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return open_to_read(folder, images)


def open_to_write(folder: Path, images: int) -> float:
    return timed(lambda: store_in(folder).missing([]))


def new_shards(folder: Path, images: int) -> None:
    write_shards(folder, 2 * images, 2 * images + 100 * SHARD)


def timed_missing(folder: Path, images: int, count: int) -> float:
    """Seconds to look for `count` images, of which the store lacks a hundredth."""
    store, names = opened(folder), digests(range(images - count + count // 100, images + count // 100))
    store.missing([])
    found = []
    seconds = timed(lambda: found.extend(store.missing(names)))
    assert len(found) == count // 100
    return seconds


def missing_few(folder: Path, images: int) -> float:
    return timed_missing(folder, images, min(READ, images))


def missing_many(folder: Path, images: int) -> float:
    return timed_missing(folder, images, min(MILLION, images))


def read_together(folder: Path, images: int) -> float:
    return timed_read(folder, range(images // 2, images // 2 + min(READ, images // 2)))


def read_scattered(folder: Path, images: int) -> float:
    return timed_read(folder, np.random.default_rng(1).choice(images, min(READ, images), replace=False).tolist())


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


Step = Callable[[Path, int], float | None]
OPENED: dict[str, Step] = {
    "make the index": make_index,
    "open to read": open_to_read,
    "open to read, the index not in memory": open_to_read_cold,
    "open to write": open_to_write,
    f"missing of {READ}": missing_few,
    f"missing of {MILLION}": missing_many,
    f"read {READ} written together": read_together,
    f"read {READ} at random": read_scattered,
    "write 100 new shards": new_shards,
    "open to write, 100 shards new": open_to_write,
    "open to read, again": open_to_read,
}
NARROW_STEPS: dict[str, Step] = {"start": nothing, "write, unflushed": write_unflushed, **OPENED}
STEPS: dict[str, Step] = {
    "start": nothing,
    "write": write,
    "write features.h5": merged,
    **OPENED,
    "make small files": make_files,
    "first scan": scan_files,
    "second scan": scan_files,
}


class Memory(threading.Thread):
    """Looks every 10 ms how much memory this process has that no file backs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, psutil.Process().memory_info().rss - psutil.Process().memory_info().shared)
            time.sleep(0.01)


def run_step(step: Step, name: str, folder: Path, images: int) -> dict[str, object]:
    memory = Memory()
    memory.start()
    start = time.perf_counter()
    own = step(folder, images)
    seconds = time.perf_counter() - start if own is None else own
    time.sleep(0.05)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"step": name, "seconds": seconds, "peak_bytes": peak, "peak_own_bytes": memory.peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=MILLION)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--narrow", action="store_true", help="features of four values; without the scan")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    steps = NARROW_STEPS if arguments.narrow else STEPS
    if arguments.step:
        step = steps[arguments.step]
        print(json.dumps(run_step(step, arguments.step, arguments.folder, arguments.images)))
        return
    columns = ("step", "seconds", "peak MiB", "with files MiB")
    table, rows = Table(*columns, title=f"{arguments.images} images"), []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for step in steps:
            command = [sys.executable, __file__, f"--images={arguments.images}", f"--folder={folder}", f"--step={step}"]
            command += ["--narrow"] * arguments.narrow
            row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            rows.append(row)
            own, peak = (f"{row[kind] / 2**20:.0f}" for kind in ("peak_own_bytes", "peak_bytes"))
            table.add_row(step, f"{row['seconds']:.2f}", own, peak)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    name = "scale_narrow.json" if arguments.narrow else "scale.json"
    write_json(Path(__file__).with_name(name), {"images": arguments.images, "machine": machine, "steps": rows})
    Console().print(table)


if __name__ == "__main__":
    main()
