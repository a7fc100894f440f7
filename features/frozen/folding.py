"""Folding batch normalisation into the convolutions before it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from headstart.features.backbones.graph import uses_layers_once
from headstart.features.tensorflow import keras


def fold_batchnorm(model: keras.Model, example: Any = None) -> keras.Model:
    """Copy `model` for inference, with batch normalisations folded into the convolutions before them.

    A normalisation is folded only if no other layer reads the output of the convolution. Layers keep their names and
    indices. Folded normalisations and all dropout layers become identity layers. A convolution with a folded
    normalisation stores its weights in its compute precision.

    In reduced precision, rounded weights shift the mean of each output channel. The biases are corrected for this shift
    (Nagel et al. 2019, arXiv:1906.04721, section 4.2). The shift is estimated on `example`, an input of `model`,
    [1, H, W, 3], such as a plain grey image. In float32, `example` is not used.
    """
    folded = {layer.name: batchnorm for layer, batchnorm in _convolutions_with_batchnorm(model)}
    identities = {batchnorm.name for batchnorm in folded.values()}
    identities |= {layer.name for layer in model.layers if isinstance(layer, keras.layers.Dropout)}

    def copy(layer: keras.Layer) -> keras.Layer:
        if layer.name in identities:
            return keras.layers.Identity(name=layer.name, dtype=layer.compute_dtype)
        config = layer.get_config()
        if layer.name in folded:
            config |= {"use_bias": True, "dtype": layer.compute_dtype}
        return type(layer).from_config(config)

    def call(layer: keras.Layer, *inputs: Any, **arguments: Any) -> Any:
        return layer(*inputs, **({} if layer.name in identities else arguments))

    copied = keras.models.clone_model(model, clone_function=copy, call_function=call)
    means = _input_means([layer for layer in model.layers if layer.name in folded], model, example)
    for layer, twin in zip(model.layers, copied.layers, strict=True):
        if layer.name in folded:
            weights = _folded_weights(layer, folded[layer.name])
            twin.set_weights(weights)
            if layer.name in means:
                rounded = [weight.numpy() for weight in twin.weights[:-1]]
                exact, moved = (_output_mean(layer, kernels, means[layer.name]) for kernels in (weights[:-1], rounded))
                weights[-1] += (exact - moved).astype(np.float32)
                twin.set_weights(weights)
        elif layer.name not in identities:
            twin.set_weights(layer.get_weights())
    return copied


def in_float32(model: keras.Model) -> keras.Model:
    """Copy `model` for float32 arithmetic. Weights that are in bfloat16 keep their rounded values."""

    def copy(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()  # an operation such as a sum has no "dtype"
        return type(layer).from_config(config | ({"dtype": "float32"} if "dtype" in config else {}))

    copied = keras.models.clone_model(model, clone_function=copy)
    for layer, twin in zip(model.layers, copied.layers, strict=True):
        twin.set_weights([weight.astype(np.float32) for weight in layer.get_weights()])
    return copied


def _convolutions_with_batchnorm(model: keras.Model) -> list[tuple[keras.Layer, keras.Layer]]:
    """Return pairs of a convolution and a batch normalisation that is the only reader of the convolution's output."""
    if not uses_layers_once(model):
        return []
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    found = [layer for layer in model.layers if isinstance(layer, convolutions) and _is_plain(layer)]
    uses = Counter(id(tensor) for layer in model.layers for tensor in keras.tree.flatten(layer.input))
    once = {id(layer.output): layer for layer in found if uses[id(layer.output)] == 1}
    normalising = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    pairs = [(once[id(layer.input)], layer) for layer in normalising if id(layer.input) in once]
    return [(convolution, batchnorm) for convolution, batchnorm in pairs if batchnorm.axis in (-1, 3)]


def _is_plain(convolution: keras.Layer) -> bool:
    """Return whether `convolution` has no activation, and no weights except kernels and a bias.

    LoRA, for example, adds other weights.
    """
    count = (2 if isinstance(convolution, keras.layers.SeparableConv2D) else 1) + convolution.use_bias
    return convolution.activation is keras.activations.linear and len(convolution.weights) == count


def _folded_weights(convolution: keras.Layer, batchnorm: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """Return kernels and a bias with which `convolution` also does the work of `batchnorm`.

    The method is that of arXiv:1502.03167, section 3.1.
    """
    scale = 1 / np.sqrt(batchnorm.moving_variance.numpy().astype(np.float64) + batchnorm.epsilon)  # [channels]
    if batchnorm.scale:
        scale *= batchnorm.gamma.numpy()
    kernels = [weight.numpy() for weight in convolution.weights]
    bias = kernels.pop() if convolution.use_bias else 0.0
    shift = (bias - batchnorm.moving_mean.numpy()) * scale
    if batchnorm.center:
        shift += batchnorm.beta.numpy()
    last = kernels.pop()  # [h, w, in, channels]; depthwise [h, w, in, m]; separable: the pointwise kernel
    scale = scale.reshape(last.shape[2:]) if isinstance(convolution, keras.layers.DepthwiseConv2D) else scale
    return [*kernels, (last * scale).astype(np.float32), shift.astype(np.float32)]


def _input_means(convolutions: Sequence[keras.Layer], model: keras.Model, example: Any) -> dict[str, np.ndarray]:
    """Return the mean of each input channel for each convolution that doesn't compute in float32, by layer name."""
    rounding = [layer for layer in convolutions if layer.compute_dtype != "float32"]
    if not rounding:
        return {}
    means = [keras.ops.mean(keras.ops.cast(layer.input, "float32"), axis=(0, 1, 2)) for layer in rounding]
    found = keras.tree.flatten(keras.Model(model.input, means)(example, training=False))
    return {layer.name: np.asarray(mean, np.float64) for layer, mean in zip(rounding, found, strict=True)}


def _output_mean(convolution: keras.Layer, kernels: Sequence[np.ndarray], mean: np.ndarray) -> np.ndarray:
    """Return each output channel's mean, given each input channel's `mean`. Bias and padding are ignored."""
    sums = [kernel.astype(np.float64).sum((0, 1)) for kernel in kernels]
    if not isinstance(convolution, keras.layers.Conv2D):  # depthwise or separable: first each channel alone, [in, m]
        mean = (mean[:, np.newaxis] * sums.pop(0)).reshape(-1)
    for weight in sums:  # [in, out], or [in / groups, out], where each group of outputs has its own inputs
        groups = len(mean) // len(weight)
        parts = zip(np.split(mean, groups), np.split(weight, groups, axis=1), strict=True)
        mean = np.concatenate([inputs @ kernel for inputs, kernel in parts])
    return mean
