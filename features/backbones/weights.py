"""Building a backbone and filling it with weights: ImageNet's, a file's, or random ones."""

from __future__ import annotations

import functools
import hashlib
import socket
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.facts import BackboneFacts, KnownBackbones, backbone_source
from headstart.features.backbones.zoo import RESCALINGS, BackboneSpec, backbone_spec
from headstart.features.config import Precision
from headstart.features.errors import OptionError, WeightsError

if TYPE_CHECKING:
    import keras

_DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte


def build_backbone(
    name: str,
    weights: str = "imagenet",
    rescale: str = "auto",
    image_size: int = 0,
    precision: Precision = "float32",
    weights_seed: int = 0,
    known: KnownBackbones | None = None,
) -> Backbone:
    """Build a network of `BACKBONES` and fill it with weights. The model is built on demand if `known` has its facts.

    An unknown name, or a size that the network can't take, raises an OptionError. Weights that are missing, corrupt, or
    of another network raise a WeightsError.

    Args:
        weights: `imagenet`, `random`, or the path of a `.weights.h5` or `_notop.h5` file.
        rescale: a key of `RESCALINGS`, or `auto` for the rescaling of the ImageNet weights.
        image_size: side of the input in pixels; 0 for the network's default.
        precision: the precision of the arithmetic. Weights stay float32. For int8 the float32 network is built.
    """
    spec = backbone_spec(name)
    size = image_size or spec.image_size
    settings = (name, weights, size, weights_seed)
    source = backbone_source(*settings)
    recalled = known.recall(source) if known else None
    if recalled and set(recalled.shapes) != set(spec.cuts):
        recalled = None

    @functools.cache
    def load() -> keras.Model:
        model = _filled(spec, weights, size, precision, weights_seed)
        if recalled and _digest(model) != recalled.weights_digest:
            raise WeightsError(
                f"--weights {weights}: changed since this command began, or since the store's backbones.json was "
                "written; run `headstart features DATA --rehash`, then repeat the command"
            )
        return model

    facts = recalled or _facts(spec, load())
    if known and not recalled and backbone_source(*settings) == source:
        known.save(facts, source)
    rescaling = RESCALINGS[spec.rescaling if rescale == "auto" else rescale]
    return Backbone(name, load, rescaling, size, precision, facts.weights_digest, facts.shapes)


def _filled(spec: BackboneSpec, weights: str, size: int, precision: Precision, weights_seed: int) -> keras.Model:
    from headstart.features.tensorflow import keras

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
    return model


def _facts(spec: BackboneSpec, model: keras.Model) -> BackboneFacts:
    layers = {name: model.layers[at] if isinstance(at, int) else model.get_layer(at) for name, at in spec.cuts.items()}
    return BackboneFacts(_digest(model), {name: tuple(layer.output.shape[1:]) for name, layer in layers.items()})


def _digest(model: keras.Model) -> str:
    digest = hashlib.sha256()
    for variable in model.weights:
        value = np.ascontiguousarray(variable.numpy())
        digest.update(f"{value.shape} {value.dtype}".encode())
        digest.update(value.data)
    return digest.hexdigest()


def _fill_at_random(model: keras.Model, seed: int) -> None:
    """Fill kernels by He initialisation (arXiv:1502.01852). With Keras's default, activations vanish with depth."""
    for index, variable in enumerate(model.weights):
        if "kernel" in variable.name:
            rng, shape = np.random.default_rng([seed, index]), variable.shape
            # A depthwise kernel [h, w, channels, 1] has one input channel per filter.
            fan_in = np.prod(shape[:2] if "depthwise" in variable.name or "depthwise" in variable.path else shape[:-1])
            variable.assign(rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in)))


def _build(spec: BackboneSpec, size: int, imagenet: bool) -> keras.Model:
    from headstart.features.tensorflow import keras

    builder = getattr(keras.applications, spec.builder)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        with redirect_stdout(sys.stderr):  # Keras would report a download among the command's results
            weights, shape = "imagenet" if imagenet else None, (size, size, 3)
            return builder(include_top=False, weights=weights, input_shape=shape, **spec.arguments)
    except ValueError as error:
        raise OptionError(f"--image-size {size}: {spec.builder} can't take it: {error}") from error
    except Exception as error:  # Keras raises a bare Exception where a download fails
        if not imagenet:
            raise
        raise WeightsError(
            f"--weights imagenet: can't be downloaded ({error}); fetch that file on a machine with a network and give "
            "it as --weights FILE or HEADSTART_WEIGHTS; --weights random only serves to try the commands"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _load_weights(model: keras.Model, file: Path) -> None:
    """Load a weights file, and check that it fills every weight."""
    if not file.is_file():
        raise WeightsError(f"--weights {file}: no such file; give imagenet, random, or a .weights.h5 or _notop.h5 file")
    if file.suffix != ".h5":
        raise WeightsError(f"--weights {file}: not a .weights.h5 or _notop.h5 file by its name")
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
