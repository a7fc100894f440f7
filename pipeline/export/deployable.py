"""Build the model that an export holds. The model maps pixels to probabilities. All formats get the same model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from headstart.features.backbones.graph import nested_layers
from headstart.features.frozen.folding import fold_batchnorm, in_float32
from headstart.features.frozen.network import Network
from headstart.features.tensorflow import keras
from headstart.pipeline.classifier import build_classifier

OUTPUT = "probabilities"


@dataclass(frozen=True)
class Deployable:
    """A model to write to a file, and the metadata that the file holds.

    `model` maps pixels, uint8 [B, S, S, 3], to probabilities, float32 [B, C] with C >= 2. The probabilities are
    calibrated if the run has a calibration. The model computes in float32. Dropout is inactive, and batch normalisation
    is folded into convolutions where possible.
    """

    model: keras.Model
    metadata: dict[str, str]  # texts; each one is JSON
    image_size: int  # S
    class_names: list[str]


def joined_classifier(networks: Sequence[Network], head: keras.Model) -> keras.Model:
    """Build a classifier from `networks` and from `head`, which takes the features of all networks.

    All networks must take images of the same size. The classifier maps pixels, uint8 [B, S, S, 3], to logits, float32
    [B, 1 or C].
    """
    if len(networks) == 1:
        return build_classifier(networks[0].backbone, networks[0].cuts, head)
    side = networks[0].backbone.image_size
    pixels = keras.Input((side, side, 3), dtype="uint8", name="pixels")
    features = []
    for number, network in enumerate(networks):  # names of layers may recur in another network
        own = keras.Input((side, side, 3), dtype="uint8", name="pixels")
        part = keras.Model(own, network.backbone.features(own, network.cuts), name=f"network_{number}")
        features += keras.tree.flatten(part(pixels))
    return keras.Model(pixels, head(keras.layers.Concatenate(name="features")(features)), name="classifier")


def deployable_model(classifier: keras.Model, temperature: float) -> keras.Model:
    """Return a copy of `classifier` that yields probabilities in place of logits; see `Deployable`."""
    return with_probabilities(_plain(classifier), temperature)


def with_probabilities(classifier: keras.Model, temperature: float) -> keras.Model:
    """Return `classifier` with probabilities, float32 [B, C], in place of its logits, float32 [B, 1 or C].

    Logits are divided by `temperature`. A single logit x gives the probabilities 1 - sigmoid(x) and sigmoid(x). The
    result shares its layers with `classifier`.
    """
    logits = keras.layers.Rescaling(1 / temperature, name="temperature")(classifier.output)
    if logits.shape[-1] > 1:
        return keras.Model(classifier.input, keras.layers.Softmax(name=OUTPUT)(logits), name="classifier")
    second = keras.layers.Activation("sigmoid", name="second")(logits)
    first = keras.layers.Rescaling(-1.0, 1.0, name="first")(second)
    both = keras.layers.Concatenate(name=OUTPUT)([first, second])
    return keras.Model(classifier.input, both, name="classifier")


def _plain(model: keras.Model) -> keras.Model:
    """Copy `model` for inference in float32, with batch normalisation folded into convolutions where possible."""
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    if any(isinstance(layer, keras.Model) for layer in model.layers):
        return _cloned(model)
    if any(layer.compute_dtype != "float32" for layer in nested_layers(model.layers)):
        model = in_float32(model)
    return _cloned(fold_batchnorm(model))


def _cloned(model: keras.Model) -> keras.Model:
    copies = []

    def copy(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return _plain(layer)
        if isinstance(layer, keras.layers.Normalization) and layer.axis == (-1,) and not layer.invert:
            return _rescaling(layer)
        copied = type(layer).from_config(layer.get_config())
        copies.append((layer, copied))
        return copied

    cloned = keras.models.clone_model(model, clone_function=copy)
    for layer, copied in copies:
        if isinstance(layer, keras.Layer) and layer.weights:
            copied.set_weights(layer.get_weights())
    return cloned


def _rescaling(layer: keras.layers.Normalization) -> keras.layers.Rescaling:
    """Return a `Rescaling` that computes the same as `layer`.

    `Normalization` must be replaced because tf2onnx fails on its constants.
    """
    mean, variance = (np.asarray(one, np.float64).reshape(-1) for one in (layer.mean, layer.variance))
    scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return keras.layers.Rescaling(scale.tolist(), (-mean * scale).tolist(), name=layer.name)
