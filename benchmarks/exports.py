"""Every format and precision of `export`: python -m benchmarks.exports PHOTOS RUN... --environments FOLDER

Each RUN is exported in each format and precision; `export` compares the model with the run on val images. Then the
export's own `example.py` classifies PHOTOS, a file that lists photographs, in an environment with nothing but what its
first line installs. Its labels are compared with those of `predict`. Environments are made once and kept.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from headstart.features.files import write_json
from headstart.pipeline.export.config import MODEL_FILES, Format
from headstart.pipeline.runs import Run

PRECISIONS = ("float32", "float16", "int8")
COLUMNS = (
    "run",
    "model",
    "format",
    "precision",
    "MB",
    "largest difference",
    "mean difference",
    "changed labels",
    "accuracy",
    "of the run",
    "images/s",
    "ms for one",
    "labels of example.py that differ",
)


def headstart(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "headstart.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def predicted(run: Path, model: str, photos: Path, folder: Path) -> list[str]:
    """Return the label of each photograph by `predict`."""
    output = folder / f"{run.name}-{model}.jsonl"
    if not output.exists():
        headstart("predict", run, "--model", model, "--from", photos, "--output", output)
    return [json.loads(line)["label"] for line in output.read_text().splitlines()]


def python_of(environments: Path, export: Path) -> Path:
    """Return the Python of an environment with what the first line of the export's example installs."""
    (packages,) = re.findall(r"`pip install ([^`]*)`", (export / "example.py").read_text())
    folder = environments / "-".join(re.findall(r"[\w.]+", packages))
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages.split()], check=True)
    return python


def answered(python: Path, export: Path, photos: Sequence[str]) -> list[str]:
    """Return the label of each photograph by the export's example."""
    command = [python, export / "example.py", *photos]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.rsplit(": ", 1)[1].rsplit(" ", 1)[0] for line in done.stdout.splitlines()]


def row(
    run: Path, model: str, format: Format, precision: str, photos: Path, environments: Path, folder: Path
) -> dict[str, Any]:
    """Export a run, try its example on `photos`, and return what was found, or the error of `export`."""
    out = folder / f"{run.name}-{model}-{format}-{precision}"
    told = headstart("export", run, out, "--model", model, "--format", format, "--precision", precision)
    told.update(run=run.name, model=model, format=format, precision=precision)
    if "error" in told:
        return told
    files = photos.read_text().splitlines()
    found = answered(python_of(environments, out), out, files)
    wanted = predicted(run, model, photos, folder)
    differing = sum(one != other for one, other in zip(found, wanted, strict=True))
    return {**told, "differing": differing, "photos": len(files)}


def line(found: dict[str, Any]) -> str:
    cells = [str(found.get(name, "")) for name in ("run", "model", "format", "precision")]
    if "error" in found:
        return f"| {' | '.join(cells)} | {found['error']} |"
    cells += [f"{found['bytes'] / 1e6:.1f}"]
    cells += [f"{found['largest_difference']:.1e}", f"{found['mean_difference']:.1e}"]
    cells += [f"{found['changed_labels']} of {found['images']}"]
    cells += [f"{found['accuracy']:.4f}", f"{found['accuracy_of_run']:.4f}"]
    cells += [f"{found['images_per_second']:.1f}", f"{1000 * found['latency']:.1f}"]
    cells += [f"{found['differing']} of {found['photos']}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = list[dict[str, Any]]()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    environments = arguments.environments.absolute()
    with tempfile.TemporaryDirectory() as folder:
        for run in arguments.runs:
            models = ("head", "finetuned") if Run.open(run).classifier_file.exists() else ("head",)
            for model, (format, precision) in product(models, product(MODEL_FILES, PRECISIONS)):
                rows.append(row(run, model, format, precision, arguments.photos, environments, Path(folder)))
                print(line(rows[-1]), flush=True)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
