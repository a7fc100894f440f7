"""Seconds of commands that have nothing to compute: python -m benchmarks.start [--images N] [--rounds N]

`features` and `store explain` find all features in the store. The others end with an error, or show their help.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.frozen.network import load_networks
from headstart.pipeline.data.examples import scan
from rich.console import Console
from rich.table import Table

from benchmarks.scale import PIXEL

SHARD, CLASSES = 1024, 2
OPTIONS = ("--backbone=mobilenet_v3_small", "--weights=random", "--image-size=32", "--precision=auto")


def fill(folder: Path, images: int) -> None:
    """Make `images` small files, and a store with features of all of them."""
    data, store = folder / "data", folder / "store"
    for number in range(CLASSES):
        (data / f"class-{number}").mkdir(parents=True)
    for number in range(images):
        (data / f"class-{number % CLASSES}" / f"{number}.jpg").write_bytes(PIXEL + str(number).encode())
    time.sleep(2.5)  # a scan does not remember files that were written just before it
    config = FeatureConfig(backbone="mobilenet_v3_small", weights="random", image_size=32, precision="auto")
    store.mkdir()
    (network,) = load_networks(config, ExtractionConfig(store=store), KnownBackbones(store))
    digests = [example.image.digest for example in scan(data).examples]
    for one in network.stores().values():
        one.create()
        for start in range(0, images, SHARD):
            piece = digests[start : start + SHARD]
            one.write_shard(piece, np.ones((len(piece), *one.form.shape), np.float32))
    run(folder, "features", "data", *OPTIONS)  # remembers the scan


def run(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds of a command, and of the processors in it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "headstart.cli", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    commands = {
        "features, all there": ("features", "data", *OPTIONS),
        "store explain": ("store", "explain", "store", "data", *OPTIONS),
        "head, unknown cut": ("head", "data", "--run=run", "--cut=none"),
        "head, --run is there": ("head", "data", "--run=data", *OPTIONS),
        "features, no such weights": ("features", "data", "--weights=absent.h5"),
        "features, no such folder": ("features", "absent"),
        "evaluate, no such run": ("evaluate", "absent"),
        "--help": ("--help",),
    }
    table = Table("command", "seconds", "processor seconds", title=f"{arguments.images} images")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, arguments.images)
        for title, command in commands.items():
            taken = [run(folder, *command) for _ in range(arguments.rounds)]
            table.add_row(title, *(f"{statistics.median(figures):.2f}" for figures in zip(*taken, strict=True)))
    Console().print(table)


if __name__ == "__main__":
    main()
