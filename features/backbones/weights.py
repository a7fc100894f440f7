"""Building a backbone and filling it with weights: ImageNet's, a file's, or random ones."""

import functools
import hashlib
import socket
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

import keras
import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.facts import BackboneFacts, KnownBackbones, backbone_source
from headstart.features.backbones.graph import cut_indices, has_kernel, output_of
from headstart.features.backbones.lite0 import build_efficientnet_lite0
from headstart.features.backbones.outlines import is_own, outline
from headstart.features.backbones.own import at_size, load_own
from headstart.features.backbones.zoo import BACKBONES, RESCALINGS, BackboneSpec, backbone_spec
from headstart.features.config import Precision, Rescale, Tokens
from headstart.features.errors import OptionError, WeightsError

_DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte


def build_backbone(
    name: str,
    weights: str = "imagenet",
    rescale: str = "auto",
    image_size: int = 0,
    precision: Precision = "float32",
    weights_seed: int = 0,
    known: KnownBackbones | None = None,
    tokens: Tokens = "mean",
) -> Backbone:
    """Build a network and fill it with weights.

    If `known` has the network's facts, the Keras model is built only when it is first used. An unknown name, or a size
    that the network can't take, raises an OptionError. Weights that are missing, corrupt, or of another network raise a
    WeightsError.

    Args:
        name: a name in `BACKBONES`, or the path of a `.keras` file; see `load_own`.
        weights: `imagenet`, `random`, or the path of a `.weights.h5` or `_notop.h5` file. A `.keras` file has its own.
        rescale: a key of `RESCALINGS`, or `auto` for the rescaling of the ImageNet weights.
        image_size: side of the input in pixels; 0 for the network's default.
        precision: the precision of the arithmetic. Weights stay float32. For int8 the float32 network is built.
        tokens: how tokens [N, D] become one vector: their mean, or the first.
    """
    weights = _own_settings(name, weights, rescale)
    size = _size(name, image_size)
    settings = (name, weights, size, weights_seed)
    source = backbone_source(*settings)
    recalled = known.recall(source) if known else None
    if recalled and list(recalled.shapes) != list(outline(name).cuts):
        recalled = None

    @functools.cache
    def load() -> keras.Model:
        if is_own(name):
            model = at_size(load_own(Path(name)).model, name, size, precision)
        else:
            model = _filled(backbone_spec(name), weights, size, precision, weights_seed)
        if recalled and _digest(name, model) != recalled.weights_digest:
            raise WeightsError(
                f"--weights {weights}: changed since this command began, or since the store's backbones.json was "
                "written; run `headstart features DATA --rehash`, then repeat the command"
            )
        return model

    facts = recalled or _facts(name, load())
    if known and not recalled and backbone_source(*settings) == source:
        known.save(facts, source)
    rescaling = RESCALINGS[backbone_spec(name).rescaling if rescale == "auto" else rescale]
    return Backbone(name, load, rescaling, size, precision, facts.weights_digest, facts.shapes, tokens=tokens)


def built(spec: BackboneSpec, size: int, weights: str | None = None) -> keras.Model:
    """Build a network of the zoo without its top. `weights` is `imagenet`, or None for Keras's new weights."""
    builder = build_efficientnet_lite0 if spec.shipped else getattr(keras.applications, spec.builder)
    with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):  # Keras reports a download on stdout
        return builder(include_top=False, weights=weights, input_shape=(size, size, 3), **spec.arguments)


def _filled(spec: BackboneSpec, weights: str, size: int, precision: Precision, weights_seed: int) -> keras.Model:
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
    """Cut off the rescaling with which `model` begins: all before the first operation with a kernel, or its padding."""
    operations = model.operations
    first = next(index for index, operation in enumerate(operations) if has_kernel(operation))
    if isinstance(operations[first - 1], keras.layers.ZeroPadding2D):
        first -= 1
    rest = keras.Model(operations[first].input, model.output, name=model.name)
    copied = keras.models.clone_model(rest)  # `rest` shares its layers with `model`, so they have several outputs
    copied.set_weights(rest.get_weights())
    return copied


def _own_settings(name: str, weights: str, rescale: str) -> str:
    """Check the options that a `.keras` file restricts. Return the file in place of `weights`, else `weights`."""
    if not is_own(name):
        return weights
    if weights != "imagenet":
        raise OptionError(
            f"--weights {weights}: {name} holds its own weights; leave out --weights and HEADSTART_WEIGHTS"
        )
    if rescale == "auto":
        ranges = ", ".join(kind for kind in get_args(Rescale) if kind != "auto")
        raise OptionError(f"--backbone {name}: say with --rescale which pixels it takes: {ranges}")
    return name


def _size(name: str, image_size: int) -> int:
    own = outline(name).image_size
    if is_own(name) and not (own or image_size):
        raise OptionError(f"--backbone {name}: takes images of any size; say with --image-size which, in pixels")
    if is_own(name) and own and image_size not in (0, own):
        raise OptionError(f"--image-size {image_size}: {name} takes images of {own} x {own} alone")
    return image_size or own


def _facts(name: str, model: keras.Model) -> BackboneFacts:
    renamed = {} if is_own(name) else BACKBONES[name].names
    cuts = cut_indices(model, is_own(name), renamed)
    return BackboneFacts(_digest(name, model), {cut: tuple(output_of(model, at).shape[1:]) for cut, at in cuts.items()})


def _digest(name: str, model: keras.Model) -> str:
    if is_own(name):
        return load_own(Path(name)).digest
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
