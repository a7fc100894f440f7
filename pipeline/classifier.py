"""Joining backbone and head into a classifier, and saying what of it is trained."""

from collections.abc import Sequence
from pathlib import Path

import keras

from features.backbones import Backbone
from features.files import written_atomically


def build_classifier(
    backbone: Backbone, cuts: Sequence[str], head: keras.Model, training: bool | None = False
) -> keras.Model:
    """Join a backbone, cut at `cuts`, and a head: uint8 [B, H, W, 3] to logits float32 [B, 1 or classes].

    Args:
        training: how the backbone is called: False is inference everywhere; None lets thawed layers train.
    """
    pixels = keras.Input((backbone.image_size, backbone.image_size, 3), dtype="uint8", name="pixels")
    features = backbone.features(pixels, cuts, training)
    joined = features[0] if len(features) == 1 else keras.layers.Concatenate(name="features")(features)  # [B, D]
    return keras.Model(pixels, head(joined), name="classifier")


def unfreeze(backbone: Backbone, from_layer: int, thaw_batchnorm: bool) -> None:
    """Let the layers of `backbone` from index `from_layer` on train; freeze those below.

    Batch normalisation stays frozen, scale, shift and moving statistics, unless `thaw_batchnorm`: the statistics of
    small batches of another domain undo what was learned (keras.io, "Transfer learning & fine-tuning").
    """
    for index, layer in enumerate(backbone.model.layers):
        is_batchnorm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= from_layer and (thaw_batchnorm or not is_batchnorm)
        if thaw_batchnorm and index < from_layer and isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # with training=None it would drop in the frozen part too


def save_for_inference(model: keras.Model, path: Path) -> None:
    """Save `model` as a `.keras` file in one step, without its optimizer, which would double or triple it."""
    with written_atomically(path) as partial:
        keras.Model(model.input, model.output, name=model.name).save(partial)
