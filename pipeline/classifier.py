"""Join a backbone and a head into a classifier, take it apart, choose its trainable layers, and save it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.graph import nested_layers
from headstart.features.config import AskedPrecision, FeatureConfig
from headstart.features.errors import RunError
from headstart.features.files import written_atomically
from headstart.features.frozen.frozen import FrozenBackbone, frozen_part
from headstart.features.frozen.network import Network, load_network
from headstart.features.images.scan import ImageFile
from headstart.features.tensorflow import keras
from headstart.pipeline.runs import Run


def build_classifier(backbone: Backbone, cuts: Sequence[Cut], head: keras.Model) -> keras.Model:
    """Build a classifier: `backbone` computes the features at `cuts`, and `head` maps them to logits.

    The classifier maps pixels, uint8 [B, H, W, 3], to logits, float32 [B, 1 or classes].
    """
    pixels = keras.Input((backbone.image_size, backbone.image_size, 3), dtype="uint8", name="pixels")
    return keras.Model(pixels, head(_joined(backbone.features(pixels, cuts))), name="classifier")


def build_top(backbone: Backbone, from_layer: int, cuts: Sequence[Cut], head: keras.Model) -> keras.Model:
    """Build the upper part of a classifier: the layers of `backbone` from index `from_layer`, and `head` above them.

    `head` takes the features at `cuts`. The result takes the outputs of the operations that `backbone.crossing` lists,
    float32 [B, ...], and returns logits. Training the result also trains `backbone` and `head`. Raises OptionError if
    the network uses a layer twice.
    """
    below = [backbone.model.operations[index] for index in backbone.crossing(from_layer, cuts)]
    tensors = [keras.Input(operation.output.shape[1:], name=operation.name) for operation in below]
    features = backbone.features_from(tensors, from_layer, cuts)
    return keras.Model(tensors, head(_joined(features)), name="top")


def build_streamed(backbone: Backbone, from_layer: int, cuts: Sequence[Cut], top: keras.Model) -> keras.Model:
    """Build a whole classifier. `top` is the result of `build_top` for the same `backbone`, `from_layer` and `cuts`.

    The classifier maps pixels, uint8 [B, H, W, 3], to logits. Its lower part, the layer `frozen`, has the layers of
    `backbone` below index `from_layer` in their fast form; see `frozen_part`.
    """
    pixels = keras.Input((backbone.image_size, backbone.image_size, 3), dtype="uint8", name="pixels")
    return keras.Model(pixels, top(frozen_part(backbone, backbone.crossing(from_layer, cuts))(pixels)))


def with_features(model: keras.Model) -> keras.Model:
    """Return a model with two outputs: the features [B, D] that the head of `model` takes, and the logits of `model`.

    `model` is a classifier, or the upper part of a classifier, so its last layer is the head. The returned model shares
    its layers with `model`.
    """
    head, call, _ = model.output._keras_history  # `head.input` would be the head's own input
    (features,) = head._inbound_nodes[call].input_tensors
    return keras.Model(model.inputs, [features, model.output])


def _joined(features: Sequence[Any]) -> Any:
    """Join `features` along the last axis, and return one tensor. `features` holds a tensor [B, D] for each cut."""
    return features[0] if len(features) == 1 else keras.layers.Concatenate(name="features")(features)


def take_apart(classifier: keras.Model, network: Network) -> tuple[Network, keras.Model]:
    """Take a fine-tuned `classifier` apart. Return two things: a network with the classifier's weights, and the head.

    `network` is the network of the run, before fine-tuning. The returned network has the settings of `network`, with
    the precision float32 in place of int8. Raises RunError if the classifier does not fit `network`.
    """
    # The quantised form of `network` has the weights from before fine-tuning.
    precision = classifier_precision(network.config)
    trained = load_network(replace(network.config, precision=precision), network.extraction)
    backbone = trained.backbone
    nested = [layer for layer in classifier.layers if isinstance(layer, keras.Model)]
    try:
        inner, head = nested
        model = keras.Model(backbone.model.input, [backbone.output(cut) for cut in trained.cuts])
        model.set_weights(inner.get_weights())
    except ValueError as error:
        raise RunError(f"its classifier is no {backbone.name} with a head ({str(error).splitlines()[0]})") from error
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).data)
    return replace(trained, backbone=replace(backbone, weights_digest=digest.hexdigest())), head


def classifier_precision(config: FeatureConfig) -> AskedPrecision:
    """Return the precision in which a fine-tuned classifier runs. `config` holds the settings of the run's network."""
    return "float32" if config.precision == "int8" else config.precision


