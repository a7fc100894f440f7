"""EfficientNet-Lite0, whose ImageNet weights are part of headstart.

The network is EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation, with ReLU6 in place
of swish, as in TensorFlow's `tpu/models/official/efficientnet/lite`. `shipped/README.md` names the weights' source.
"""

from headstart.features.backbones.shipped.reading import shipped_weights
from headstart.features.tensorflow import keras

layers = keras.layers

# Repeats, kernel size, stride, expansion and width of each stage: table 1 of the paper.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def build_efficientnet_lite0(
    include_top: bool = False, weights: str | None = "imagenet", input_shape: tuple[int, int, int] = (224, 224, 3)
) -> keras.Model:
    """Build EfficientNet-Lite0. The arguments are those of the builders in `keras.applications`.

    The model maps float32 [B, H, W, 3] in (-1, 1] to [B, H/32, W/32, 1280]. `weights` is `imagenet` for the shipped
    weights, or None for Keras's initial weights.

    Raises ValueError if `weights` has any other value, or if `include_top` is true. Raises WeightsError if the file of
    the shipped weights is missing or damaged.
    """
    if include_top or weights not in ("imagenet", None):
        raise ValueError("EfficientNet-Lite0 has no top, and takes the weights `imagenet` or None")
    image = x = keras.Input(input_shape)
    x = _convolution(x, "stem", 32, 3, 2)
    number = 0
    for repeats, kernel, stride, expansion, width in _STAGES:
        for repeat in range(repeats):
            x = _block(x, f"b{number}", kernel, stride if repeat == 0 else 1, expansion, width)
            number += 1
    x = _convolution(x, "top", 1280, 1, 1)
    model = keras.Model(image, x, name="efficientnet_lite0")
    if weights:
        _fill(model)
    return model


def _fill(model: keras.Model) -> None:
    weights = shipped_weights()
    for layer in model.layers:
        layer.set_weights([weights[f"{layer.name}/{variable.name}"] for variable in layer.weights])


def _convolution(x: keras.KerasTensor, name: str, width: int, kernel: int, stride: int) -> keras.KerasTensor:
    x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return _activated(x, f"{name}_bn", f"{name}_act")


def _activated(x: keras.KerasTensor, batchnorm: str, activation: str) -> keras.KerasTensor:
    return layers.ReLU(6.0, name=activation)(layers.BatchNormalization(epsilon=1e-3, name=batchnorm)(x))


def _block(x: keras.KerasTensor, name: str, kernel: int, stride: int, expansion: int, width: int) -> keras.KerasTensor:
    """Append an inverted residual block with a linear bottleneck (Sandler et al. 2018, arXiv:1801.04381)."""
    block_input, channels = x, x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(channels * expansion, 1, padding="same", use_bias=False, name=f"{name}_expand")(x)
        x = _activated(x, f"{name}_bn0", f"{name}_act0")
    x = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=f"{name}_dw")(x)
    x = _activated(x, f"{name}_bn1", f"{name}_act1")
    x = layers.Conv2D(width, 1, padding="same", use_bias=False, name=f"{name}_project")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn2")(x)
    return layers.Add(name=f"{name}_add")([block_input, x]) if stride == 1 and channels == width else x
