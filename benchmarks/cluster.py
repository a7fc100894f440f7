"""Extraction by a cluster, simulated: python -m benchmarks.cluster [--images N ...] [--nodes N ...]

Prints a table for 1, 8, 64 and 512 nodes at 100 million images and at a billion: the time, images extracted twice, idle
nodes, metadata operations, and the bottleneck; then one of nodes that die, hang, join or are slow. No cluster is
needed. Writes benchmarks/cluster.json.
`--check PHOTOS` measures 1, 2 and 4 real processes on one store instead, compares them with the simulator, and writes
benchmarks/cluster-check.json.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.benchmarks.cluster_check import FEW, check
from headstart.benchmarks.cluster_model import simulate
from headstart.benchmarks.cluster_parts import Disk, Node, Outcome, Protocol, Work
from headstart.features.files import write_json
from rich.console import Console
from rich.table import Table

_WIDTH = 150
_COLUMNS = ("images", "", "nodes", "hours", "images/s", "of ideal", "twice", "idle", "operations/s", "bottleneck")
NODES, IMAGES = (1, 8, 64, 512), (100_000_000, 1_000_000_000)
TOLERANCE, BUSY = 0.15, 0.1
# A GPU: on paper, 100 million images in 4.2 hours with the cores to decode them. Cores decode as measured (EPYC 2021).
GPU = Node(speed=6600, cores=12, decode=550, batch=384, start=40)
# 32 cores, each as fast as those measured (EPYC 2022): 34.1 images/s of `inception_v3` on two, decoding included.
CPU = Node(speed=16 * 34.1, cores=32, batch=48, start=40)
FILES = {"read_operations": 4.0, "scan_operations": 1.0, "scan_seconds": 25e-6}
# Counted in a tar of 4,000 photographs of 45 KB, each beside a `.cls`, in batches of 48; timed in one of 20,000 (Xeon).
# A scan lists the tar: each process reads all headers, and makes a member of them in Python.
TAR = {"read_operations": 1.04, "scan_operations": 1.0, "scan_seconds": 90e-6, "scan_bytes": 100.0 + 4096}
KNOWN = {"read_operations": 0.0, "scan_operations": 0.0, "scan_seconds": 2e-6}  # what the store alone costs


@dataclass(frozen=True)
class Setup:
    """A kind of node, where the images lie, and how processes share the work."""

    node: Node
    places: dict[str, float]
    protocol: Protocol = field(default_factory=Protocol)


SETUPS = {
    "GPU, image files": Setup(GPU, FILES),
    "GPU, tar shards": Setup(GPU, TAR),
    "GPU, store alone": Setup(GPU, KNOWN),
    "GPU, store alone, portions of 65,536": Setup(GPU, KNOWN, Protocol(portion_images=1 << 16, shard_images=1 << 16)),
    "32 cores, tar shards": Setup(CPU, TAR),
    "32 cores, store alone": Setup(CPU, KNOWN),
}
TROUBLED, TROUBLED_NODES = "32 cores, store alone", 32


def simulate_setup(setup: Setup, images: int, nodes: int, disk: Disk, seed: int) -> Outcome:
    return simulate(Work(images, **setup.places), [setup.node] * nodes, disk, protocol=setup.protocol, seed=seed)


def troubles(node: Node, count: int, seconds: float, seed: int) -> dict[str, tuple[list[Node], Protocol]]:
    """What may happen to `count` nodes that would take `seconds`: to a tenth of them, at times drawn by `seed`."""
    some = max(1, count // 10)
    rest, drawn = [node] * (count - some), np.random.default_rng(seed).uniform(0, seconds, some).tolist()
    return {
        "nothing": ([node] * count, Protocol()),
        f"{some} die": ([*rest, *(replace(node, dies=time) for time in drawn)], Protocol()),
        f"{some} take three times as long": ([*rest, *[replace(node, slow=3)] * some], Protocol()),
        f"{some} hang for an hour": ([*rest, *(replace(node, hangs=(time, 3600)) for time in drawn)], Protocol()),
        f"{some} join later": ([*rest, *(replace(node, joins=time) for time in drawn)], Protocol()),
        "no claims, order drawn at random": ([node] * count, Protocol(claims=False)),
    }


def show_tables(images: Sequence[int], nodes: Sequence[int], disk: Disk, seed: int, console: Console) -> None:
    """Print the table of `SETUPS`, and one of troubles for the last setup, its nodes and the first number of images."""
    title = f"{disk.operations:.0f} operations/s of {disk.latency * 1e3:g} ms, {disk.bandwidth / 1e9:g} GB/s"
    table, rows = Table(*_COLUMNS, title=title), []
    for number in images:
        for name, setup in SETUPS.items():
            for count in nodes:
                out = simulate_setup(setup, number, count, disk, seed)
                rows.append(add_row(table, setup.node, number, count, name, out))
                console.print(f"{number / 1e6:g} M images, {count} nodes, {name}: {out.seconds:.0f} s", style="dim")
    console.print(table)
    setup, table = SETUPS[TROUBLED], Table(*_COLUMNS, title=f"{TROUBLED}: what may happen")
    work = Work(images[0], **setup.places)
    seconds = simulate(work, [setup.node] * TROUBLED_NODES, disk, seed=seed).seconds
    for name, (group, protocol) in troubles(setup.node, TROUBLED_NODES, seconds, seed).items():
        out = simulate(work, group, disk, protocol=protocol, seed=seed)
        rows.append(add_row(table, setup.node, images[0], len(group), name, out))
    console.print(table)
    write_json(Path(__file__).with_name("cluster.json"), {"rows": rows})


def add_row(table: Table, node: Node, images: int, nodes: int, name: str, out: Outcome) -> dict[str, Any]:
    """Add the row of an outcome to `table`. Return its figures."""
    of_ideal = images / (nodes * min(node.speed, node.cores * node.decode)) / out.seconds
    table.add_row(
        f"{images / 1e6:g} M", name, str(nodes), f"{out.seconds / 3600:.2f}", f"{out.images_per_second:.0f}",
        f"{of_ideal:.0%}", f"{out.waste:.2%}", f"{out.idle:.0%}", f"{out.operations_per_second:.0f}", out.bottleneck,
    )  # fmt: skip
    return {
        "images": images, "nodes": nodes, "setup": name, "seconds": out.seconds, "of_ideal": of_ideal,
        "waste": out.waste, "idle": out.idle, "shards": out.shards, "node_seconds": dict(out.times),
        "operations_per_second": out.operations_per_second, "bottleneck": out.bottleneck,
    }  # fmt: skip


def show_check(photos: Path, count: int, rounds: int, processes: Sequence[int], seed: int, console: Console) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        found = check(photos, Path(folder), count, processes, rounds, seed)
    columns = ("round", "processes", "measured, s", "predicted, s", "ratio", "extracted", "cores of other programs")
    table = Table(*columns, title=f"{found['images']} photographs, {found['cores']} cores")
    for row in found["rows"]:
        table.add_row(
            str(row["round"]), str(row["processes"]), f"{row['measured']:.1f}", f"{row['predicted']:.1f}",
            f"{row['ratio']:.2f}", " + ".join(map(str, row["extracted"])), f"{row['others']:.2f}",
        )  # fmt: skip
    console.print(table)
    for number, ratio in found["ratios"].items():
        within = "within" if abs(ratio - 1) <= TOLERANCE else "NOT within"
        console.print(f"{number} processes: predicted / measured {ratio:.2f}, {within} {TOLERANCE:.0%}")
    if any(row["others"] > BUSY for row in found["rows"]):
        console.print("other programs were busy meanwhile: measure again on a quiet machine")
    write_json(Path(__file__).with_name("cluster-check.json"), found)
    return all(abs(ratio - 1) <= TOLERANCE for ratio in found["ratios"].values())


def at_least(least: int, number: type[int] | type[float] = int) -> Callable[[str], float]:
    """A type of options: a finite number of at least `least`."""

    def parse(text: str) -> float:
        try:
            value = number(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            kind = "a whole number" if number is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {kind} of at least {least}. Received: {text}")
        return value

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=at_least(1), nargs="+", default=IMAGES)
    parser.add_argument("--nodes", type=at_least(1), nargs="+", default=NODES)
    latency, operations = Disk.latency * 1e3, Disk.operations
    parser.add_argument("--latency", type=at_least(0, float), default=latency, help="milliseconds of an operation")
    parser.add_argument(
        "--operations", type=at_least(1, float), default=operations, help="metadata operations per second"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=Path, metavar="PHOTOS", help="a folder of class folders of *.jpg")
    parser.add_argument("--photographs", type=at_least(FEW + 1), default=2000, help="how many of PHOTOS to take")
    parser.add_argument("--processes", type=at_least(1), nargs="+", default=(1, 2, 4))
    parser.add_argument("--rounds", type=at_least(1), default=3)
    asked = parser.parse_args()
    console = Console(width=_WIDTH)
    if asked.check:
        if not show_check(asked.check, asked.photographs, asked.rounds, asked.processes, asked.seed, console):
            raise SystemExit(1)
        return
    disk = replace(Disk(), latency=asked.latency / 1e3, operations=asked.operations)
    show_tables(asked.images, asked.nodes, disk, asked.seed, console)


if __name__ == "__main__":
    main()