@dataclass(frozen=True)
class FrozenClassifier:
    """A fine-tuned classifier whose backbone runs in its fast form."""

    network: Network
    backbone: FrozenBackbone
    head: keras.Model

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Map pixels, uint8 [b, size, size, 3], to logits, float32 [b, 1 or C]."""
        return self._of_features(self.backbone(pixels))

    def logits(
        self,
        images: Sequence[ImageFile],
        advance: Callable[[int], None],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the logits of `images`. Stop early when `is_stopped` returns true.

        Returns two arrays. The first array, int64 [n], holds the positions of the images that could be decoded,
        ascending. The second array, float32 [n, 1 or C], holds the logits of these images. After each batch, `advance`
        is called with the number of images just finished.
        """
        from headstart.features.images.batches import decoded_batches

        found, rows = [np.zeros(0, np.int64)], list[np.ndarray]()
        batches = decoded_batches(images, self.network.images, self.backbone.images_per_pass)
        for positions, features in self.backbone.stream(batches):
            found.append(positions)
            rows.append(self._of_features(features))
            advance(len(positions))
            if is_stopped():
                break
        return np.concatenate(found), np.concatenate(rows or [np.zeros((0, 1), np.float32)])

    def _of_features(self, features: Mapping[Cut, np.ndarray]) -> np.ndarray:
        joined = np.concatenate([features[cut] for cut in self.network.cuts], axis=1)
        logits: np.ndarray = self.head.predict_on_batch(joined)
        return logits


def freeze_in_parts(run: Run, network: Network) -> FrozenClassifier:
    """Load the fine-tuned classifier of `run`, and build the fast form of the classifier's backbone.

    `network` is the network of `run`, before fine-tuning. Errors: see `take_apart`.
    """
    side = network.images.size
    trained, head = take_apart(run.load_model(run.classifier_file, (side, side, 3)), network)
    return FrozenClassifier(trained, trained.freeze(), head)


def unfreeze(backbone: Backbone, from_layer: int, thaw_batchnorm: bool) -> None:
    """Freeze the layers of `backbone` below index `from_layer`, and make all other layers trainable.

    If `thaw_batchnorm` is false, all batch normalisation is frozen: scale, shift and moving statistics. All dropout
    layers of `backbone` get the rate 0.
    """
    # Statistics of small batches from another domain would spoil the network (keras.io, "Transfer learning &
    # fine-tuning").
    # Each layer is set on its own. Calling the backbone with `training=False` would not suffice: Keras passes the outer
    # model's `training` on to the layers of a nested model.
    for layer in nested_layers(backbone.model.operations):
        layer.trainable = False
    for layer in trained_layers(backbone, from_layer):
        is_batchnorm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = thaw_batchnorm or not is_batchnorm
    for layer in nested_layers(backbone.model.operations):
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0


def trained_layers(backbone: Backbone, from_layer: int) -> list[keras.Layer]:
    """Return the layers of `backbone` from index `from_layer` on. A nested model is replaced by its layers."""
    return list(nested_layers(backbone.model.operations[from_layer:]))


def save_for_inference(model: keras.Model, path: Path) -> None:
    """Save `model` atomically as a `.keras` file.

    The optimizer state is left out. It may be twice as large as the weights of `model`.
    """
    with written_atomically(path) as partial:
        keras.Model(model.input, model.output, name=model.name).save(partial)
