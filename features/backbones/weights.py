"""Building backbones. Weights come from ImageNet or from a file, or are random. This module imports no TensorFlow."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.facts import BackboneFacts, KnownBackbones, backbone_source
from headstart.features.backbones.outlines import cut_places, is_own, outline
from headstart.features.backbones.zoo import RESCALINGS, backbone_spec
from headstart.features.config import Precision, Rescale, Tokens
from headstart.features.errors import OptionError, WeightsError

if TYPE_CHECKING:
    import keras


def build_backbone(
    name: str,
    weights: str = "imagenet",
    rescale: str = "auto",
    image_size: int = 0,
    precision: Precision = "float32",
    weights_seed: int = 0,
    known: KnownBackbones | None = None,
    tokens: Tokens = "mean",
    digest: str | None = None,
) -> Backbone:
    """Build a network and fill it with weights.

    An unknown name, or a size that the network can't take, raises an OptionError. Weights that are missing, corrupt, or
    of another network raise a WeightsError.

    Args:
        name: a name in `zoo.BACKBONES`, or the path of a `.keras` file; see `load_own`.
        weights: `imagenet`, `random`, or the path of a `.weights.h5` or `_notop.h5` file. A `.keras` file
            has its own weights, so only the default `imagenet` is allowed with it.
        rescale: a key of `RESCALINGS`, or `auto` for the key of the ImageNet weights. A `.keras` file needs a key.
        image_size: side of the input in pixels; 0 for the network's default.
        precision: the precision of the arithmetic. Weights stay float32. For int8 the float32 network is built.
        weights_seed: the seed of random weights.
        known: facts about networks. If it has the facts of this network, the Keras model is built at its first use.
        tokens: what stands for an image's tokens, [N, D]: `mean` is the tokens' mean, and `first` is the first token.
        digest: the digest of the weights. If given, no weights are read, and the backbone can only make fingerprints.
    """
    settings = _settings(name, weights, rescale, image_size, weights_seed)
    _, weights, size, _ = settings
    source = backbone_source(*settings)
    recalled = known.recall(source) if known else None
    if recalled and list(recalled.shapes) != list(outline(name).cuts):
        recalled = None

    @functools.cache
    def load() -> keras.Model:
        model = _model(name, weights, size, precision, weights_seed)
        if recalled and _digest(name, model) != recalled.weights_digest:
            raise WeightsError(
                f"--weights {weights}: changed since this command began, or since the store's backbones.json was "
                "written; run `headstart features DATA --rehash`, then repeat the command"
            )
        return model

    facts = recalled or (_facts(name, load()) if digest is None else _facts_without(name, size, digest, known))
    if known and not recalled and digest is None and backbone_source(*settings) == source:
        known.save(facts, source)
    rescaling = RESCALINGS[backbone_spec(name).rescaling if rescale == "auto" else rescale]
    return Backbone(name, load, rescaling, size, precision, facts.weights_digest, facts.shapes, tokens=tokens)


def is_known(name: str, weights: str, rescale: str, image_size: int, weights_seed: int, known: KnownBackbones) -> bool:
    """Return whether `known` has the facts of a network. With them, `build_backbone` need not build the network."""
    source = backbone_source(*_settings(name, weights, rescale, image_size, weights_seed))
    return known.recall(source) is not None


def _settings(name: str, weights: str, rescale: str, image_size: int, weights_seed: int) -> tuple[str, str, int, int]:
    return name, _weights_of(name, weights, rescale), _size(name, image_size), weights_seed


def _model(name: str, weights: str, size: int, precision: Precision, weights_seed: int) -> keras.Model:
    if is_own(name):
        from headstart.features.backbones.own import at_size, load_own

        return at_size(load_own(Path(name)).model, name, size, precision)
    from headstart.features.backbones.models import filled

    return filled(backbone_spec(name), weights, size, precision, weights_seed)


def _weights_of(name: str, weights: str, rescale: str) -> str:
    """Return `name` for a `.keras` file, else `weights`. Raise an OptionError if an option does not suit the file."""
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
    from headstart.features.backbones.graph import output_of

    cuts = cut_places(name, model)
    return BackboneFacts(_digest(name, model), {cut: tuple(output_of(model, at).shape[1:]) for cut, at in cuts.items()})


def _facts_without(name: str, size: int, digest: str, known: KnownBackbones | None) -> BackboneFacts:
    """Return the facts of a network whose weights are not read. Shapes may be for the default size, not for `size`."""
    shapes = known.recall_shapes(name, size) if known else None
    usual = outline(name).cuts
    return BackboneFacts(digest, shapes if shapes and list(shapes) == list(usual) else usual)


def _digest(name: str, model: keras.Model) -> str:
    if is_own(name):
        from headstart.features.backbones.own import load_own

        return load_own(Path(name)).digest
    digest = hashlib.sha256()
    for variable in model.weights:
        value = np.ascontiguousarray(variable.numpy())
        digest.update(f"{value.shape} {value.dtype}".encode())
        digest.update(value.data)
    return digest.hexdigest()
