"""The fast form of a frozen backbone: one graph with the weights as constants, one batch shape."""

import os
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from features.backbones import Backbone, Precision


class FrozenBackbone:
    """A backbone whose weights can't change: uint8 [b, H, W, 3] to float32 [b, D] a cut.

    Folding the variables into constants lets TensorFlow fuse batch normalisation and relu into the convolutions.
    A batch smaller than `batch_size` is filled up with zeros, so that an image's features do not depend on how many
    others came with it.
    """

    def __init__(self, backbone: Backbone, cuts: Sequence[str], batch_size: int = 32) -> None:
        self.backbone = backbone
        self.cuts = tuple(cuts)
        self.batch_size = batch_size

    @cached_property
    def _graph(self) -> Callable[[tf.Tensor], list[tf.Tensor]]:
        size = self.backbone.image_size
        pixels = keras.Input((size, size, 3), dtype="uint8")
        model = keras.Model(pixels, self.backbone.features(pixels, self.cuts))
        signature = tf.TensorSpec((self.batch_size, size, size, 3), tf.uint8)
        traced = tf.function(lambda batch: model(batch, training=False)).get_concrete_function(signature)
        frozen: Callable[[tf.Tensor], list[tf.Tensor]] = convert_variables_to_constants_v2(traced)
        return frozen

    def warm_up(self) -> None:
        """Build the graph and run it once on zeros, so that what follows can be timed."""
        size = self.backbone.image_size
        self(np.zeros((self.batch_size, size, size, 3), np.uint8))

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Run the frozen network on uint8 [b, H, W, 3], b at most `batch_size`; float32 [b, D] for each cut."""
        count = len(pixels)
        missing = self.batch_size - count
        if missing:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        outputs = self._graph(tf.constant(pixels))
        return {cut: output.numpy()[:count] for cut, output in zip(self.cuts, outputs, strict=True)}


def resolve_precision(precision: Literal["auto", "float32", "bfloat16"]) -> Precision:
    """What `auto` means on this machine: bfloat16 where a product of two matrices gains by it, else float32.

    A small product is timed rather than a processor flag read: some machines have the instructions and lose by them.
    """
    if precision != "auto":
        return precision
    full, reduced = _product_seconds(tf.float32, tf.bfloat16)
    return "bfloat16" if reduced < 0.7 * full else "float32"


def _product_seconds(*dtypes: tf.DType, side: int = 1024, tries: int = 12) -> list[float]:
    """The least time of a matrix product in each of `dtypes`.

    They take turns, so that another process slows all alike: a verdict that changed from one command to the next
    would mean another fingerprint, and all features anew.
    """
    uniform = tf.random.stateless_uniform((side, side), seed=(0, 0))
    matrices = [tf.cast(uniform, dtype) for dtype in dtypes]
    seconds: list[list[float]] = [[] for _ in dtypes]
    for _ in range(tries):
        for matrix, times in zip(matrices, seconds, strict=True):
            start = time.perf_counter()
            tf.matmul(matrix, matrix).numpy()
            times.append(time.perf_counter() - start)
    return [min(times) for times in seconds]


def use_device() -> str:
    """Let the GPU's memory grow with need, and name the device in use."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # already in use by this process, and so already set
            break
    return f"GPU, {tf.config.experimental.get_device_details(gpus[0]).get('device_name', gpus[0].name)}"


def make_deterministic(layers: Sequence[keras.Layer] = ()) -> None:
    """Make operations on a GPU give the same result each time, if all that trains `layers` can.

    Depthwise convolutions have no deterministic gradient on a GPU (TensorFlow 2.21) and would fail instead.
    """
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    if tf.config.list_physical_devices("GPU") and not any(isinstance(layer, depthwise) for layer in layers):
        tf.config.experimental.enable_op_determinism()
