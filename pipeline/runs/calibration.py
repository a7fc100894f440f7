"""Write and read the calibration and the reference of each model of a run.

The reference of a model holds the features of some training images. `predict` measures how near other images are to
these training images. A run may come from elsewhere, so its files are checked when they are read. A run of an earlier
version has no calibration and no reference.
"""

from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import RunError
from headstart.features.files import written_atomically
from headstart.pipeline.runs.config import converted
from headstart.pipeline.runs.files import REMEDY, read_json, require_regular
from headstart.pipeline.runs.run import Run
from headstart.pipeline.scoring.calibration import Calibration
from headstart.pipeline.scoring.unlike import Reference

_MOST_BYTES = 16 << 20


def write_calibration(run: Run, model: str, calibration: Calibration, reference: Reference) -> None:
    """Write the calibration and the reference of `model` into `run`. `model` is `head` or `finetuned`.

    The reference is a sample of the training images.
    """
    with written_atomically(run.reference_file(model)) as partial, partial.open("wb") as file:
        np.save(file, reference.features)
    run.update(run.calibration_file, **{model: vars(calibration)})


def forget_calibration(run: Run, model: str) -> None:
    """Remove the calibration and the reference of `model` from `run`. `model` is `head` or `finetuned`.

    The reference is a sample of the training images.
    """
    if run.calibration_file.exists():
        run.update(run.calibration_file, **{model: None})
    run.reference_file(model).unlink(missing_ok=True)


def read_calibration(run: Run, model: str) -> Calibration | None:
    """Return the calibration of `model` (`head` or `finetuned`) in `run`. If `run` has none, return None.

    If no epoch of fine-tuning was better than the head, `finetuned` has the calibration of the head. Raises RunError if
    `calibration.json` is damaged.
    """
    model = _origin(run, model)
    file = run.calibration_file
    values = read_json(file).get(model) if file.exists() else None
    if values is None:
        return None
    try:
        return converted(values, Calibration, model)
    except ValueError as error:
        raise RunError(f"{file}: {' '.join(str(error).split())[:200]}; {REMEDY}") from error


def read_reference(run: Run, model: str) -> Reference | None:
    """Return the reference of `model` (`head` or `finetuned`) in `run`. If `run` has none, return None.

    The reference is a sample of the training images. If no epoch of fine-tuning was better than the head, `finetuned`
    has the reference of the head. Raises RunError if the file of the reference is damaged.
    """
    file = origin_of_reference(run, model)
    if not file.exists():
        return None
    require_regular(file, _MOST_BYTES)
    try:
        found: Any = np.load(file, mmap_mode="r", allow_pickle=False)  # fails for a file that is cut off
        if found.ndim != 2 or found.dtype != np.float16 or not found.size or not np.isfinite(found).all():
            raise ValueError
    except (ValueError, EOFError, AttributeError) as error:  # NumPy's message, which is not shown, advises to run code
        raise RunError(f"{file}: holds no features of training images, or is cut off; {REMEDY}") from error
    return Reference(np.array(found))


def origin_of_reference(run: Run, model: str) -> Path:
    """Return the path of the file with the reference of `model` (`head` or `finetuned`).

    The reference is a sample of the training images. If no epoch of fine-tuning was better than the head, `finetuned`
    has the reference of the head.
    """
    return run.reference_file(_origin(run, model))


def _origin(run: Run, model: str) -> str:
    """Return the string `head` if fine-tuning gained nothing, and otherwise `model`.

    The calibration and reference of `model` are kept under the returned name.
    """
    return "head" if run.finetuning_gained_nothing() else model
