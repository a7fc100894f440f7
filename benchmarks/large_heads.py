"""Heads on features in memory and on disk: python -m benchmarks.large_heads [--images N] [--width D] [--sweep]

Makes a store of N synthetic features in a temporary folder of --folder, and trains the same head on them in processes
of their own: with all memory, with --limit GiB for features, and with 2,000 images, for the memory of Python and
TensorFlow alone. 500,000 x 2,048 needs 4 GB of disk, and 7 GB of memory for the way in memory. The system refuses the
process of the way on disk more than --enforce GiB of private memory. Writes large_heads.json beside it.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.extract import Extracted
from headstart.features.files import write_json
from headstart.features.images.scan import ImageFile
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.store import FeatureStore
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Example
from headstart.pipeline.featured import FeaturedExamples
from headstart.pipeline.head.config import HeadConfig
from rich.console import Console

SHARD, CLASSES, VAL = 4096, 10, 0.1
CUT = Cut("inception_v3", "mixed10")


def fingerprint(width: int) -> Fingerprint:
    return Fingerprint(
        backbone="inception_v3", weights="0" * 64, cut="mixed10", shape=(width,), dtype="float16",
        precision="bfloat16", rescale={"scale": [1.0], "offset": [0.0]}, image_size=299, resize="stretch",
        truncated="reject", pixels_version=2,
    )  # fmt: skip


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def fill(folder: Path, images: int, width: int) -> None:
    """Write features of ten classes that overlap, shard by shard."""
    store, draw = FeatureStore(folder / "store", fingerprint(width)).create(), np.random.default_rng(0)
    centres = draw.normal(size=(CLASSES, width)).astype(np.float32)
    for start in range(0, images, SHARD):
        numbers = np.arange(start, min(start + SHARD, images))
        features = draw.standard_normal((len(numbers), width), np.float32) * 12 + centres[numbers % CLASSES]
        store.write_shard([digest(number) for number in numbers.tolist()], features)


def examples(folder: Path, images: int, width: int, memory: float) -> FeaturedExamples:
    def example(number: int) -> Example:
        name = f"/data/photographs/class{number % CLASSES}/{number:09}.jpg"
        image = ImageFile(name, digest(number), 100_000, 10**18 + number, 1, 400, 300, "JPEG")
        return Example(image, number % CLASSES, "val" if number % 1000 < 1000 * VAL else "train")

    return FeaturedExamples(
        examples=[example(number) for number in range(images)], class_names=[f"class{n}" for n in range(CLASSES)],
        rejects=[], ignored=0, ignored_kinds={}, reading=[], has_splits=True, read_as=DataConfig(),
        networks=[], stores={CUT: FeatureStore(folder / "store", fingerprint(width))}, views=[],
        config=FeatureConfig(cut=("mixed10",), precision="float32"),
        extraction=ExtractionConfig(store=folder / "store", memory=memory), extracted=Extracted(), views_extracted=0,
    )  # fmt: skip


def status(field: str, pid: int | str = "self") -> int:
    """A field of /proc/PID/status, in bytes; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:")), 0)


def watch(found: dict[str, int]) -> None:
    """Keep the highest number of anonymous bytes of this process, and of it and its children, ten times a second."""
    while True:
        anonymous = status("RssAnon")
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        found["anonymous"] = max(found.get("anonymous", 0), anonymous)
        found["with workers"] = max(
            found.get("with workers", 0), anonymous + sum(status("RssAnon", int(child)) for child in children)
        )
        time.sleep(0.1)


def trained(folder: Path, way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Train a head in this process. Returns its figures, and the peaks of memory."""
    found: dict[str, int] = {}
    threading.Thread(target=watch, args=(found,), daemon=True).start()
    if way == "disk" and given.enforce:
        resource.setrlimit(resource.RLIMIT_DATA, (int(given.enforce * 2**30),) * 2)
    from headstart.pipeline.head import run

    run.weights_digest = lambda networks: "0" * 64  # type: ignore[assignment]
    images = 2000 if way == "nothing" else given.images
    cached = examples(folder, images, given.width, given.limit if way == "disk" else 1000)
    held, start = status("RssAnon"), time.perf_counter()
    config = HeadConfig(units=(given.units,), epochs=given.epochs)
    result = run.train_cached(cached, folder, folder / f"run-{way}", config)
    seconds, cpu = time.perf_counter() - start, sum(os.times()[:2])
    model = run.Run(Path(result.run)).load_model(folder / f"run-{way}" / "head.keras")
    weights = hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()
    return {
        "way": way, "images": images, "seconds": seconds, "cpu_seconds": cpu, "before_gib": held / 2**30,
        "anonymous_gib": found["anonymous"] / 2**30, "resident_gib": status("VmHWM") / 2**30,
        **{f"val_{name}": value for name, value in result.val.items()},
        "logistic_regression": (result.simple.logistic_regression or {}).get("loss") if result.simple else None,
        "weights": weights[:16],
    }  # fmt: skip


def searched(folder: Path, way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Search for a head in this process and `given.jobs` workers."""
    found: dict[str, int] = {}
    threading.Thread(target=watch, args=(found,), daemon=True).start()
    from headstart.pipeline.sweep import sweep as module
    from headstart.pipeline.sweep.config import SweepConfig
    from headstart.pipeline.sweep.processes import search
    from headstart.pipeline.sweep.study import Study

    space = folder / "space.toml"
    space.write_text(f"layers = 1\nunits = {given.units}\nepochs = {given.epochs}\nlearning_rate = [3e-4, 1e-3]\n")
    cached = examples(folder, given.images, given.width, given.limit if way == "disk" else 1000)
    config, start = SweepConfig(trials=2, jobs=given.jobs, space=space), time.perf_counter()
    study = Study(folder / f"{way}.db", module._space(cached.config, config, 0), "tpe", 0)
    data = module._search_data(cached, 0, 0, "loss")
    baselines = module._baselines(study, data, [CUT], cached.extraction.memory)
    fitted = time.perf_counter() - start
    search(study, data, config, baselines)
    return {
        "way": f"sweep {way}", "seconds": time.perf_counter() - start, "of_baselines": fitted,
        "anonymous_gib": found["anonymous"] / 2**30, "with_workers_gib": found["with workers"] / 2**30,
        "losses": sorted(trial.value or 0.0 for trial in study.finished()),
        "baselines": [one.fields() for one in baselines],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--units", type=int, default=1024)
    parser.add_argument("--limit", type=float, default=0.25, help="GiB for features, of the way on disk")
    parser.add_argument("--enforce", type=float, default=1.5, help="GiB of RLIMIT_DATA, of the way on disk; 0: none")
    parser.add_argument("--ways", nargs="+", default=["nothing", "disk", "memory"])
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        folder, way = Path(given.one[0]), given.one[1]
        print(json.dumps((searched if given.sweep else trained)(folder, way, given)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        start = time.perf_counter()
        fill(Path(folder), given.images, given.width)
        Console().print(f"the store was filled in {time.perf_counter() - start:.0f} s")
        for way in given.ways:
            command = [sys.executable, "-m", "benchmarks.large_heads", *sys.argv[1:], "--one", folder, way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            Console().print(rows[-1])
    write_json(Path(__file__).with_name("large_heads.json"), {"options": sys.argv[1:], "rows": rows})


if __name__ == "__main__":
    main()
