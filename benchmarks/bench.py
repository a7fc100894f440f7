"""Speed of the real code, each row against a named baseline in the same run: python -m benchmarks.bench

Draws its own images, uses random weights (speed does not depend on them), and writes benchmarks/results.json. With
`--photos DIR`, decoding is measured on those too, and on 12-megapixel JPEGs made of some; engines on those alone.
`--only` takes one part, and writes results-PART.json.
"""

import argparse
import os
import platform
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import psutil
import tensorflow as tf
from headstart.features.backbones.weights import build_backbone
from headstart.features.device import start_tensorflow
from headstart.features.files import write_json
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.scan import ImageFile
from headstart.pipeline.demo.drawing import draw_demo
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from rich.console import Console
from rich.table import Table

from benchmarks.decoding import decoding_row, large_jpegs
from benchmarks.engines import engine_rows
from benchmarks.extraction import extraction_rows
from benchmarks.finetuning import finetuning_rows
from benchmarks.heads import head_row, phase1_rows
from benchmarks.timing import Row, ceilings

PARTS = ("decoding", "extraction", "engines", "head", "phase1", "finetuning")
_WIDTH = 150
_MANY = 4  # times as many images where they only pass once: starting a pipeline takes as long as a dozen of them


def measure(parts: tuple[str, ...], count: int, photos: Path | None, folder: Path) -> list[Row]:
    few, some = draw_data(folder / "few", count)
    many, more = draw_data(folder / "many", _MANY * count)
    backbone = build_backbone("inception_v3", "random")
    rows = []
    if "decoding" in parts:
        rows.append(decoding_row("drawings", more))
        if photos:
            found = usable(sorted(photos.glob("*/*.jpg")))
            rows.append(decoding_row(f"{len(found)} photographs", found))
            for name, noise in (("smooth", 0), ("noisy", 6)):
                large = large_jpegs(found, folder / name, noise)
                rows.append(decoding_row(f"12-megapixel JPEGs, {name},", large))
    if "extraction" in parts:
        rows += extraction_rows(more, many, folder, backbone)
    if "engines" in parts:
        rows += engine_rows(usable(sorted(photos.glob("*/*.jpg"))[: 4 * count]) if photos else more, folder / "engines")
    if "head" in parts:
        rows.append(head_row())
    if "phase1" in parts:
        rows += phase1_rows(some, few, folder, backbone)
    if "finetuning" in parts:
        rows += finetuning_rows(some, few, folder)
    return rows


def draw_data(folder: Path, count: int) -> tuple[Path, list[ImageFile]]:
    """A data folder of `count` drawn images, split into train and val, and what is in it."""
    draw_demo(folder / "drawn", count)
    for path in (folder / "drawn").glob("*/broken*"):
        path.unlink()
    prepare(folder / "drawn", folder / "data", PrepareConfig(val=0.1, test=0))
    return folder / "data", usable(sorted((folder / "data").glob("*/*/*.jpg")))


def usable(paths: list[Path]) -> list[ImageFile]:
    return [image for found in inspect_images(paths) for image in found if isinstance(image, ImageFile)]


def table(rows: list[dict[str, Any]]) -> Table:
    drawn = Table("", "ours", "baseline", "its figure", "ratio", "but for its stalls", "GFLOP/s", "of the ceiling")
    for row in rows:
        share = ", ".join(f"{part:.0%} {dtype}" for dtype, part in row.get("of_ceiling", {}).items())
        drawn.add_row(
            f"{row['name']}, {row['unit']}", f"{row['ours']:.4g}", row["baseline"], f"{row['theirs']:.4g}",
            f"{row['ratio']:.2f}", f"{row['ratio_without_stalls']:.2f}" if "ratio_without_stalls" in row else "",
            f"{row['gflops']:.0f}" if "gflops" in row else "", share,
        )  # fmt: skip
    return drawn


def processor() -> str:
    """Its name, and which of the instructions that matter here it has."""
    with suppress(OSError):
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        facts = {name.strip(): value.strip() for name, value in lines.items()}
        flags = [flag for flag in facts.get("flags", "").split() if flag.startswith(("avx", "amx"))]
        model = (facts.get(name, "?") for name in ("model name", "cpu family", "model"))
        return "{}, family {}, model {}".format(*model) + f" ({' '.join(flags)})"
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=96, help="four times as many for extraction")
    parser.add_argument("--photos", type=Path, help="a folder of class folders with JPEGs")
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    most = ceilings()
    with tempfile.TemporaryDirectory() as folder:
        parts = (arguments.only,) if arguments.only else PARTS
        rows = [row.as_fields(most) for row in measure(parts, arguments.images, arguments.photos, Path(folder))]
    machine = {"processor": processor(), "cores": os.cpu_count(), "device": start_tensorflow()}
    machine["memory_gib"] = round(psutil.virtual_memory().total / 2**30, 1)
    machine |= {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}
    machine["gflops_of_a_4096_product"] = most
    name = f"results-{arguments.only}.json" if arguments.only else "results.json"
    write_json(Path(__file__).with_name(name), {"machine": machine, "rows": rows})
    console = Console()
    console.width = max(console.width, _WIDTH)
    console.print(table(rows))
    for row in rows:
        if row["note"]:
            console.print(f"{row['name']}: {row['note']}")
        if row["stalled_seconds_of_baseline"] and max(row["stalled_seconds_of_baseline"]) > 1:
            stalls = ", ".join(f"{stall:.1f}" for stall in row["stalled_seconds_of_baseline"])
            console.print(f"{row['name']}: the baseline waited for tf.data's autotuner for {stalls} s")


if __name__ == "__main__":
    main()
