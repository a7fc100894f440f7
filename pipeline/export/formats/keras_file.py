"""A `.keras` file. The file holds only layers of Keras, so Keras can load the file in its safe mode."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
from headstart.features.errors import ExportError
from headstart.pipeline.export.deployable import Deployable

_METADATA, _WEIGHTS, _OURS = "metadata.json", "model.weights.h5", "headstart"
_TIME = (1980, 1, 1, 0, 0, 0)  # of each member, so that the same model gives the same file


def write(deployable: Deployable, path: Path, precision: str, calibration: np.ndarray | None) -> None:
    """Write `deployable` to `path`, as a `.keras` file, which is a ZIP archive.

    In the archive, `metadata.json` has a field `headstart` with the metadata of `deployable`. With float16, the archive
    holds weights as float16, and Keras turns them into float32 when it loads them. Raises an ExportError if float16
    can't hold a weight. `calibration` is not used.
    """
    deployable.model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    given = json.loads(members[_METADATA])
    given.pop("date_saved", None)
    members[_METADATA] = json.dumps({**given, _OURS: deployable.metadata}, ensure_ascii=False).encode()
    if precision == "float16":
        members[_WEIGHTS] = _in_float16(members[_WEIGHTS])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the model. The result maps pixels (uint8 [B, S, S, 3]) to probabilities (float32 [B, C])."""
    from headstart.features.tensorflow import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    return lambda batch: np.asarray(model.predict_on_batch(batch))


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of the file. Raises an ExportError if the file has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(_METADATA))[_OURS]
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path}: is no export of headstart; `headstart export RUN OUT` makes one") from error
    if not isinstance(found, Mapping):
        raise ExportError(f"{path}: is no export of headstart; `headstart export RUN OUT` makes one")
    return {str(name): str(text) for name, text in found.items()}


def _in_float16(weights: bytes) -> bytes:
    """Convert float32 arrays to float16. `weights` is the content of a weights file. Return the new content."""
    buffer = io.BytesIO()
    with h5py.File(io.BytesIO(weights)) as old, h5py.File(buffer, "w") as new:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                new.require_group(name).attrs.update(item.attrs)
                return
            new.create_dataset(name, data=half(item[()], name)).attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)
    return buffer.getvalue()


def half(value: np.ndarray, name: str) -> np.ndarray:
    """Return the weight `value` as float16. A value that is not float32, such as a random state, is returned unchanged.

    `name` is the name of the weight. Raises an ExportError if a number in a weight is too large for float16.
    """
    if value.dtype != np.float32:
        return value
    with np.errstate(over="ignore"):
        found = value.astype(np.float16)
    if not np.isfinite(found).all():
        largest = float(np.abs(value).max())
        raise ExportError(f"--precision float16: {name} has a weight of {largest:.3g}, and float16 ends at 65504")
    return found
