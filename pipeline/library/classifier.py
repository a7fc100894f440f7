"""The models of a run as one plain Keras model."""

from dataclasses import replace

from headstart.features.frozen.network import Network, load_network
from headstart.features.tensorflow import keras
from headstart.pipeline.classifier import build_classifier
from headstart.pipeline.runs import Run, read_calibration


def join(network: Network, run: Run) -> keras.Model:
    """Join `network` and the head of `run` into one model, which computes in float32.

    The model maps pixels, uint8 [B, S, S, 3], to logits, float32 [B, 1] or [B, C].
    """
    if network.backbone.precision != "float32":
        network = load_network(replace(network.config, precision="float32"), network.extraction)
    width = sum(network.backbone.shape(cut)[0] for cut in network.cuts)
    return build_classifier(network.backbone, network.cuts, run.load_model(run.head_file, (width,)))


def with_probabilities(classifier: keras.Model, run: Run, model: str) -> keras.Model:
    """Return `classifier` with probabilities, float32 [B, C], in place of its logits, float32 [B, 1] or [B, C].

    The logits are divided by the temperature of `model` in `run`, if the run holds one. The result shares its layers
    with `classifier`.
    """
    calibration = read_calibration(run, model)
    logits = keras.layers.Rescaling(1 / calibration.temperature if calibration else 1.0, name="temperature")(
        classifier.output
    )
    if logits.shape[-1] == 1:  # of two classes, the logit is of the second: the softmax of (0, x)
        logits = keras.layers.Concatenate(name="both")([keras.ops.zeros_like(logits), logits])
    return keras.Model(classifier.input, keras.layers.Softmax(name="probabilities")(logits), name="classifier")
