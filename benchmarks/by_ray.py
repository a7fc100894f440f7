"""One process against workers of Ray on the same cores: `python -m benchmarks.by_ray --photos DIR`.

Each try fills an empty store. It prints images per second from the first file read to the last shard, and the seconds
of the whole command, with the start of Ray and of TensorFlow in each worker.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def tried(photos: Path, backbone: str, *more: str) -> tuple[float, float]:
    """Fill an empty store. Return the seconds of extraction, and of the whole command."""
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-c", "from headstart import command_line; command_line()", "features", str(photos)]
        command += [f"--store={store}", f"--backbone={backbone}", "--precision=float32", "--max-rejects=1", "--json"]
        start = time.perf_counter()
        done = subprocess.run([*command, *more], check=True, capture_output=True, text=True)
        whole = time.perf_counter() - start
    return json.loads(done.stdout)["seconds"], whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--tries", type=int, default=3)
    asked = parser.parse_args()
    kinds = {"one process": (), "Ray, a worker of all cores": ("--ray=local",)}
    kinds |= {"Ray, a worker per core": ("--ray=local", "--ray-cpus=1")}
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(asked.tries):  # by turns, so that other load slows all alike
        for kind, more in kinds.items():
            seconds[kind].append(tried(asked.photos, asked.backbone, *more))
    base = [statistics.median(column) for column in zip(*seconds["one process"], strict=True)]
    for kind, tries in seconds.items():
        extraction, whole = (statistics.median(column) for column in zip(*tries, strict=True))
        ratios = f"{extraction / base[0]:.2f} and {whole / base[1]:.2f} of one process"
        print(f"{kind}: {extraction:.1f} s of extraction, {whole:.1f} s in all; {ratios}")


if __name__ == "__main__":
    main()
