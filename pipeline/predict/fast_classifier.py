"""Prepare a fine-tuned classifier for fast forward passes."""

import os
from collections.abc import Callable
from pathlib import Path

from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.graph import multiply_adds
from headstart.features.files import sha256_of
from headstart.features.frozen.engines import (
    ConversionError,
    converted,
    openvino_batch_size,
    openvino_passes,
    uses_openvino,
)
from headstart.features.frozen.frozen import FrozenBackbone, default_batch_size, pass_of, passes_at_once, traced_model
from headstart.features.frozen.kept import KeptNetwork
from headstart.features.tensorflow import keras
from headstart.features.terminal import console

_FEATURES, _LOGITS = Cut("classifier", "features"), Cut("classifier", "logits")


def freeze_whole(
    file: Path, load: Callable[[], keras.Model], outputs: int, image_size: int, batch_size: int, store: Path | None
) -> FrozenBackbone:
    """Return a classifier, which is backbone and head together, in a form for fast forward passes.

    OpenVINO runs the classifier in float32. If there is a GPU, or if OpenVINO is missing or can't convert the
    classifier, TensorFlow runs the classifier.

    Args:
        file: the file of the classifier.
        load: loads the classifier from `file`.
        outputs: the number of the classifier's outputs. With 1, the output is the logits. With 2, the first output is
            the head's inputs, and the second is the logits.
        image_size: height and width of the classifier's input, in pixels.
        batch_size: images per forward pass. 0 means `openvino_batch_size` with OpenVINO, else `default_batch_size`.
        store: a store that keeps the converted classifier, so that the next command need not convert it.
    """
    cuts = [_FEATURES, _LOGITS][-outputs:]
    if not uses_openvino("float32", None):
        return _by_tensorflow(load(), cuts, image_size, batch_size)
    decides = {"classifier": sha256_of(file), "outputs": outputs, "batch_size": batch_size}
    kept = KeptNetwork.of(store, "classifier", decides) if store else None
    model = kept.read() if kept else None
    if model is None:
        classifier = load()
        at_once = batch_size or openvino_batch_size(multiply_adds(classifier))
        try:
            model = converted(traced_model(classifier, at_once, compiled=False))
        except ConversionError as error:
            console.print(f"{error}: TensorFlow makes the same predictions, but takes longer")
            return _by_tensorflow(classifier, cuts, image_size, batch_size)
        if kept and os.access(kept.root, os.W_OK):
            kept.write(model)
    at_once = int(model.input(0).shape[0])
    return FrozenBackbone(openvino_passes(model, len(cuts), image_size, at_once, "f32"), cuts, image_size, at_once)


def _by_tensorflow(classifier: keras.Model, cuts: list[Cut], image_size: int, batch_size: int) -> FrozenBackbone:
    at_once = batch_size or default_batch_size()
    # Each pass has its own graph, because passes that share one may give wrong results; see `frozen._passes`.
    passes = [pass_of(traced_model(classifier, at_once)) for _ in range(passes_at_once())]
    return FrozenBackbone(passes, cuts, image_size, at_once)
