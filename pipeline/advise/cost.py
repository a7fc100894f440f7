"""Measure how fast a network is fine-tuned on this machine. Importing this module starts TensorFlow."""

from collections.abc import Sequence
from itertools import cycle, islice

from headstart.features.frozen.network import Network
from headstart.features.tensorflow import keras
from headstart.pipeline.classifier import build_streamed, build_top, unfreeze
from headstart.pipeline.data.examples import Example
from headstart.pipeline.inputs import train_dataset
from headstart.pipeline.training import Progress, compile_model, make_optimizer

_BATCH, _STEPS = 16, 4  # the first step is not timed, because it builds the graph


def training_speed(network: Network, examples: Sequence[Example], classes: int) -> float:
    """Fine-tune `network` for a few steps on some of `examples`. Return the speed in images per second.

    The settings are the defaults of `headstart finetune`. The head is a new dense layer.
    """
    backbone, cuts = network.backbone, network.cuts
    from_layer = backbone.boundary(cuts)
    unfreeze(backbone, from_layer, thaw_batchnorm=False)
    width = sum(backbone.shape(cut)[0] for cut in cuts)
    head = keras.Sequential([keras.Input((width,)), keras.layers.Dense(1 if classes == 2 else classes)])
    model = build_streamed(backbone, from_layer, cuts, build_top(backbone, from_layer, cuts, head))
    compile_model(model, classes, make_optimizer("sgd", 1e-4, momentum=0.9))
    seen = list(islice(cycle(examples), _BATCH * _STEPS))
    speed = Progress(lambda _: None, len(seen), _BATCH)
    batches = train_dataset(seen, network.images, _BATCH, "standard", 0, lambda: 0)
    model.fit(batches, shuffle=False, callbacks=[speed], verbose=0)  # the dataset shuffles
    return speed.examples_per_second
