"""One's own network: a `.keras` file. It comes from outside, so it is checked, and Keras runs none of its code."""

import hashlib
import os
import warnings
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.config import Precision
from headstart.features.errors import OptionError, WeightsError
from headstart.features.tensorflow import keras

_CONFIG_BYTES = 64 << 20
_RATIO = 100  # a member that unpacks to more than this multiple of its size is refused


@dataclass(frozen=True)
class OwnNetwork:
    """A loaded `.keras` file."""

    model: keras.Model  # not to be changed: `at_size` makes copies
    digest: str  # SHA-256 of the file


def load_own(file: Path) -> OwnNetwork:
    """Load a functional Keras model from images, [B, H, W, 3], to a map [B, H, W, D], tokens [B, N, D] or [B, D].

    Keras's safe mode refuses what would run code: Lambda layers, and classes that are not Keras's. A file that is
    damaged or refused raises a WeightsError. A model of another form raises an OptionError.
    """
    status = file.stat()
    return _load(os.path.realpath(file), str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=4)
def _load(path: str, shown: str, *state: int) -> OwnNetwork:
    _require_sound_archive(path, shown)
    try:
        with warnings.catch_warnings(action="ignore"):
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # Keras, h5py and json raise a dozen kinds
        said = " ".join(str(error).split())
        if "lambda" in said.lower() or "Could not locate" in said or "not registered" in said.lower():
            raise WeightsError(
                f"--backbone {shown}: has a Lambda or another layer that is code, and Keras's safe mode runs no code "
                f"from a file; build the model from Keras's own layers ({said.split('. ')[0][:160]})"
            ) from error
        raise WeightsError(f"--backbone {shown}: Keras can't load it ({said[:200]})") from error
    model = _functional(model, shown)
    if not all(np.isfinite(variable.numpy()).all() for variable in model.weights):
        raise WeightsError(f"--backbone {shown}: has weights that are not finite")
    with open(path, "rb") as content:
        return OwnNetwork(model, hashlib.file_digest(content, "sha256").hexdigest())


def at_size(model: keras.Model, name: str, size: int, precision: Precision) -> keras.Model:
    """Copy `model` with its weights, for images of `size` pixels and in `precision`. `name` is for the error."""
    reduced = {"dtype": "mixed_bfloat16"} if precision == "bfloat16" else {}

    def copy(operation: Any) -> Any:
        if isinstance(operation, keras.Model):  # it keeps its precision
            return keras.models.clone_model(operation)
        return type(operation).from_config(
            operation.get_config() | (reduced if isinstance(operation, keras.Layer) else {})
        )

    image = keras.Input((size, size, 3), name=model.inputs[0].name, dtype=model.inputs[0].dtype)
    try:
        copied = keras.models.clone_model(model, input_tensors=image, clone_function=copy)
        copied.set_weights(model.get_weights())
    except (ValueError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise OptionError(f"--image-size {size}: {name} can't take it: {said}") from error
    return copied


def _require_sound_archive(path: str, shown: str) -> None:
    """Raise WeightsError unless the file is a zip as Keras writes it, whose members unpack to a plausible size."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
    except Exception as error:  # zipfile raises half a dozen kinds
        raise WeightsError(f"--backbone {shown}: not a .keras file ({error})") from error
    if "config.json" not in members or "model.weights.h5" not in members:
        raise WeightsError(f"--backbone {shown}: not a .keras file: it lacks config.json or model.weights.h5")
    for name, member in members.items():
        if member.file_size > _RATIO * max(member.compress_size, 1 << 16) or (
            name == "config.json" and member.file_size > _CONFIG_BYTES
        ):
            raise WeightsError(f"--backbone {shown}: {name} would unpack to {member.file_size} bytes; refused")


def _functional(model: Any, shown: str) -> keras.Model:
    """`model` as a functional model with one input and one output. Any other form raises an OptionError."""
    wanted = "headstart takes a functional or Sequential model from images to a map, tokens or a vector"
    try:
        inputs, outputs = list(model.inputs), list(model.outputs)
    except (AttributeError, ValueError, TypeError) as error:  # a subclassed model, or one that was never built
        raise OptionError(f"--backbone {shown}: is a {type(model).__name__} without a graph; {wanted}") from error
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        raise OptionError(f"--backbone {shown}: takes {shapes} and not images, (None, height, width, 3); {wanted}")
    if shapes[0][1] != shapes[0][2]:
        raise OptionError(f"--backbone {shown}: takes images of {shapes[0][1]} x {shapes[0][2]}; they must be square")
    if len(outputs) != 1:
        raise OptionError(f"--backbone {shown}: has {len(outputs)} outputs; {wanted}")
    if len(outputs[0].shape) not in (2, 3, 4) or outputs[0].shape[-1] is None:
        raise OptionError(f"--backbone {shown}: its output has the shape {tuple(outputs[0].shape)}; {wanted}")
    if not model.weights:
        raise OptionError(f"--backbone {shown}: has no weights; {wanted}")
    return _flat(keras.Model(inputs[0], outputs[0], name="own"))


def _flat(model: keras.Model) -> keras.Model:
    """Copy `model`, with the layers of nested models in place of these. Each layer then has one use, if it had one."""

    def call(operation: Any, *inputs: Any, **arguments: Any) -> Any:
        if isinstance(operation, keras.Model):  # `call` runs through its graph, `__call__` would make one node of it
            return operation.call(*inputs)
        return operation(*inputs, **arguments)

    try:
        flat = keras.models.clone_model(model, clone_function=lambda operation: operation, call_function=call)
        copied = keras.models.clone_model(flat)
    except (ValueError, TypeError, AttributeError):  # as for two layers of one name
        flat, copied = model, keras.models.clone_model(model)
    copied.set_weights(flat.get_weights())
    return copied
