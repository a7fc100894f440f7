"""The user's own network, a `.keras` file. The file is not trusted: it is checked, and Keras runs no code from it."""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.archive import require_file
from headstart.features.backbones.loading import load_keras, said
from headstart.features.config import Precision
from headstart.features.errors import OptionError, WeightsError
from headstart.features.files import sha256_of
from headstart.features.tensorflow import keras

_SMALLEST, _LARGEST = 32, 4096  # sides of images in pixels; see `ImageConfig`
_NAME_LENGTH = 100
_EVERY = "all"  # `--cut all` means every cut; `cuts.ALL` can't be imported here
_DEPENDENT = (1e-3, 3e-2)  # relative differences that are more than rounding: in float32, and in 16 bits


@dataclass(frozen=True)
class OwnNetwork:
    """A loaded `.keras` file."""

    model: keras.Model  # not to be changed: `at_size` makes copies
    digest: str  # SHA-256 of the file


def load_own(file: Path) -> OwnNetwork:
    """Load a functional or Sequential Keras model that computes features of images, [B, H, W, 3].

    The features are a map [B, H, W, D], tokens [B, N, D] or vectors [B, D].

    Raises OptionError if the model has another form. Raises WeightsError in three cases:
    - The file is missing or damaged.
    - Layers would run code: Lambda layers, and classes that are not part of Keras.
    - The model has a fixed image size, and its output for an image depends on the rest of the batch.
    """
    require_file(str(file), f"--backbone {file}")
    status = file.stat()
    return _load(os.path.realpath(file), str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=4)
def _load(path: str, shown: str, *state: int) -> OwnNetwork:
    model = _functional(load_keras(path, f"--backbone {shown}", "save it anew with model.save"), shown)
    if model.input.shape[1]:
        _require_independent(model, shown, model.input.shape[1])
    return OwnNetwork(model, sha256_of(path))


def at_size(model: keras.Model, name: str, size: int, precision: Precision) -> keras.Model:
    """Copy `model` with its weights, for square images and for arithmetic in `precision`.

    `size` is the side of the images in pixels. `name` is the network's name in errors.

    Raises OptionError if the network can't take images of this size. Raises WeightsError if both of these are true:
    `model` has no fixed image size, and its output for an image depends on the other images of the batch.
    """
    reduced = {"dtype": "mixed_bfloat16"} if precision == "bfloat16" else {}

    def copy(operation: Any) -> Any:
        if isinstance(operation, keras.Model):  # a nested model keeps its precision
            return keras.models.clone_model(operation)
        return type(operation).from_config(
            operation.get_config() | (reduced if isinstance(operation, keras.Layer) else {})
        )

    if not model.input.shape[1]:
        _require_independent(model, name, size)
    image = keras.Input((size, size, 3), name=model.inputs[0].name, dtype=model.inputs[0].dtype)
    try:
        copied = keras.models.clone_model(model, input_tensors=image, clone_function=copy)
        copied.set_weights(model.get_weights())
    except (ValueError, TypeError) as error:
        raise OptionError(f"--image-size {size}: {name} can't take it: {said(error)}") from error
    return copied


def _functional(model: Any, shown: str) -> keras.Model:
    """Return a copy of `model` as a functional model, or raise an OptionError if it can't be a backbone."""
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
    if shapes[0][1] and not _SMALLEST <= shapes[0][1] <= _LARGEST:
        size = f"{shapes[0][1]} x {shapes[0][1]} pixels"
        raise OptionError(f"--backbone {shown}: takes images of {size}; headstart takes from {_SMALLEST} to {_LARGEST}")
    if len(outputs) != 1:
        raise OptionError(f"--backbone {shown}: has {len(outputs)} outputs; {wanted}")
    shape = tuple(outputs[0].shape)
    if len(shape) not in (2, 3, 4) or shape[-1] is None or shape[0] is not None:
        raise OptionError(f"--backbone {shown}: its output has the shape {shape}, without None first; {wanted}")
    if not keras.backend.is_float_dtype(outputs[0].dtype):
        raise OptionError(f"--backbone {shown}: its output is {outputs[0].dtype}; it must be floating-point numbers")
    if not model.weights:
        raise OptionError(f"--backbone {shown}: has no weights; {wanted}")
    return _flat(keras.Model(inputs[0], outputs[0], name="own"), shown)


@lru_cache(maxsize=8)
def _require_independent(model: keras.Model, name: str, size: int) -> None:
    """Raise a WeightsError if the output for an image depends on the other images of its batch."""
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(model.inputs[0].dtype)
    try:
        beside = np.asarray(model(images, training=False), np.float64)[1:2]
        alone = np.asarray(model(images[1:2], training=False), np.float64)
    except MemoryError:
        raise
    except Exception as error:  # Keras and TensorFlow raise a dozen kinds
        raise OptionError(f"--backbone {name}: can't run on images of {size} pixels: {said(error)}") from error
    rounded = any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers)
    with np.errstate(all="ignore"):  # the noise may be far from the pixels that the network takes
        moved = np.linalg.norm(beside - alone) / np.linalg.norm(alone) if beside.shape == alone.shape else np.inf
    if moved > _DEPENDENT[rounded]:
        raise WeightsError(
            f"--backbone {name}: its output for an image depends on the other images of the batch; use a network that "
            "treats each image alone"
        )


def _flat(model: keras.Model, shown: str) -> keras.Model:
    """Copy `model` with its weights, and replace nested models by their layers if possible."""

    def call(operation: Any, *inputs: Any, **arguments: Any) -> Any:
        if isinstance(operation, keras.Model):  # `call` adds each of its layers; `__call__` would add one node
            return operation.call(*inputs)
        return operation(*inputs, **arguments)

    try:
        flat = keras.models.clone_model(model, clone_function=lambda operation: operation, call_function=call)
        copied = _renamed(flat)
    except (ValueError, TypeError, AttributeError):  # for example, two layers have the same name
        flat, copied = model, None
    try:
        copied = copied or _renamed(model)
        copied.set_weights(flat.get_weights())
    except MemoryError:
        raise
    except Exception as error:  # what a config may hold is beyond any list
        raise WeightsError(f"--backbone {shown}: Keras can't copy it ({said(error)})") from error
    return copied


def _renamed(model: keras.Model) -> keras.Model:
    """Copy `model` with initial weights, and rename layers whose names TensorFlow or `--cut` does not allow."""
    names = {operation.name for operation in model.operations}

    def copy(operation: Any) -> Any:
        if isinstance(operation, keras.Model):
            for layer in (operation, *operation.layers):
                if _plain(layer.name) != layer.name:
                    raise ValueError(f"rename the layer {layer.name[:80]!r}, or give all layers names of their own")
            return keras.models.clone_model(operation)
        config, name = operation.get_config(), _plain(operation.name)
        if name != operation.name:
            while name in names:
                name += "_"
            names.add(name)
            config["name"] = name
        return type(operation).from_config(config)

    def call(operation: Any, *inputs: Any, **arguments: Any) -> Any:
        # A call of a nested model adds a ConvertToTensor, which is left out: its name differs from process to process.
        output = operation(*inputs, **arguments)
        same = type(operation).__name__ == "ConvertToTensor" and output.dtype == inputs[0].dtype
        return inputs[0] if same else output

    return keras.models.clone_model(model, clone_function=copy, call_function=call)


def _plain(name: str) -> str:
    """Return `name` as a valid layer name, which consists of letters, digits, `_`, `.` and `-`."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_NAME_LENGTH]
    plain = plain if re.match("[A-Za-z0-9]", plain) else f"layer{plain}"
    return f"{plain}_" if plain == _EVERY else plain
