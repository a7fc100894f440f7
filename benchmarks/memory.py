"""Peak memory of `headstart features` by the number of images: python -m benchmarks.memory PHOTOS [--weights FILE]

Copies of the photographs are made distinct by a JPEG comment. Writes memory.json beside it.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from headstart.features.files import write_json
from rich.console import Console

# Runs the command line in a process of its own, and adds its peak to what it printed.
_MEASURED = """
import resource, sys
from headstart import cli
try:
    cli.app()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def distinct_copies(photos: Path, folder: Path, count: int) -> None:
    """`count` JPEGs in class folders as those of `photos`, no two alike."""
    files = sorted(photos.glob("*/*.jpg"))
    for number, file in enumerate(itertools.islice(itertools.cycle(files), count)):
        data, note = file.read_bytes(), f"{number}".encode()
        comment = b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / file.parent.name / f"{number}.jpg").write_bytes(data[:2] + comment + data[2:])


def peak(data: Path, store: Path, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-c", _MEASURED, "features", str(data), "--store", str(store), "--json", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    gibibytes = int(done.stderr.split()[-1]) / 2**20
    return {"images": result["extracted"], "peak_gib": gibibytes, "images_per_second": result["images_per_second"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000, 8000])
    arguments, options = parser.parse_known_args()
    rows = []
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            distinct_copies(arguments.photos, Path(folder) / "data", count)
            rows.append(peak(Path(folder) / "data", Path(folder) / "store", options))
        Console().print(rows[-1])
    write_json(Path(__file__).with_name("memory.json"), {"options": options, "rows": rows})


if __name__ == "__main__":
    main()
