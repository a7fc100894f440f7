"""Joining backbone and head into a classifier; freezing and saving it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.frozen import frozen_part
from headstart.features.files import written_atomically
from headstart.features.tensorflow import keras


def build_classifier(backbone: Backbone, cuts: Sequence[Cut], head: keras.Model) -> keras.Model:
    """Join a backbone, cut at `cuts`, and a head: uint8 [B, H, W, 3] to logits float32 [B, 1 or classes]."""
    pixels = keras.Input((backbone.image_size, backbone.image_size, 3), dtype="uint8", name="pixels")
    return keras.Model(pixels, head(_joined(backbone.features(pixels, cuts))), name="classifier")


def build_top(backbone: Backbone, from_layer: int, cuts: Sequence[Cut], head: keras.Model) -> keras.Model:
    """The part of a classifier from `from_layer` on.

    It maps the outputs of the layers `backbone.crossing`, float32 [B, H, W, D], to logits. It shares its layers with
    `backbone` and `head`, so training it trains them.
    """
    layers = [backbone.model.layers[index] for index in backbone.crossing(from_layer, cuts)]
    tensors = [keras.Input(layer.output.shape[1:], name=layer.name) for layer in layers]
    features = backbone.features_from(tensors, from_layer, cuts)
    return keras.Model(tensors, head(_joined(features)), name="top")


def build_streamed(backbone: Backbone, from_layer: int, cuts: Sequence[Cut], top: keras.Model) -> keras.Model:
    """Join the fast form of the frozen layers and `top`: uint8 [B, H, W, 3] to logits float32 [B, 1 or classes]."""
    pixels = keras.Input((backbone.image_size, backbone.image_size, 3), dtype="uint8", name="pixels")
    return keras.Model(pixels, top(frozen_part(backbone, backbone.crossing(from_layer, cuts))(pixels)))


def _joined(features: Sequence[Any]) -> Any:
    """The features of all cuts side by side, [B, D]."""
    return features[0] if len(features) == 1 else keras.layers.Concatenate(name="features")(features)


def unfreeze(backbone: Backbone, from_layer: int, thaw_batchnorm: bool) -> None:
    """Make the layers of `backbone` from index `from_layer` on trainable, and freeze the layers below.

    Without `thaw_batchnorm`, the scale, shift and moving statistics of batch normalisation stay frozen. Statistics of
    small batches from another domain would spoil the network (keras.io, "Transfer learning & fine-tuning"). Dropout
    within the backbone is turned off.
    """
    # Each layer is set by itself. To call the backbone with `training=False` would not do: Keras passes the outer
    # model's `training` on to the layers of a nested model.
    for index, layer in enumerate(backbone.model.layers):
        is_batchnorm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= from_layer and (thaw_batchnorm or not is_batchnorm)
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0


def save_for_inference(model: keras.Model, path: Path) -> None:
    """Save `model` as a `.keras` file in one step. Its optimizer, which may be twice as large, is left out."""
    with written_atomically(path) as partial:
        keras.Model(model.input, model.output, name=model.name).save(partial)
