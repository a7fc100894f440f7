"""Find out whether training will refuse data because labels are missing, and why. `check` itself needs no labels."""

import os
from pathlib import Path

from headstart.features.errors import DataError
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Scan
from headstart.pipeline.data.reading import read_data


def label_problems(scanned: Scan, data: Path, config: DataConfig) -> list[str]:
    """Return the reason why training will refuse the labels of `data`, in a list, or [] if there is none.

    `scanned` is the result of `scan` for `data`, with `labelled` false. Missing labels are no reason in two cases:

    - The layout is `none`.
    - No image has a label, and all images lie in one folder.
    """
    without = [example.image.file for example in scanned.examples if example.label < 0]
    if not without or config.layout == "none" or (not scanned.class_names and _in_one_folder(scanned, data)):
        return []
    try:
        if None not in read_data(data, config, labelled=True).reading.labels:
            return []
        refused = "images have no label"
    except DataError as error:
        refused = str(error).removeprefix(f"{data}: ")
    if not scanned.class_names:
        return [refused]
    first = os.path.relpath(without[0], data if data.is_dir() else data.parent)
    return [f"{len(without)} images have no label, {first} the first"]


def _in_one_folder(scanned: Scan, data: Path) -> bool:
    """Whether all images lie directly in one folder: `data`, or a folder below it. False for a manifest or tars."""
    paths = [*(example.image.path for example in scanned.examples), *(reject.path for reject in scanned.rejects)]
    return data.is_dir() and len({os.path.dirname(path) for path in paths}) == 1
