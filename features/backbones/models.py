"""Building the Keras models of the zoo and filling them with weights. Importing this module starts TensorFlow."""

import socket
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from headstart.features.backbones.facts import require_weights_file
from headstart.features.backbones.graph import has_kernel
from headstart.features.backbones.hdf5 import require_sound_hdf5
from headstart.features.backbones.lite0 import build_efficientnet_lite0
from headstart.features.backbones.zoo import BackboneSpec
from headstart.features.config import Precision
from headstart.features.errors import OptionError, WeightsError
from headstart.features.tensorflow import keras

_DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte


def built(spec: BackboneSpec, size: int, weights: str | None = None) -> keras.Model:
    """Build a network of the zoo without its top. `weights` is `imagenet`, or None for initial weights."""
    builder = build_efficientnet_lite0 if spec.shipped else getattr(keras.applications, spec.builder)
    with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):  # Keras reports a download on stdout
        return builder(include_top=False, weights=weights, input_shape=(size, size, 3), **spec.arguments)


def filled(spec: BackboneSpec, weights: str, size: int, precision: Precision, weights_seed: int) -> keras.Model:
    """Build a network of the zoo and fill it with weights. See `build_backbone` for arguments and errors."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        model = _build(spec, size, weights == "imagenet")
    finally:
        keras.config.set_dtype_policy(policy)
    if weights == "random":
        _fill_at_random(model, weights_seed)
    elif weights != "imagenet":
        _load_weights(model, Path(weights))
    return without_preprocessing(model) if spec.preprocesses else model


def without_preprocessing(model: keras.Model) -> keras.Model:
    """Return a copy of `model` without the rescaling at its beginning.

    The copy begins at the first operation with a kernel, or at the padding before that operation.
    """
    operations = model.operations
    first = next(index for index, operation in enumerate(operations) if has_kernel(operation))
    if isinstance(operations[first - 1], keras.layers.ZeroPadding2D):
        first -= 1
    rest = keras.Model(operations[first].input, model.output, name=model.name)
    copied = keras.models.clone_model(rest)  # `rest` shares its layers with `model`, so they have several outputs
    copied.set_weights(rest.get_weights())
    return copied


def _fill_at_random(model: keras.Model, seed: int) -> None:
    """Fill the kernels of `model` with random values by He initialisation (arXiv:1502.01852)."""
    for index, variable in enumerate(model.weights):  # with Keras's default, activations vanish with depth
        if "kernel" in variable.name:
            rng, shape = np.random.default_rng([seed, index]), variable.shape
            # A depthwise kernel [h, w, channels, 1] has one input channel per filter.
            depthwise = any(name in variable.path for name in ("depthwise", "_dw/"))
            fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
            variable.assign(rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in)))


def _build(spec: BackboneSpec, size: int, imagenet: bool) -> keras.Model:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        return built(spec, size, "imagenet" if imagenet else None)
    except ValueError as error:
        raise OptionError(f"--image-size {size}: {spec.builder} can't take it: {error}") from error
    except WeightsError:
        raise
    except Exception as error:  # Keras raises a bare Exception where a download fails
        if not imagenet:
            raise
        raise WeightsError(
            f"--weights imagenet: can't be downloaded ({error}); fetch that file on a machine with a network and give "
            "it as --weights FILE or HEADSTART_WEIGHTS, or use --backbone efficientnet_lite0, whose ImageNet weights "
            "come with headstart"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _load_weights(model: keras.Model, file: Path) -> None:
    """Load the weights in `file` into `model`.

    Raise a WeightsError if the file is missing, unsafe or damaged, or if its weights belong to another network.
    """
    require_weights_file(str(file))
    if file.suffix != ".h5":
        raise WeightsError(f"--weights {file}: not a .weights.h5 or _notop.h5 file by its name")
    require_sound_hdf5(file, file.stat().st_size, f"--weights {file}")
    for variable in model.weights:
        variable.assign(np.full(variable.shape, np.nan, np.float32))
    try:
        with warnings.catch_warnings(action="ignore"):
            model.load_weights(file)
    except Exception as error:  # Keras and h5py raise a dozen kinds for a file that doesn't fit
        said = " ".join(str(error).split())[:200]
        raise WeightsError(f"--weights {file}: not weights of this network, or corrupt ({said})") from error
    unfilled = [variable.path for variable in model.weights if not np.isfinite(variable.numpy()).all()]
    if unfilled:
        raise WeightsError(f"--weights {file}: leaves {len(unfilled)} weights unfilled, {unfilled[0]} the first")
