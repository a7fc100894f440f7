"""The fast form of a fine-tuned classifier."""

from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.graph import multiply_adds
from headstart.features.frozen.engines import (
    ConversionError,
    converted,
    openvino_batch_size,
    openvino_passes,
    uses_openvino,
)
from headstart.features.frozen.frozen import FrozenBackbone, default_batch_size, pass_of, passes_at_once, traced_model
from headstart.features.tensorflow import keras
from headstart.features.terminal import console

_FEATURES, _LOGITS = Cut("classifier", "features"), Cut("classifier", "logits")


def freeze_classifier(classifier: keras.Model, batch_size: int = 0) -> FrozenBackbone:
    """Build the fast form of a classifier, or of a model from `with_features`. Its last cut holds the logits.

    OpenVINO runs it in float32, if it can. `batch_size` 0 chooses as `frozen.freeze` does.
    """
    size, cuts = classifier.input_shape[1], [_FEATURES, _LOGITS][-len(classifier.outputs) :]
    if uses_openvino("float32", None):
        at_once = batch_size or openvino_batch_size(multiply_adds(classifier))
        try:
            model = converted(traced_model(classifier, at_once, compiled=False))
            return FrozenBackbone(openvino_passes(model, len(cuts), size, at_once, "f32"), cuts, size, at_once)
        except ConversionError as error:
            console.print(f"{error}: TensorFlow makes the same predictions, but takes longer")
    at_once = batch_size or default_batch_size()
    # Passes that share a graph with shortcuts mix them up; see `frozen._passes`.
    passes = [pass_of(traced_model(classifier, at_once)) for _ in range(passes_at_once())]
    return FrozenBackbone(passes, cuts, size, at_once)
