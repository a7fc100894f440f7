"""`headstart features` of many small files whose features are all there: python -m benchmarks.many_files [--images N]

Prints the seconds and the peak memory of a first scan, which reads all files, and of a second one. The first row is a
folder of ten files, so the memory per image is the difference. A million images need 8 GB of disk and 1.1 million
inodes in --folder. --keep leaves the files there, and the next run with the same folder finds them.
"""

import argparse
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.digests import hex_digests
from headstart.features.frozen.network import load_networks
from headstart.pipeline.data.examples import scan
from rich.console import Console
from rich.table import Table

from benchmarks.scale import PIXEL

SHARD, IN_A_FOLDER, FEW = 16_384, 1000, 10
OPTIONS = ("--backbone=mobilenet_v3_small", "--weights=random", "--image-size=32", "--precision=auto")


def make_files(data: Path, images: int) -> None:
    """Make files of different content in class folders of a thousand files each."""
    for number in range(images):
        folder = data / f"class-{number // IN_A_FOLDER:04}"
        if number % IN_A_FOLDER == 0:
            folder.mkdir(parents=True)
        path = folder / f"IMG_{number:07}.jpg"
        path.write_bytes(PIXEL + str(number).encode())
        os.utime(path, (1, 1))


def fill(store: Path, data: Path) -> None:
    """Write features of all images in `data` to `store`."""
    config = FeatureConfig(backbone="mobilenet_v3_small", weights="random", image_size=32, precision="auto")
    store.mkdir(exist_ok=True)
    (network,) = load_networks(config, ExtractionConfig(store=store), KnownBackbones(store))
    digests = scan(data).examples.digests
    for one in network.stores().values():
        one.create()
        for start in range(0, len(digests), SHARD):
            piece = hex_digests(digests[start : start + SHARD])
            one.write_shard(piece, np.ones((len(piece), *one.form.shape), np.float32))


def measured(folder: Path, data: str, store: str) -> tuple[float, float]:
    """Seconds and peak MB of `headstart features`."""
    command = [sys.executable, "-m", "headstart.cli", "features", data, "--store", store, *OPTIONS]
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(command[0], command)
    _, status, used = os.wait4(child, 0)
    assert status == 0, status
    return time.perf_counter() - start, peak_bytes(used) / 1e6


def peak_bytes(used: resource.struct_rusage) -> int:
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def rows(folder: Path, images: int, rounds: int) -> Iterator[tuple[str, float, float]]:
    for name, count in (("few", FEW), ("many", images)):
        data, store = folder / name, folder / f"store-{name}"
        if not store.exists():
            make_files(data, count)
            fill(store, data)
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
