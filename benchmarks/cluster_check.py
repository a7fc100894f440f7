"""The simulator against real processes: 1, 2 and 4 `headstart features` on one store, on this machine.

The parameters come from one process alone. It runs twice, on a few photographs and on all: what both take is the start,
what the others take is the extraction; in seconds, and in processor seconds. The processes share the cores.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from headstart.benchmarks.cluster_model import simulate
from headstart.benchmarks.cluster_parts import Costs, Disk, Host, Node, Work
from headstart.features.device import cpu_count

FEW = 16
COMMAND = [sys.executable, "-c", "import headstart.cli; headstart.cli.app()", "features"]
OPTIONS = ["--backbone", "efficientnet_lite0", "--precision", "float32", "--json"]
LOCAL = Disk(latency=2e-5, operations=5e4, bandwidth=1e9)


@dataclass(frozen=True)
class Measured:
    """Processes that began at once: seconds until the last ended, processor seconds, images extracted by each.

    `others` is how many cores other programs took meanwhile.
    """

    seconds: float
    processor: float
    extracted: list[int]
    others: float


def copy_photographs(photos: Path, data: Path, count: int) -> int:
    """Copy the first `count` photographs, by turns from each class folder, to the folder `data`. Return how many."""
    classes = [sorted(folder.glob("*.jpg")) for folder in sorted(photos.iterdir()) if folder.is_dir()]
    if not any(classes):
        sys.exit(f"{photos}: no folders of *.jpg; name a folder with a folder for each class")
    copied = 0
    for files in classes:
        for file in files[: count // len(classes)]:
            target = data / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            copied += 1
    return copied


def measure(data: Path, store: Path, processes: int) -> Measured:
    """Time `processes` that fill an empty store at `store` together."""
    shutil.rmtree(store, ignore_errors=True)
    busy, start = _busy(), time.perf_counter()
    command = [*COMMAND, str(data), "--store", str(store), *OPTIONS]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(processes)]
    results, processor = [], 0.0
    try:
        for one in running:
            assert one.stdout
            results.append(json.loads(one.stdout.read() or "{}"))
            _, status, usage = os.wait4(one.pid, 0)
            one.returncode = os.waitstatus_to_exitcode(status)
            if one.returncode:
                sys.exit(f"{' '.join(command)}: failed with {one.returncode}")
            processor += usage.ru_utime + usage.ru_stime
    finally:  # also after Ctrl-C
        for one in running:
            if one.returncode is None:
                one.kill()
                one.wait()
    seconds = time.perf_counter() - start
    others = max(0.0, (_busy() - busy - processor) / seconds)
    return Measured(seconds, processor, [result["extracted"] for result in results], others)


def _busy() -> float:
    """The processor seconds that all programs of this machine have used."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + getattr(times, "steal", 0.0)


def predict(
    few: Measured, alone: Measured, count: int, processes: int, cores: float, others: float = 0.0, seed: int = 0
) -> float:
    """Predict the seconds of `processes` that extract `count` images on `cores`.

    `few` and `alone` are of one process: it extracted a few of the images, and all. Other programs take `others` cores.
    """
    images = count - sum(few.extracted)
    image = max(1e-6, (alone.seconds - few.seconds) / images)
    image_processor = max(0.0, (alone.processor - few.processor) / images)
    start = few.seconds - sum(few.extracted) * image
    start_processor = few.processor - sum(few.extracted) * image_processor
    host = Host(max(cores - others, alone.processor / alone.seconds))  # at least what one process got
    node = Node(
        speed=1 / image, start=start, host=host, demand=image_processor / image, start_demand=start_processor / start
    )
    # The seconds of an image include its share of the scan and of the shards.
    work = Work(count, read_operations=0, scan_operations=0, scan_seconds=0, scan_bytes=0)
    return simulate(work, [node] * processes, LOCAL, Costs(write=0), seed=seed).seconds


def check(photos: Path, folder: Path, count: int, numbers: Sequence[int], rounds: int, seed: int) -> dict[str, Any]:
    """Measure and predict in `rounds`. A ratio compares figures of one round; the median of the rounds counts."""
    data, some, store = folder / "data", folder / "some", folder / "store"
    count = copy_photographs(photos, data, count)
    if count <= copy_photographs(photos, some, FEW):
        sys.exit(f"{photos}: gives {count} photographs, expected over {FEW}; add some, or raise --photographs")
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        few, alone = measure(some, store, 1), measure(data, store, 1)
        for processes in numbers:
            real = alone if processes == 1 else measure(data, store, processes)
            seconds = predict(few, alone, count, processes, cpu_count(), real.others, seed)
            rows.append({
                "round": number, "processes": processes, "measured": real.seconds, "predicted": seconds,
                "ratio": seconds / real.seconds, "extracted": real.extracted, "others": real.others,
                "processor": real.processor,
            })  # fmt: skip
    ratios = {
        processes: statistics.median(row["ratio"] for row in rows if row["processes"] == processes)
        for processes in numbers
    }
    return {"images": count, "cores": cpu_count(), "rows": rows, "ratios": ratios}
