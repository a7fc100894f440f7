"""Run an export in its own runtime, in another process: `python -m headstart.pipeline.export.measure FOLDER`.

FOLDER holds two files. `asked.json` names the export and some images. `decoded.npy` holds the pixels that headstart
makes of these images. The results go to `measured.npz` in FOLDER. For the formats ONNX, LiteRT and OpenVINO, TensorFlow
is not imported.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import ExportError, HeadstartError
from headstart.pipeline.export.config import MODULES, Format
from headstart.pipeline.export.preprocess import pixels

_BATCH, _SINGLE = 32, 20
_SINGLE_VALUES = ("mean_level", "images_per_second", "latency", "unreadable", "why_unreadable")  # of `Measured`
ASKED, DECODED, _MEASURED = "asked.json", "decoded.npy", "measured.npz"


@dataclass(frozen=True)
class Asked:
    """The export to run, and the files to run it on."""

    format: Format
    model: str  # path
    files: Sequence[tuple[str, int]]  # path and page of each image; see `local_files`
    names: Sequence[str]  # path of each image as a person knows it
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """The answers of an export in its own runtime.

    If `preprocess.py` can't read a file, the file's row is NaN in `of_files` and in `levels`.
    """

    of_decoded: np.ndarray  # float32 [N, C], for the pixels that headstart makes of the images
    of_files: np.ndarray  # float32 [N, C], for the pixels that `preprocess.py` makes of the images
    levels: np.ndarray  # float64 [N], the largest difference between both kinds of pixels, in grey levels
    mean_level: float  # the mean difference between both kinds of pixels, in grey levels
    images_per_second: float  # of the model alone, in batches
    latency: float  # seconds for one image, the median
    unreadable: str = ""  # the name of the first file that `preprocess.py` can't read; "" if it reads all
    why_unreadable: str = ""  # the reason, without the path of the file


def measure(folder: Path, asked: Asked) -> Measured:
    """Run an export in another process, and return its answers.

    `asked` says which export is run, and on which images. `folder` must hold the pixels of the images, in the file
    `DECODED`. Raises ExportError if the process fails.
    """
    (folder / ASKED).write_text(json.dumps(asdict(asked)))
    command = [sys.executable, "-P", "-m", "headstart.pipeline.export.measure", str(folder)]
    exact = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"}  # a GPU would round the factors of float32 to 10 bits
    done = subprocess.run(command, env=exact, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise ExportError(f"--format {asked.format}: its runtime can't run the model: {said[-1][:300]}")
    with np.load(folder / _MEASURED) as found:
        values: dict[str, Any] = {name: found[name] for name in found.files}
    single = {name: values[name].item() for name in _SINGLE_VALUES}
    return Measured(**{**values, **single})


def measured(folder: Path) -> Measured:
    """Run an export in this process, and return its answers. The file `asked.json` in `folder` describes the export.

    The result also has the differences between the pixels that `preprocess.py` makes and headstart's own pixels.
    """
    asked = Asked(**json.loads((folder / ASKED).read_text()))
    module = importlib.import_module(f"headstart.pipeline.export.formats.{MODULES[asked.format]}")
    run: Callable[[np.ndarray], np.ndarray] = module.load(Path(asked.model))
    decoded = np.load(folder / DECODED, mmap_mode="r")
    run(decoded[:_BATCH])  # the first call is slow in some runtimes
    starts = range(0, len(decoded), _BATCH)
    began = time.perf_counter()
    of_decoded = np.concatenate([run(decoded[at : at + _BATCH]) for at in starts])
    speed = len(decoded) / (time.perf_counter() - began)
    of_files, levels, means, unreadable, why = [], [], [], "", ""
    for at, (path, page) in enumerate(asked.files):
        try:
            own = pixels(path, **asked.preprocessing, page=page)
        except Exception as error:  # Pillow's parsers raise almost anything
            if not unreadable:
                said = (error.strerror if isinstance(error, OSError) else "") or str(error).replace(path, "the file")
                unreadable, why = asked.names[at], said
            of_files.append(np.full_like(of_decoded[0], np.nan))
            levels.append(np.nan)
            continue
        apart = np.abs(own.astype(np.int16) - decoded[at])
        levels.append(float(apart.max()))
        means.append(float(apart.mean()))
        of_files.append(run(own[np.newaxis])[0] if apart.any() else of_decoded[at])
    return Measured(
        of_decoded,
        np.stack(of_files),
        np.array(levels),
        float(np.mean(means)) if means else 0.0,
        speed,
        _latency(run, decoded),
        unreadable,
        why,
    )


def _latency(run: Callable[[np.ndarray], np.ndarray], decoded: np.ndarray) -> float:
    """Return the median number of seconds that `run`, a model, takes for one image of `decoded`."""
    seconds = []
    for at in range(_SINGLE + 1):
        began = time.perf_counter()
        run(decoded[at % len(decoded)][np.newaxis])
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


if __name__ == "__main__":
    try:
        found = measured(Path(sys.argv[1]))
    except HeadstartError as error:
        sys.exit(" ".join(str(error).split()))
    np.savez(Path(sys.argv[1]) / _MEASURED, **vars(found))
