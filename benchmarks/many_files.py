"""`headstart features` of many small files whose features are all there: python -m benchmarks.many_files [--images N]

Prints the seconds and the peak memory (on Linux) of a first scan, which reads all files, and of a second one. The first
rows are those of ten files, so the memory per image is the difference. A million images need 8 GB of disk and 1.1
million inodes in --folder. --keep leaves the files there, and the next run with the same folder finds them.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.data.examples import scan
from headstart.pipeline.featured import networks_for
from rich.console import Console
from rich.table import Table

from benchmarks.scale import PIXEL

SHARD, IN_A_FOLDER, FEW = 16_384, 1000, 10
OPTIONS = ("--backbone=mobilenet_v3_small", "--weights=random", "--image-size=32", "--precision=auto")

# A child's `ru_maxrss` counts memory of its parent, so the process tells its own peak.
PROGRAM = """
import atexit, sys
from headstart.cli import app

def tell():
    assert "tensorflow" not in sys.modules
    (peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(peak) * 1024)

atexit.register(tell)
app()
"""


def content(number: int) -> bytes:
    return PIXEL + str(number).encode()


def make_files(data: Path, images: int) -> None:
    """Make files of different content in class folders of a thousand files each."""
    for number in range(images):
        folder = data / f"class-{number // IN_A_FOLDER:04}"
        if number % IN_A_FOLDER == 0:
            folder.mkdir(parents=True)
        path = folder / f"IMG_{number:07}.jpg"
        path.write_bytes(content(number))
        os.utime(path, (1, 1))


def fill(store: Path, images: int, like: Path) -> None:
    """Write features of all images to `store`. `like` is a folder with some of them."""
    config = FeatureConfig(backbone="mobilenet_v3_small", weights="random", image_size=32, precision="auto")
    store.mkdir()
    (network,) = networks_for(scan(like), config, ExtractionConfig(store=store))
    for one in network.stores().values():
        one.create()
        for start in range(0, images, SHARD):
            numbers = range(start, min(start + SHARD, images))
            digests = [hashlib.sha256(content(number)).hexdigest() for number in numbers]
            one.write_shard(digests, np.ones((len(digests), *one.form.shape), np.float32))


def measured(folder: Path, data: str, store: str) -> tuple[float, float]:
    """Seconds and peak MB of `headstart features`."""
    start = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, "features", data, "--store", store, *OPTIONS]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, int(done.stdout.splitlines()[-1]) / 1e6


def rows(folder: Path, images: int, rounds: int) -> Iterator[tuple[str, float, float]]:
    for name, count in (("few", FEW), ("many", images)):
        data, store = folder / name, folder / f"store-{name}"
        if not data.exists():
            make_files(data, count)
        if not store.exists():
            fill(store, count, folder / "few")
        for number in range(rounds):
            shutil.rmtree(store / "scans", ignore_errors=True)
            yield (f"{count} images, first scan", *measured(folder, name, store.name))
            yield (f"{count} images, second scan", *measured(folder, name, store.name))
            if number == 0 and name == "few":
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("many-files"))
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    table = Table("", "seconds", "peak MB")
    try:
        for name, seconds, peak in rows(arguments.folder.absolute(), arguments.images, arguments.rounds):
            table.add_row(name, f"{seconds:.2f}", f"{peak:.0f}")
    finally:
        if not arguments.keep:
            shutil.rmtree(arguments.folder)
    Console().print(table)


if __name__ == "__main__":
    main()
